"""Bring the project to a newer version, and back where that does not answer: `make upgrade`.

    make upgrade               the newest of this branch
    make upgrade TO=v0.2.0     a tag, a branch or a commit

What the stack keeps is copied first (`sparkstack backup`), and its images are kept under the tag `before-upgrade`. Then
the code moves, and `make up` starts it and waits for a token. Should that fail, code, images and data are put back and
the old version is started again. Standard library only; git and make do the work.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from failures import SetupError

ROOT = Path(__file__).resolve().parent.parent
KEPT_TAG = "before-upgrade"
KEPT_SNAPSHOTS = 3
SNAPSHOT = "before-upgrade-"
OWN = "sparkstack/"


@dataclass(frozen=True)
class Place:
    """Where the code stands.

    Args:
        branch: empty where none is checked out.
    """

    commit: str
    branch: str


def main(arguments: Sequence[str]) -> int:
    """Upgrade; 0 when the new version answers, 1 when nothing was changed, 3 when the old one is back."""
    parser = argparse.ArgumentParser(prog="upgrade.py", description=__doc__.splitlines()[0])
    parser.add_argument("--to", default=os.environ.get("TO", ""), help="a tag, a branch or a commit [TO]")
    options = parser.parse_args(arguments)
    try:
        return upgrade(options.to.strip())
    except SetupError as error:
        print(f"upgrade: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nupgrade: interrupted; `git status` says where the code stands, `make up` starts it", file=sys.stderr)
        return 1


def upgrade(wanted: str) -> int:
    """Move to a version, and back where it does not answer.

    Raises:
        SetupError: it can't begin; nothing was changed.
    """
    check_tree()
    old = here()
    new = find_target(wanted)
    if new == old.commit:
        say(f"nothing to do: {name_of(new)} is here already")
        return 0
    say(f"from {name_of(old.commit)} to {name_of(new)}")
    was_running = is_running()
    snapshot = take_snapshot()
    images = keep_images()
    move(old, new, wanted)
    if answers(was_running):
        forget_old_snapshots()
        say(f"{name_of(new)} is here{' and answers' if was_running else '; `make up` starts it'}")
        return 0
    say("the new version does not answer: going back")
    go_back(old, snapshot, images, was_running)
    return 3


# --- the code


def check_tree() -> None:
    """Check that this is a clean checkout.

    Raises:
        SetupError: it isn't.
    """
    if run("git", "rev-parse", "--git-dir") is None:
        raise SetupError("this folder is no git checkout; get the new version the way you got this one, and `make up`")
    changed = asked("git", "diff", "--name-only", "HEAD").splitlines()
    if changed:
        files = ", ".join(changed[:5])
        raise SetupError(f"files of the project are changed here ({files}); commit or undo that first")


def here() -> Place:
    """Return where the code stands."""
    return Place(asked("git", "rev-parse", "HEAD"), run("git", "symbolic-ref", "--quiet", "--short", "HEAD") or "")


def find_target(wanted: str) -> str:
    """Return the commit to go to; it is fetched first, but with OFFLINE=1.

    Raises:
        SetupError: there is no such version.
    """
    if not is_offline() and run("git", "remote"):
        say("asking for new versions …")
        if run("git", "fetch", "--quiet", "--tags", shown=True) is None:
            raise SetupError("new versions can't be fetched (above); OFFLINE=1 goes to one that is here: TO=NAME")
    if wanted:
        names = (f"refs/tags/{wanted}", f"refs/remotes/origin/{wanted}", wanted)
        found = next(
            (commit for name in names if (commit := run("git", "rev-parse", "--quiet", "--verify", f"{name}^0"))), ""
        )
        if not found:
            raise SetupError(f"TO={wanted}: there is no such tag, branch or commit")
        return found
    upstream = run("git", "rev-parse", "--quiet", "--verify", "@{upstream}^0")
    if not upstream:
        raise SetupError("this branch follows no other, so there is no newest version; name one: make upgrade TO=NAME")
    return upstream


def move(old: Place, new: str, wanted: str) -> None:
    """Check the new version out: by a fast-forward of the branch, or of a version that was named, on no branch.

    Raises:
        SetupError: git refuses; nothing was changed.
    """
    command = (
        ["git", "checkout", "--quiet", "--detach", new] if wanted else ["git", "merge", "--quiet", "--ff-only", new]
    )
    if run(*command, shown=True) is None:
        where = old.branch or old.commit[:12]
        raise SetupError(f"git can't go there from {where} (above): the branch may have commits of its own")


def name_of(commit: str) -> str:
    """Return a version as a person knows it."""
    return run("git", "describe", "--tags", "--always", commit) or commit[:12]


# --- what the stack keeps


def is_running() -> bool:
    """Say whether the stack was started here."""
    return state_of("stack.json") != {}


def take_snapshot() -> Path | None:
    """Keep what the stack could not get again; None where there is nothing yet.

    Raises:
        SetupError: that can't be done.
    """
    if not sparkstack().is_file() or not state().is_dir():
        return None
    folder = state() / "backups" / f"{SNAPSHOT}{time.strftime('%Y-%m-%dT%H-%M-%S')}"
    if run(str(sparkstack()), "backup", "--to", str(folder), shown=True) is None:
        raise SetupError("what the stack keeps can't be copied (above); nothing was changed")
    return folder


def keep_images() -> list[str]:
    """Keep the stack's images under another tag, so that a build does not take their place; return their names."""
    if state_of("stack.json").get("mode") != "compose":
        return []
    listed = run("docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", f"{OWN}*") or ""
    version = current_version()
    names = [name for name in listed.split() if name.endswith(f":{version}")]
    for name in names:
        run("docker", "tag", name, f"{name.partition(':')[0]}:{KEPT_TAG}")
    return names


def go_back(old: Place, snapshot: Path | None, images: list[str], was_running: bool) -> None:
    """Put code, images and data back, and start the old version.

    Raises:
        SetupError: that fails; with what to do by hand.
    """
    run("make", "down", shown=True)
    back = (
        ["git", "checkout", "--quiet", old.branch]
        if old.branch
        else ["git", "checkout", "--quiet", "--detach", old.commit]
    )
    if run(*back, shown=True) is None or run("git", "reset", "--quiet", "--keep", old.commit, shown=True) is None:
        raise SetupError(f"the code can't be put back (above): git checkout {old.branch or old.commit}, then `make up`")
    for name in images:
        run("docker", "tag", f"{name.partition(':')[0]}:{KEPT_TAG}", name)
    if run(sys.executable, "scripts/bootstrap.py", "embedded", shown=True) is None:
        raise SetupError("the old version's packages can't be installed (above); `make up` tries again")
    if snapshot is not None:
        command = [str(sparkstack()), "restore", str(snapshot), "--yes", "--no-safety"]
        if run(*command, shown=True) is None:
            raise SetupError(f"the data can't be put back (above): sparkstack restore {snapshot} tries again")
    if was_running and run("make", "up", shown=True) is None:
        raise SetupError("the old version does not start either (above); `make doctor` looks at the machine")
    say(f"{name_of(old.commit)} is back{' and answers' if was_running else ''}; nothing of yours is lost")


def forget_old_snapshots() -> None:
    """Remove snapshots of earlier upgrades but the last few."""
    found = sorted((state() / "backups").glob(f"{SNAPSHOT}*"))
    for folder in found[:-KEPT_SNAPSHOTS]:
        shutil.rmtree(folder, ignore_errors=True)


def answers(was_running: bool) -> bool:
    """Say whether the new version starts and answers; where nothing ran, whether its packages can be installed."""
    if was_running:
        return run("make", "up", shown=True) is not None
    return run(sys.executable, "scripts/bootstrap.py", "embedded", shown=True) is not None


# --- the rest


def sparkstack() -> Path:
    """Return the stack's command line."""
    return ROOT / ".venv" / "bin" / "sparkstack"


def state() -> Path:
    """Return the state folder."""
    named = os.environ.get("SPARKSTACK_STATE", "")
    return Path(named).expanduser() if named else Path(os.environ.get("SPARKSTACK_HOME") or ROOT) / ".state"


def state_of(name: str) -> dict[str, object]:
    """Return a document of the state folder; {} where there is none."""
    with contextlib.suppress(OSError, ValueError):
        document = json.loads((state() / name).read_text(encoding="utf-8"))
        if isinstance(document, dict):
            return document
    return {}


def current_version() -> str:
    """Return the version of the code that is here."""
    text = (ROOT / "services" / "__init__.py").read_text(encoding="utf-8")
    return next(
        (line.partition('"')[2].rstrip('"') for line in text.splitlines() if line.startswith("__version__")), ""
    )


def is_offline() -> bool:
    """Say whether the user forbids the network (OFFLINE=1)."""
    return os.environ.get("OFFLINE", "").lower() in ("1", "true", "yes", "on")


def say(text: str) -> None:
    """Tell a person what happens."""
    print(f"upgrade: {text}", flush=True)


def run(*command: str, shown: bool = False) -> str | None:
    """Run a command in the project's folder and return what it printed, None where it failed.

    Args:
        shown: what it says goes to the person instead.
    """
    # `make upgrade` is itself a make: what it was given must not reach the inner one twice.
    variables = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "TO")
    }
    out = None if shown else subprocess.PIPE
    errors = None if shown else subprocess.DEVNULL
    try:
        done = subprocess.run(command, cwd=ROOT, env=variables, stdout=out, stderr=errors, text=True, check=False)
    except OSError:
        return None
    return (done.stdout or "").strip() if done.returncode == 0 else None


def asked(*command: str) -> str:
    """Return what a command printed.

    Raises:
        SetupError: it failed.
    """
    said = run(*command)
    if said is None:
        raise SetupError(f"`{' '.join(command[:2])}` failed; `git status` may say why")
    return said


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
