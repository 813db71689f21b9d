"""Put a program from Debian's packages on the machine, for the tests and load tests that want one.

    debian.py install chromium     for all users: needs root; found on PATH afterwards
    debian.py unpack nginx         under .venvs/peer-nginx alone: no root, and no service is started
    debian.py unpack prometheus    so, too, and prometheus-alertmanager

It never fails a build: where it can't, it says so and what that leaves out. Standard library only.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 600
# Where a program may be though PATH doesn't say so, and what isn't done without it.
OTHER_FOLDERS = "/usr/sbin:/usr/local/sbin"
LEFT_OUT = {
    "chromium": "the browser test of the gateway's page is skipped",
    "nginx": "the load test leaves nginx out of its table",
    "prometheus": "rules, alerts and queries are not tried on a real Prometheus",
    "prometheus-alertmanager": "Alertmanager's configuration is not checked",
}


def main(arguments: list[str]) -> int:
    """Run the verb. Always 0 but for a wrong command line."""
    if len(arguments) != 2 or arguments[0] not in ("install", "unpack") or arguments[1] not in LEFT_OUT:
        print(__doc__, file=sys.stderr)
        return 1
    verb, package = arguments
    if is_there(package):
        return 0
    problem = install(package) if verb == "install" else unpack(package)
    if problem:
        print(f"NOTE: {package} is not here ({problem}): {LEFT_OUT[package]}.")
    return 0


def is_there(package: str) -> bool:
    """Say whether the program is on PATH or was unpacked."""
    return find(package) is not None


def find(program: str, package: str = "") -> str | None:
    """Return the path of a program: on PATH, or of the package that it was unpacked from (one of its own name)."""
    own = place_of(package or program)
    folders = [os.environ.get("PATH", ""), OTHER_FOLDERS, str(own / "usr/sbin"), str(own / "usr/bin")]
    return shutil.which(program, path=os.pathsep.join(folders))


def place_of(package: str) -> Path:
    """Return the folder that a package is unpacked to."""
    return ROOT / ".venvs" / f"peer-{package}"


def install(package: str) -> str:
    """Install with apt-get; return the problem, "" when it worked."""
    if not shutil.which("apt-get"):
        return f"no apt-get; install {package} the way your system does"
    if os.geteuid() != 0:
        return f"not root; run: sudo apt-get install {package}"
    if os.environ.get("OFFLINE") == "1":
        return "OFFLINE=1"
    print(f"installing Debian's {package}, once (up to {LIMIT_S // 60} minutes) …", flush=True)
    problem = _run(["apt-get", "install", "-qq", "-y", "--no-install-recommends", package])
    return problem and (
        _run(["apt-get", "update", "-qq"])
        or _run(["apt-get", "install", "-qq", "-y", "--no-install-recommends", package])
    )


def unpack(package: str) -> str:
    """Download a package and unpack it; return the problem, "" when it worked."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return f"no apt-get; install {package} the way your system does"
    if os.environ.get("OFFLINE") == "1":
        return "OFFLINE=1"
    with tempfile.TemporaryDirectory() as folder:
        problem = _run(["apt-get", "download", "-qq", package], folder)
        if problem and os.geteuid() == 0:
            problem = _run(["apt-get", "update", "-qq"]) or _run(["apt-get", "download", "-qq", package], folder)
        if problem:
            return problem
        (file,) = Path(folder).glob("*.deb")
        return _run(["dpkg-deb", "--extract", str(file), str(place_of(package))])


def _run(command: list[str], folder: str | None = None) -> str:
    """Run a command in silence; return the last line of what it said when it fails."""
    variables = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=variables, timeout=LIMIT_S, capture_output=True, text=True, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
    return f"{command[0]}: {lines[-1]}" if done.returncode else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
