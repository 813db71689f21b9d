"""The images that a project is made of: which are here, and get those that aren't."""

import contextlib
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from services import __version__
from services.cli.containers.docker import Docker, DockerError
from services.cli.containers.project import OWN_IMAGES, Config, Project
from services.cli.home import Home
from services.kit.files import read_json, write_json

# What own images are made of.
_SOURCES = ("services", "requirements", "scripts/image")
_LOG_LINES = 30
_SUFFIXES = frozenset({".py", ".yaml", ".yml", ".txt", ".html", ".css", ".js", ".json", ".lock", ".Dockerfile", ""})


def look_at(docker: Docker, images: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    """Return what Docker says of each image that is here."""
    names = list(images)
    if not names:
        return {}
    done = docker.run("image", "inspect", *names)
    found: dict[str, Mapping[str, Any]] = {}
    for document in json.loads(done.stdout or b"[]"):
        for name in names:
            if name in (document.get("RepoTags") or ()) or name in (document.get("RepoDigests") or ()):
                found[name] = document
    # By tag and digest at once: it is listed under its digest alone.
    for name in names:
        if name not in found and "@" in name:
            alone = docker.run("image", "inspect", name)
            if alone.returncode == 0:
                found[name] = json.loads(alone.stdout)[0]
    return found


def platform_of(document: Mapping[str, Any]) -> str:
    """Return an image's platform, such as `linux/arm64`; empty where nothing is told."""
    architecture = document.get("Architecture")
    return f"{document.get('Os') or 'linux'}/{architecture}" if architecture else ""


def is_own(image: str) -> bool:
    """Say whether an image is made of this repository."""
    return image.startswith(OWN_IMAGES)


def stale(home: Home, images: Iterable[str], here: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the own images that aren't here, or were made of other code than this folder's."""
    source = source_digest(home.code)
    built = read_json(_record(home))
    return [
        image
        for image in images
        if is_own(image)
        and (image not in here or (_is_current(image) and built.get(image) != [here[image]["Id"], source]))
    ]


def _is_current(image: str) -> bool:
    """Say whether an image is of this folder's version; others, chosen by SPARKSTACK_VERSION, are left as they are."""
    return image.endswith(f":{__version__}")


def build(home: Home, project: Project, images: Sequence[str]) -> None:
    """Make own images of this folder's code, and note of which.

    Raises:
        DockerError: a build failed; it says why above.
    """
    source = source_digest(home.code)
    names = [image.removeprefix(OWN_IMAGES).partition(":")[0] for image in images]
    others = [image for image in images if not _is_current(image)]
    if others:
        raise DockerError(
            f"{', '.join(others)} can't be built: this folder's code is version {__version__}; to run that, leave "
            "SPARKSTACK_VERSION out"
        )
    click.echo(f"building {', '.join(names)} (a minute or two the first time) …")
    command = [sys.executable, str(home.code / "scripts" / "images.py"), "build", *names]
    _run_shown(command, home, project.docker)
    here = look_at(project.docker, images)
    record = _record(home)
    with contextlib.suppress(OSError):  # then they are built again, from Docker's cache
        write_json(record, {**read_json(record), **{name: [here[name]["Id"], source] for name in here}})


def _run_shown(command: Sequence[str], home: Home, docker: Docker) -> None:
    """Run a long command: its progress for a person at a terminal, its end alone elsewhere, and where it fails."""
    log = home.log("build")
    at_terminal = sys.stdout.isatty()
    with log.open("wb") as file:
        out = None if at_terminal else file
        done = subprocess.run(
            command, cwd=home.code, env=dict(docker.variables), stdout=out, stderr=out, stdin=subprocess.DEVNULL,
            check=False,
        )  # fmt: skip
    if done.returncode:
        lines = [] if at_terminal else log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
        why = "\n".join(f"    {line}" for line in lines) or "it says why above"
        raise DockerError(f"the images can't be built (status {done.returncode}):\n{why}")


def pull(project: Project, config: Config, images: Sequence[str]) -> None:
    """Get third-party images, with their progress.

    Raises:
        DockerError: one can't be had; with why, and what to do.
    """
    services = [name for name, service in config.services.items() if service.get("image") in images]
    click.echo(f"getting {', '.join(images)} …")
    try:
        project.show("pull", "--policy", "missing", *services, engines=True)
    except DockerError as error:
        raise DockerError(
            f"{error.message}\nWhat is here already stays, and `make up` goes on from there. Does this machine reach "
            "the image's registry, and does that want a `docker login`? Without a network: docs/upgrading.md"
        ) from None


def get_missing(home: Home, project: Project, config: Config, *, offline: bool) -> None:
    """Build and pull what isn't here, or refuse where nothing may be got.

    Raises:
        DockerError: what can't be had, and what to do.
    """
    images = config.images()
    here = look_at(project.docker, images)
    missing = [image for image in images if image not in here]
    if offline:
        if missing:
            raise DockerError(
                f"OFFLINE=1, and these images are not here: {', '.join(missing)}. `make bundle` on a machine with a "
                "network makes a folder that brings them: BUNDLE=/folder make unbundle"
            )
        return
    own = stale(home, images, here)
    if own:
        build(home, project, own)
    others = [image for image in missing if not is_own(image)]
    if others:
        pull(project, config, others)


def source_digest(code: Path) -> str:
    """Return a digest of all that own images are made of."""
    digest = hashlib.sha256()
    for folder in _SOURCES:
        for path in sorted((code / folder).rglob("*")):
            if path.suffix in _SUFFIXES and path.is_file() and not {"tests", "__pycache__"} & set(path.parts):
                digest.update(str(path.relative_to(code)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _record(home: Home) -> Path:
    """Return where it is noted what images were made of: beside the code, whichever stack's state is elsewhere."""
    return home.code / ".state" / "images.json"
