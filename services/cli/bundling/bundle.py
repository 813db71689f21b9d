"""`sparkstack bundle`: the project, its packages, images and models in a folder, for a machine without a network."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

import click

from services import __version__
from services.cli.containers.docker import Docker
from services.cli.containers.images import get_missing
from services.cli.containers.project import is_offline
from services.cli.containers.up import Plan, make_plan
from services.cli.home import Home, find_home
from services.cli.keeping.backup import any_image
from services.cli.keeping.volumes import find_volumes, save
from services.cli.modes import Mode, choose_mode
from services.kit.digests import DigestWriter, gentle_digest, rate
from services.kit.files import write_json

FORMAT = 1
MANIFEST = "bundle.json"
SOURCE, IMAGES, VOLUMES = "source.tar.gz", "images.tar", "volumes"
_PIECE_BYTES = 1024 * 1024


@dataclass
class Bundle:
    """A folder that is being filled."""

    folder: Path
    files: list[dict[str, object]] = field(default_factory=list)

    def add(self, name: str, write: Callable[[BinaryIO], None], **facts: object) -> None:
        """Write a file, and note its digest.

        Raises:
            OSError: it can't be written.
        """
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            writer = DigestWriter(file)
            write(cast("BinaryIO", writer))
        self.files.append({"path": name, "size_bytes": writer.size_bytes, "sha256": writer.sha256, **facts})

    def note(self, path: Path, mb_per_s: float) -> None:
        """Note a file that is there already."""
        name = str(path.relative_to(self.folder))
        digest = gentle_digest(path, mb_per_s)
        self.files.append({"path": name, "size_bytes": path.stat().st_size, "sha256": digest})

    @property
    def size_bytes(self) -> int:
        """The bytes of all files."""
        return sum(cast("int", entry["size_bytes"]) for entry in self.files)


@click.command()
@click.option("--to", "target", envvar="TO", required=True, type=click.Path(path_type=Path), help="a new folder [TO]")
@click.option("--models/--no-models", default=True, show_default=True, help="with the models that are here")
def bundle(target: Path, *, models: bool) -> None:
    """Put into a folder what a machine without a network needs: copy it there, `make unbundle BUNDLE=/folder`.

    It holds the project, its packages, and where the stack runs as containers the images of the profiles that the
    environment asks for (PROFILE, PROFILES) and the models that are here. It is for machines of this kind alone:
    system, processor, Python.
    """
    home = find_home()
    if is_offline(os.environ):
        raise click.ClickException("OFFLINE=1: a bundle is made where there is a network")
    if target.exists() and any(target.iterdir()):
        raise click.ClickException(f"{target} is not empty; name a new folder: --to /path")
    target.mkdir(parents=True, exist_ok=True)
    mode = choose_mode(home, os.environ)
    started = time.monotonic()
    try:
        made = Bundle(target.absolute())
        environments = add_wheels(home, made, mode)
        made.add(SOURCE, lambda file: _source(home, file))
        images = add_images(home, made, mode, os.environ) if mode.name == "compose" else []
        if mode.name == "compose" and models:
            add_models(made, mode)
    except OSError as error:
        raise click.ClickException(f"{target} can't be written: {error.strerror or error}") from None
    write_json(
        target / MANIFEST,
        {
            "format": FORMAT,
            "version": __version__,
            "machine": machine(),
            "mode": mode.name,
            "environments": environments,
            "images": images,
            "files": made.files,
        },
    )
    click.echo(
        f"{len(made.files)} files, {made.size_bytes / 1e6:,.0f} MB, in {target} ({time.monotonic() - started:.0f} s)"
    )
    click.echo("there: tar xzf source.tar.gz into a folder; in it make unbundle BUNDLE=/this/folder, OFFLINE=1 make up")


def add_wheels(home: Home, made: Bundle, mode: Mode) -> list[str]:
    """Download the packages of the environments that the mode needs; return their names.

    Raises:
        click.ClickException: one can't be had.
    """
    names = ["embedded"] if mode.name == "compose" else ["embedded", "tracking"]
    click.echo(f"getting the packages of {', '.join(names)} …")
    # The environment's own Python has no pip; the one that it was made of can get one.
    python = str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}")
    command = [python, str(home.code / "scripts" / "bundle.py"), "wheels", str(made.folder / "wheels"), *names]
    if subprocess.run(command, cwd=home.code, check=False).returncode:
        raise click.ClickException("the packages can't be had (above)")
    for path in sorted((made.folder / "wheels").iterdir()):
        made.note(path, rate())
    return names


def add_images(home: Home, made: Bundle, mode: Mode, variables: Mapping[str, str]) -> list[str]:
    """Build, pull and keep the images of the profiles that the environment asks for; return their names.

    Raises:
        click.ClickException: one can't be had.
    """
    assert mode.docker is not None
    assert mode.engine is not None
    home.make_folders()
    plan: Plan = make_plan(home, mode.docker, mode.engine, variables)
    get_missing(home, plan.project, plan.config, offline=False)
    images = plan.config.images()
    click.echo(f"keeping {len(images)} images …")
    made.add(IMAGES, lambda file: _saved(mode.docker, images, file))
    return images


def add_models(made: Bundle, mode: Mode) -> None:
    """Keep the volumes that hold models, and what engines have compiled for this kind of machine.

    Raises:
        click.ClickException: one can't be read.
    """
    docker = mode.docker
    assert docker is not None
    from services.cli.containers.project import project_name

    for volume in find_volumes(docker, project_name(docker.variables)):
        if volume.is_cache:
            click.echo(f"keeping the volume {volume.name} …")
            image = any_image(docker)
            made.add(
                f"{VOLUMES}/{volume.key}.tar",
                lambda file, volume=volume, image=image: save(docker, volume, image, file),  # type: ignore[misc]
                volume=volume.key,
                labels=volume.labels,
            )


def machine() -> str:
    """Return what wheels and images are made for: system, processor, Python."""
    return f"{platform.system()} {platform.machine()} Python {sys.version_info[0]}.{sys.version_info[1]}"


def _source(home: Home, file: BinaryIO) -> None:
    command = ["git", "archive", "--format=tar.gz", "HEAD"]
    with subprocess.Popen(command, cwd=home.code, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        _copy(process, file)
    if process.returncode:
        raise click.ClickException("the project's files can't be had from git: a bundle is made in a git checkout")


def _saved(docker: Docker | None, images: list[str], file: BinaryIO) -> None:
    assert docker is not None
    command = [docker.program, "save", *images]
    with subprocess.Popen(
        command, env=dict(docker.variables), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        problem = _copy(process, file)
    if process.returncode:
        raise click.ClickException(f"the images can't be kept: {problem}")


def _copy(process: "subprocess.Popen[bytes]", file: BinaryIO) -> str:
    """Copy what a process writes; return its complaints."""
    assert process.stdout is not None
    assert process.stderr is not None
    while piece := process.stdout.read(_PIECE_BYTES):
        file.write(piece)
    return process.stderr.read().decode("utf-8", "replace").strip()
