"""Wheels for a machine without a network, and how it takes them over. Standard library alone.

    bundle.py wheels FOLDER ENVIRONMENT …    download what the environments' locks name
    bundle.py take FOLDER                    check a bundle's wheels, keep them in .bundle, make .venv of them

`sparkstack bundle` and `sparkstack unbundle` do the rest: images, models, the project itself.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import environments
import installer
from failures import SetupError, explain

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from services.kit.digests import gentle_digest, rate  # noqa: E402  # of this folder, whatever is installed

MANIFEST = "bundle.json"
FORMAT = 1


def main(arguments: Sequence[str]) -> int:
    """Run the verb; 0 when it worked, else 1."""
    parser = argparse.ArgumentParser(prog="bundle.py", description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    wheels = verbs.add_parser("wheels")
    wheels.add_argument("folder", type=Path)
    wheels.add_argument("names", nargs="+", choices=list(environments.ENVIRONMENTS), metavar="ENVIRONMENT")
    take = verbs.add_parser("take")
    take.add_argument("folder", type=Path, nargs="?", default=os.environ.get("BUNDLE") or None)
    options = parser.parse_args(arguments)
    try:
        if options.verb == "wheels":
            download(options.folder, options.names)
        elif options.folder is None:
            raise SetupError("which bundle? make unbundle BUNDLE=/folder")
        else:
            take_over(options.folder)
    except SetupError as error:
        print(f"bundle: {error}", file=sys.stderr)
        return 1
    return 0


def download(folder: Path, names: Sequence[str]) -> None:
    """Download the wheels of environments, and of the installer itself, each checked against its lock.

    Raises:
        SetupError: one can't be had.
    """
    locks = [ROOT / installer.UV_LOCK]
    locks += [path for name in names for path in environments.ENVIRONMENTS[name].lock_files]
    folder.mkdir(parents=True, exist_ok=True)
    (ROOT / ".venvs").mkdir(exist_ok=True)
    with installer.pip(ROOT) as pip:
        for lock in dict.fromkeys(locks):
            command = [*pip, "download", "-qq", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
            command += ["--require-hashes", "--dest", str(folder), "--requirement", str(lock)]
            code, said = installer.run_shown(command, installer.plain_pip())
            if code != 0:
                raise SetupError(explain(said, offline=installer.is_offline()))


def take_over(bundle: Path) -> None:
    """Check a bundle's wheels, keep them here, and make the environment of the command line.

    Raises:
        SetupError: it is none, damaged, or for another kind of machine.
    """
    manifest = read_manifest(bundle)
    here = machine()
    if manifest["machine"] != here:
        raise SetupError(f"{bundle} was made on a machine of the kind {manifest['machine']}, this is {here}")
    try:
        mb_per_s = rate()
    except ValueError as error:
        raise SetupError(str(error)) from None
    started = time.monotonic()
    wheels = [entry for entry in manifest["files"] if entry["path"].startswith("wheels/")]
    print(f"bundle: checking {len(wheels)} wheels …", flush=True)
    for entry in wheels:
        path = bundle / entry["path"]
        if not path.is_file() or gentle_digest(path, mb_per_s) != entry["sha256"]:
            raise SetupError(f"{path} is missing or damaged; copy the bundle again")
    target = ROOT / installer.BUNDLE_FOLDER
    unfinished = target.with_name(target.name + ".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for entry in wheels:
        shutil.copy2(bundle / entry["path"], unfinished)
    shutil.rmtree(target, ignore_errors=True)
    unfinished.rename(target)
    print(f"bundle: wheels are in {target.relative_to(ROOT)} ({time.monotonic() - started:.1f} s)", flush=True)
    os.environ["OFFLINE"] = "1"
    for name in manifest["environments"]:
        if environments.main([name]) != 0:
            raise SetupError(f"the environment {name} can't be made of the bundle's wheels (above)")


def read_manifest(bundle: Path) -> dict[str, object]:
    """Return what a bundle holds.

    Raises:
        SetupError: there is none in the folder, or one that this version can't read.
    """
    try:
        manifest = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise SetupError(f"there is no bundle in {bundle} (no {MANIFEST}); `make bundle` makes one") from None
    if manifest.get("format") != FORMAT:
        raise SetupError(f"{bundle} has the format {manifest.get('format')}; this version reads {FORMAT}")
    return manifest


def machine() -> str:
    """Return what wheels and images are made for: system, processor, Python."""
    return f"{platform.system()} {platform.machine()} Python {sys.version_info[0]}.{sys.version_info[1]}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
