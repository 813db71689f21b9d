"""Fetch uv with pip and run it with pip's configuration, its progress shown. Standard library only."""

import contextlib
import errno
import fcntl
import hashlib
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import tty
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pip_settings
from failures import SetupError, explain

UV_FOLDER = Path(".venvs/uv")
UV_LOCK = Path("requirements/uv.lock")
# Wheels that came by a bundle (bundle.py): where there is no network, they alone are looked at.
BUNDLE_FOLDER = Path(".bundle/wheels")
STAMP = ".sparkstack-stamp"
REMEMBERED_CHARS = 8000


@dataclass(frozen=True)
class Uv:
    """The installer, ready to run: its path and the variables that it gets."""

    path: Path
    variables: dict[str, str]
    no_index: bool = False

    def run(self, *arguments: str, quiet: bool = False) -> None:
        """Run it, with what it says shown; `quiet` leaves out all but errors.

        Raises:
            SetupError: when it ends with an error, with a sentence that says what to do.
        """
        extra = ["--no-index"] if self.no_index and arguments[0] == "pip" else []
        extra += ["--quiet"] if quiet or not sys.stderr.isatty() else []
        code, said = run_shown([str(self.path), *arguments, *extra], self.variables)
        if code != 0:
            raise SetupError(explain(said, offline=is_offline()))


def is_offline() -> bool:
    """Say whether the user forbids the network (OFFLINE=1)."""
    return os.environ.get("OFFLINE", "").lower() in ("1", "true", "yes", "on")


def pinned_uv(root: Path) -> str:
    """Return the version of uv in its lock."""
    match = re.search(r"^uv==(\S+)", (root / UV_LOCK).read_text(encoding="utf-8"), re.MULTILINE)
    return match[1] if match else "?"


def has_uv(root: Path) -> bool:
    """Say whether the pinned uv is here, whole."""
    with contextlib.suppress(OSError):
        return (root / UV_FOLDER / STAMP).read_text(encoding="utf-8") == _uv_digest(root)
    return False


def ensure_uv(root: Path, *, every_place: bool = True) -> Uv:
    """Return uv, fetched by pip if it is not here yet.

    `every_place=False` leaves pip's extra indexes and link folders out: what a lock names should come from
    the index alone.

    Raises:
        SetupError: when this Python has no pip, or pip can't get uv.
    """
    with pip(root) as own_pip:
        if not has_uv(root):
            _fetch_uv(root, own_pip)
        options = pip_settings.read_pip_options(own_pip)
    if not every_place:
        options = {name: value for name, value in options.items() if name not in pip_settings.MORE_PLACES}
    # An activated environment, or a Python named for uv, is not where the packages are to go.
    variables = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "UV_PYTHON")}
    variables |= pip_settings.uv_variables(options, os.environ)
    variables |= {"UV_PYTHON_DOWNLOADS": "never"} | _cache(root)
    variables |= {"UV_OFFLINE": "1"} if is_offline() else {}
    bundle = root / BUNDLE_FOLDER
    if bundle.is_dir():
        places = [variables.get("UV_FIND_LINKS", ""), str(bundle)]
        variables["UV_FIND_LINKS"] = ",".join(place for place in places if place)
    no_index = pip_settings.wants_no_index(options) or (is_offline() and bundle.is_dir())
    return Uv(root / UV_FOLDER / "bin" / "uv", variables, no_index)


def _fetch_uv(root: Path, own_pip: list[str]) -> None:
    new = root / f"{UV_FOLDER}.new"
    shutil.rmtree(new, ignore_errors=True)
    command = [*own_pip, "install", "-qq", "--disable-pip-version-check", "--retries", "2"]
    command += ["--require-hashes", "--no-deps", "--only-binary", ":all:"]
    command += ["--target", str(new), "--requirement", str(root / UV_LOCK)]
    command += ["--no-index"] if is_offline() else []
    command += ["--find-links", str(root / BUNDLE_FOLDER)] if (root / BUNDLE_FOLDER).is_dir() else []
    code, said = run_shown(command, plain_pip())
    if code != 0:
        raise SetupError(explain(said, offline=is_offline()))
    (new / STAMP).write_text(_uv_digest(root), encoding="utf-8")
    shutil.rmtree(root / UV_FOLDER, ignore_errors=True)
    new.replace(root / UV_FOLDER)


def _uv_digest(root: Path) -> str:
    return hashlib.sha256((root / UV_LOCK).read_bytes()).hexdigest()


def plain_pip() -> dict[str, str]:
    """Return the environment for pip without the variables that would send the files elsewhere."""
    unwanted = {"PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_REQUIREMENT", "PIP_CONSTRAINT", "PYTHONPATH"}
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return kept | {"PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"}


@contextlib.contextmanager
def pip(root: Path) -> Iterator[list[str]]:
    """Yield the command of a pip: this Python's own, else one in a throw-away environment.

    Debian's Python may come without pip, without ensurepip (python3-venv), or without both.
    """
    own = [sys.executable, "-m", "pip"]
    if _succeeds([*own, "--version"]):
        yield own
        return
    environments = root / ".venvs"
    environments.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=environments, prefix="pip-") as folder:
        if not _succeeds([sys.executable, "-m", "venv", folder]):
            version = "{}.{}".format(*sys.version_info[:2])
            raise SetupError(
                f"Python {version} ({sys.executable}) has neither pip nor ensurepip to install with.\n"
                f"  Debian, Ubuntu:  sudo apt-get install python3-venv    (or python{version}-venv)\n"
                "  elsewhere:       install pip for this Python\n"
                "Then run the same command again."
            )
        yield [str(Path(folder) / "bin" / "python"), "-m", "pip"]


def _succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=300, env=plain_pip()).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def _cache(root: Path) -> dict[str, str]:
    """Return the variables for uv's downloads: kept as usual, or here when the home folder is read-only."""
    if os.environ.get("UV_CACHE_DIR"):
        return {}
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "uv"
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError:
        return {"UV_CACHE_DIR": str(root / ".venvs" / ".uv-cache")}
    # Across file systems uv can't share files with its cache: say so to it, else it warns each time.
    return {} if home.stat().st_dev == root.stat().st_dev else {"UV_LINK_MODE": "copy"}


def run_shown(command: list[str], variables: dict[str, str]) -> tuple[int, str]:
    """Run a command, show what it says on stderr as it comes, and return its exit code and that text's end.

    On a terminal the command gets a terminal too, so that its progress bars are drawn.
    """
    reader, writer = _terminal() if sys.stderr.isatty() else os.pipe()
    process = subprocess.Popen(command, stderr=writer, stdin=subprocess.DEVNULL, env=variables, close_fds=False)
    os.close(writer)
    said = ""
    try:
        while chunk := _read(reader):
            sys.stderr.buffer.write(chunk)
            sys.stderr.flush()
            said = (said + chunk.decode(errors="replace"))[-REMEMBERED_CHARS:]
    finally:
        code = process.wait()
        os.close(reader)
    return code, said


def _terminal() -> tuple[int, int]:
    reader, writer = pty.openpty()
    columns, lines = shutil.get_terminal_size()
    tty.setraw(writer)  # line ends are made by the terminal that it is shown on
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    return reader, writer


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError as error:
        if error.errno == errno.EIO:  # how Linux says that the other end of a pseudo-terminal was closed
            return b""
        raise
