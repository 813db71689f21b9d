"""`sparkstack unbundle`: take over images and models of a bundle; `make unbundle` has taken the packages before."""

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import click

from services.cli.bundling.bundle import FORMAT, IMAGES, MANIFEST, machine
from services.cli.containers.containers import PROJECT_LABEL, find_containers
from services.cli.containers.docker import Docker
from services.cli.containers.project import project_name
from services.cli.home import find_home
from services.cli.keeping.backup import any_image
from services.cli.keeping.volumes import VOLUME_LABEL, Volume, find_volumes, put_back
from services.cli.modes import choose_mode
from services.kit.digests import gentle_digest, rate
from services.kit.files import read_json


@click.command()
@click.argument("folder", envvar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="also volumes of models that are here already")
def unbundle(folder: Path, *, replace: bool) -> None:
    """Load the images of the bundle in FOLDER into Docker, and put its models where the stack looks for them."""
    manifest = read_bundle(folder)
    if manifest["mode"] != "compose":
        click.echo("the bundle is for processes: nothing more to do; OFFLINE=1 make up")
        return
    home = find_home()
    mode = choose_mode(home, {**os.environ, "MODE": "compose"})
    docker = mode.docker
    assert docker is not None
    check(folder, manifest)
    started = time.monotonic()
    click.echo(f"loading {len(manifest['images'])} images …")
    load(docker, folder / IMAGES)
    for entry in manifest["files"]:
        if "volume" in entry:
            take_volume(docker, folder, entry, replace=replace)
    click.echo(f"taken over ({time.monotonic() - started:.0f} s); start it: OFFLINE=1 make up")


def read_bundle(folder: Path) -> dict[str, Any]:
    """Return what a bundle holds.

    Raises:
        click.ClickException: there is none in the folder, or it is not for this machine.
    """
    manifest = read_json(folder / MANIFEST)
    if not manifest:
        raise click.ClickException(f"there is no bundle in {folder} (no {MANIFEST}); `make bundle` makes one")
    if manifest.get("format") != FORMAT:
        raise click.ClickException(f"{folder} has the format {manifest.get('format')}; this version reads {FORMAT}")
    if manifest["machine"] != machine():
        raise click.ClickException(f"{folder} is for {manifest['machine']}, this is {machine()}")
    return manifest


def check(folder: Path, manifest: dict[str, Any]) -> None:
    """Read images and models, with pauses, and compare them with the manifest.

    Raises:
        click.ClickException: one is missing or another one.
    """
    try:
        mb_per_s = rate()
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    entries = [entry for entry in manifest["files"] if not entry["path"].startswith("wheels/")]
    size = sum(entry["size_bytes"] for entry in entries)
    click.echo(f"checking {size / 1e6:,.0f} MB, at {mb_per_s:g} MB a second at most …")
    for entry in entries:
        path = folder / entry["path"]
        if not path.is_file() or gentle_digest(path, mb_per_s) != entry["sha256"]:
            raise click.ClickException(f"{path} is missing or damaged; copy the bundle again")


def load(docker: Docker, archive: Path) -> None:
    """Load images into Docker.

    Raises:
        click.ClickException: that fails.
    """
    with archive.open("rb") as file:
        done = subprocess.run(
            [docker.program, "load", "--quiet"],
            env=dict(docker.variables),
            stdin=file,
            capture_output=True,
            check=False,
        )
    if done.returncode:
        raise click.ClickException(f"the images can't be loaded: {done.stderr.decode('utf-8', 'replace').strip()}")


def take_volume(docker: Docker, folder: Path, entry: dict[str, Any], *, replace: bool) -> None:
    """Fill a volume, where there is none of its name or it is to be replaced.

    Raises:
        click.ClickException: that fails.
    """
    project = project_name(docker.variables)
    key = entry["volume"]
    known = next((volume for volume in find_volumes(docker, project) if volume.key == key), None)
    if known is not None and not replace:
        click.echo(f"left as it is: the volume {known.name} (--replace takes the bundle's)")
        return
    users = [c.service for c in find_containers(docker, project).values() if known and known.name in c.mounts]
    if users:
        raise click.ClickException(f"the volume of {key} is used by {', '.join(users)}; `make down` first")
    labels = {name: value for name, value in entry["labels"].items() if not name.startswith("com.docker.compose.")}
    labels |= {PROJECT_LABEL: project, VOLUME_LABEL: key}
    put_back(docker, known or Volume(f"{project}_{key}", key, labels), any_image(docker), folder / entry["path"])
    click.echo(f"filled the volume {project}_{key}")
