"""Build the stack's images, tell their sizes, look at those of others.

    images.py build [NAME ...]    build them side by side, tagged with the project's version (`make images`)
    images.py sizes [--write]     say what each weighs above its base; --write: into docs/images.md
    images.py check               are the images that compose takes from others there for arm64? (`make images-check`)

BASE names another image to build on. The Docker that the `docker` command talks to does the work; the rest is standard
library.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from failures import SetupError

ROOT = Path(__file__).resolve().parent.parent
BASE = "python:3.11-slim-bookworm"
DOCUMENT = ROOT / "docs" / "images.md"
BEGIN, END = "<!-- sizes: begin (make images-sizes) -->", "<!-- sizes: end -->"
LIMITS_MB = {"gateway": 60, "rag": 350, "embeddings": 350, "tracking": 900, "mlflow": 900}
"""What an image may weigh above its base."""
PARTS = {"packages": "/opt/sparkstack", "models": "/opt/models", "code": "/srv/sparkstack"}
"""What is in an image, by the folder that its layer is copied to."""
BASE_ARGUMENT = re.compile(r"^ +BASE: (\S+)$", re.MULTILINE)
OWN = "sparkstack.image"
"""The label of the stack's own images."""
WANTED = ("linux/arm64", "linux/amd64")


@dataclass(frozen=True)
class Image:
    """One of the stack's own images."""

    name: str
    dockerfile: Path

    @property
    def tag(self) -> str:
        """Return its name in Docker."""
        return f"sparkstack/{self.name}:{version()}"


@dataclass(frozen=True)
class Size:
    """What an image weighs above its base, in bytes, and which of it is what."""

    name: str
    above: int
    parts: dict[str, int]


def main(arguments: Sequence[str]) -> int:
    """Run the verb; 0 when all is well."""
    parser = argparse.ArgumentParser(prog="images.py", description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    names = [image.name for image in images()]
    building = verbs.add_parser("build")
    building.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    building.add_argument("--no-cache", action="store_true", help="make every layer anew; downloads are kept")
    verbs.add_parser("sizes").add_argument("--write", action="store_true")
    verbs.add_parser("check")
    options = parser.parse_args(arguments)
    try:
        if options.verb == "build":
            build(options.names, anew=options.no_cache)
        elif options.verb == "sizes":
            tell_sizes(write=options.write)
        else:
            return check()
    except SetupError as error:
        print(f"images: {error}", file=sys.stderr)
        return 1
    return 0


def images() -> list[Image]:
    """Return the images: `services/<name>/Dockerfile` or `services/<folder>/<name>.Dockerfile`, by name."""
    found = [Image(path.parent.name.replace("_", "-"), path) for path in ROOT.glob("services/*/Dockerfile")]
    found += [Image(path.stem.replace("_", "-"), path) for path in ROOT.glob("services/*/*.Dockerfile")]
    return sorted(found, key=lambda image: image.name)


def version() -> str:
    """Return the project's version."""
    text = (ROOT / "services" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    assert match
    return match[1]


def base() -> str:
    """Return the image that they are built on."""
    return os.environ.get("BASE") or BASE


def chosen(names: Sequence[str]) -> list[Image]:
    """Return the named images, all where none is named.

    Raises:
        SetupError: there is none of that name.
    """
    every = {image.name: image for image in images()}
    for name in names:
        if name not in every:
            raise SetupError(f"there is no image {name!r}; there are {', '.join(every)}")
    return [every[name] for name in names] or list(every.values())


def build(names: Sequence[str], *, anew: bool = False) -> None:
    """Build images side by side, what they share once.

    Raises:
        SetupError
    """
    wanted = chosen(names)
    file = json.dumps(
        {
            "group": {"default": {"targets": [image.name for image in wanted]}},
            "target": {
                image.name: {
                    "context": str(ROOT),
                    "dockerfile": str(image.dockerfile.relative_to(ROOT)),
                    "tags": [image.tag],
                    "args": {"VERSION": version(), "BASE": base()},
                    "labels": {OWN: image.name},
                    "output": ["type=docker"],
                }
                for image in wanted
            },
        }
    )
    command = ["buildx", "bake", "--file", "-", *(["--no-cache"] if anew else [])]
    if docker(command, said_by_user=file) is None:
        raise SetupError("an image could not be built; the lines above say why")
    # What had these tags before, and no container uses, would stay: gigabytes a week.
    docker(["image", "prune", "--force", "--filter", f"label={OWN}"])


def sizes() -> list[Size]:
    """Return what each image weighs.

    Raises:
        SetupError: one is not built.
    """
    floor = inspected(base(), "{{.Size}}", "it is the base of all")
    return [
        Size(
            image.name,
            int(inspected(image.tag, "{{.Size}}", f"`make images ARGS={image.name}` builds it")) - int(floor),
            parts_of(image.tag),
        )
        for image in images()
    ]


def parts_of(tag: str) -> dict[str, int]:
    """Return the bytes of an image's layers by what they are."""
    listing = asked("history", "--no-trunc", "--human=false", "--format", "{{.Size}} {{.CreatedBy}}", tag)
    found = dict.fromkeys(PARTS, 0)
    for line in listing.splitlines():
        size, _, made_by = line.partition(" ")
        for part, folder in PARTS.items():
            if re.match(rf"COPY {folder}\S* {folder}", made_by):
                found[part] += int(size)
    return found


def tell_sizes(*, write: bool) -> None:
    """Print the table of sizes, or write it.

    Raises:
        SetupError: an image is not built, or weighs too much.
    """
    found = sizes()
    if write:
        text = DOCUMENT.read_text(encoding="utf-8")
        before, rest = text.split(BEGIN)
        DOCUMENT.write_text(f"{before}{BEGIN}\n{table(found)}{END}{rest.split(END)[1]}", encoding="utf-8")
        print(f"images: {DOCUMENT.relative_to(ROOT)} is written")
    else:
        print(table(found), end="")
    heavy = [each for each in found if megabytes(each.above) > LIMITS_MB.get(each.name, sys.maxsize)]
    if heavy:
        raise SetupError("; ".join(f"{each.name} is {megabytes(each.above)} MB above its base" for each in heavy))


def table(found: Sequence[Size]) -> str:
    """Return the table of sizes."""
    lines = ["| image | MB above its base | at most | packages | models | code |", "|---|---|---|---|---|---|"]
    for each in found:
        cells = [each.name, str(megabytes(each.above)), str(LIMITS_MB.get(each.name, "–"))]
        cells += [f"{each.parts[part] / 1e6:.1f}" if each.parts[part] else "–" for part in PARTS]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def megabytes(size: int) -> int:
    """Return a size in whole megabytes."""
    return round(size / 1e6)


def check() -> int:
    """Look at each image that compose takes from others; 1 where one is not there for arm64."""
    missing = []
    for reference in others():
        found = platforms(reference)
        lacking = [platform for platform in WANTED if platform not in found]
        print(f"{reference}: {', '.join(found) or 'not found'}", flush=True)
        if WANTED[0] in lacking:
            missing.append(reference)
    if missing:
        print(f"images: not there for {WANTED[0]}: {', '.join(missing)}", file=sys.stderr)
    return 1 if missing else 0


def others() -> list[str]:
    """Return the images that compose takes from others, and those that ours are built on.

    Raises:
        SetupError
    """
    folder = ROOT / "compose"
    first = folder / "compose.yaml"
    overlays = [path for path in sorted(folder.glob("*.yaml")) if path != first and names_image(path)]
    found = {base()}
    for files in ([first], *([first, overlay] for overlay in overlays)):
        named = [word for path in files for word in ("--file", str(path))]
        listing = asked("compose", *named, "--profile", "*", "config", "--images")
        found |= {line for line in listing.splitlines() if line and not line.startswith("sparkstack/")}
        found |= set(BASE_ARGUMENT.findall(files[-1].read_text(encoding="utf-8")))
    return sorted(found)


def names_image(path: Path) -> bool:
    """Say whether a file of compose changes a service's image; one that is included by another names no stack."""
    return (
        path.name != "engines.yaml"
        and re.search(r"^    image:", path.read_text(encoding="utf-8"), re.MULTILINE) is not None
    )


def platforms(reference: str) -> list[str]:
    """Return the platforms that an image in a registry is made for."""
    manifest = docker(["buildx", "imagetools", "inspect", "--raw", reference], quiet=True)
    if manifest is None:
        return []
    entries = json.loads(manifest).get("manifests")
    if entries is None:  # one image, and its platform stands in its configuration
        one = docker(
            ["buildx", "imagetools", "inspect", "--format", "{{.Image.OS}}/{{.Image.Architecture}}", reference],
            quiet=True,
        )
        return [one.strip()] if one else []
    found = {f"{entry['platform']['os']}/{entry['platform']['architecture']}" for entry in entries}
    return sorted(found - {"unknown/unknown"})  # attestations


def inspected(image: str, template: str, advice: str) -> str:
    """Return what Docker says of an image.

    Raises:
        SetupError: it is not here.
    """
    found = docker(["image", "inspect", "--format", template, image], quiet=True)
    if found is None:
        raise SetupError(f"the image {image} is not here; {advice}")
    return found.strip()


def asked(*arguments: str) -> str:
    """Return what a docker command says.

    Raises:
        SetupError: it fails.
    """
    found = docker(arguments)
    if found is None:
        raise SetupError(f"`docker {' '.join(arguments)}` failed; the lines above say why")
    return found


def docker(arguments: Sequence[str], *, said_by_user: str | None = None, quiet: bool = False) -> str | None:
    """Run a docker command and return what it said; None where it fails.

    Raises:
        SetupError: there is no such command.
    """
    # Progress is for a person, and comes on stderr.
    errors = subprocess.DEVNULL if quiet else None
    try:
        done = subprocess.run(
            ["docker", *arguments], input=said_by_user, stdout=subprocess.PIPE, stderr=errors, text=True, check=False
        )
    except OSError:
        raise SetupError("there is no `docker` command here; https://docs.docker.com/engine/install/ has it") from None
    return done.stdout if done.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
