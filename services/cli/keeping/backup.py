"""`sparkstack backup`: keep what the stack could not get again."""

import os
from datetime import datetime
from functools import partial
from pathlib import Path

import click

from services.cli.containers.docker import Docker
from services.cli.containers.project import OWN_IMAGES, recorded_project
from services.cli.home import Home, find_home
from services.cli.keeping.backup_folder import BackupError, BackupWriter, Manifest
from services.cli.keeping.folders import kept_entries, left_out, write_tar
from services.cli.keeping.pausing import containers_stopped, processes_stopped
from services.cli.keeping.volumes import find_volumes, save
from services.cli.lock import stack_lock
from services.cli.modes import ModeName, choose_mode


@click.command()
@click.option(
    "--to", "target", envvar="TO", default="", metavar="FOLDER", help="a new folder [TO; .state/backups/TIME]"
)
def backup(target: str) -> None:
    """Keep documents, indexes, records, keys and settings in a folder; `sparkstack restore` puts them back.

    Services stand still while their data is copied. Models are left out: they can be got again.
    """
    home = find_home()
    if not home.state.is_dir():
        raise click.ClickException("there is nothing to keep yet; `make up` starts the stack")
    mode = choose_mode(home, os.environ)
    folder = Path(target).expanduser().absolute() if target else new_folder(home, "")
    with stack_lock(home):
        manifest = make_backup(home, mode.name, mode.docker, folder)
    click.echo(f"kept {len(manifest.parts)} parts, {manifest.size_bytes / 1e6:,.0f} MB, in {folder}")
    for sentence in manifest.left_out:
        click.echo(f"left out: {sentence}")


def new_folder(home: Home, prefix: str) -> Path:
    """Return a name for a backup that is made now."""
    now = datetime.now().astimezone().strftime("%Y-%m-%dT%H-%M-%S")
    return home.state / "backups" / f"{prefix}{now}"


def make_backup(home: Home, mode: ModeName, docker: Docker | None, folder: Path) -> Manifest:
    """Make a backup in a new folder.

    Raises:
        click.ClickException: it can't be made; nothing is left of it then, and the services run again.
    """
    writer = BackupWriter(folder)
    try:
        if mode == "compose":
            assert docker is not None
            return _of_containers(home, docker, writer)
        return _of_processes(home, writer)
    except BaseException:
        writer.give_up()
        raise


def _of_processes(home: Home, writer: BackupWriter) -> Manifest:
    with processes_stopped(home):
        _add_entries(home, writer)
    return writer.finish("embedded", "", tuple(left_out(home)))


def _of_containers(home: Home, docker: Docker, writer: BackupWriter) -> Manifest:
    project = recorded_project(home, docker).name
    volumes = find_volumes(docker, project)
    kept = [volume for volume in volumes if not volume.is_cache]
    image = any_image(docker)
    with containers_stopped(home, docker, project, [volume.name for volume in kept]):
        for volume in kept:
            writer.add("volume", volume.key, partial(save, docker, volume, image), volume.labels)
        _add_entries(home, writer)
    caches = [f"the volume {volume.name} (what is in it can be got again)" for volume in volumes if volume.is_cache]
    return writer.finish("compose", project, (*caches, *left_out(home)))


def _add_entries(home: Home, writer: BackupWriter) -> None:
    for entry in kept_entries(home):
        writer.add("folder", entry.name, partial(write_tar, entry))


def any_image(docker: Docker) -> str:
    """Return an image that is here, to hold a volume by.

    Raises:
        BackupError: there is none.
    """
    listed = docker.ask("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", f"{OWN_IMAGES}*").split()
    named = [name for name in listed if not name.endswith(":<none>")]
    if not named:
        raise BackupError("none of the stack's images is here; `make up` once, or `make images`")
    return named[0]
