"""`sparkstack restore`: put a backup back in the place of what is there."""

import os
import sys
import tarfile
from pathlib import Path

import click

from services import __version__
from services.cli.containers.containers import PROJECT_LABEL, find_containers
from services.cli.containers.docker import Docker, version_of
from services.cli.containers.project import recorded_project
from services.cli.home import Home, find_home
from services.cli.keeping.backup import any_image, make_backup, new_folder
from services.cli.keeping.backup_folder import BackupError, Manifest, Part, read_manifest, verify
from services.cli.keeping.folders import ENV, read_tar
from services.cli.keeping.volumes import VOLUME_LABEL, Volume, find_volumes, put_back
from services.cli.modes import ModeName, choose_mode
from services.cli.supervision import Supervisor
from services.kit.digests import rate

_DECLINED = 2
_OF_OTHERS = ("com.docker.compose.project", "com.docker.compose.config-hash", "com.docker.compose.version")


@click.command()
@click.argument("folder", envvar="FROM", type=click.Path(path_type=Path))
@click.option("--yes", is_flag=True, help="don't ask")
@click.option("--no-safety", is_flag=True, help="don't keep what is there now")
@click.pass_context
def restore(ctx: click.Context, folder: Path, *, yes: bool, no_safety: bool) -> None:
    """Replace what the stack keeps by the backup in FOLDER.

    The backup is checked whole first. What is there now is kept in .state/backups/before-restore-TIME, and comes back
    should anything fail. A stack that runs is stopped before, and started after.
    """
    home = find_home()
    mode = choose_mode(home, os.environ)
    manifest = read_manifest(folder)
    check_that_it_fits(manifest, mode.name)
    click.echo(f"checking {len(manifest.parts)} parts, {manifest.size_bytes / 1e6:,.0f} MB …")
    try:
        verify(folder, manifest, rate())
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    names = ", ".join(part.name for part in manifest.parts)
    click.echo(f"of {manifest.made_at}, version {manifest.version}: {names}")
    if not yes and not _agrees():
        raise click.exceptions.Exit(_DECLINED)
    home.make_folders()
    was_running = is_running(home, mode.name, mode.docker)
    if was_running:
        ctx.invoke(_verb("down"))
    put_all_back(home, mode.name, mode.docker, folder, manifest, safety=not no_safety)
    click.echo("restored")
    if was_running:
        # With the keys that were put back, not with those that this process has read.
        os.execv(sys.executable, [sys.executable, "-m", "services.cli.main", "up"])  # noqa: S606


def check_that_it_fits(manifest: Manifest, mode: ModeName) -> None:
    """Check that a backup can be used here.

    Raises:
        BackupError: it is of another mode, or of a newer version.
    """
    if manifest.mode != mode:
        raise BackupError(
            f"the backup is of the mode {manifest.mode}, the stack here is {mode}: each mode keeps its data in its own "
            f"way. MODE={manifest.mode} restores it (`make down` first where a stack runs)"
        )
    if version_of(manifest.version) > version_of(__version__):
        raise BackupError(
            f"the backup is of version {manifest.version}, this is {__version__}: older code may not read newer data; "
            "upgrade first"
        )


def is_running(home: Home, mode: ModeName, docker: Docker | None) -> bool:
    """Say whether anything of the stack runs."""
    if mode == "compose":
        assert docker is not None
        found = find_containers(docker, recorded_project(home, docker).name)
        return any(container.is_up for container in found.values())
    return Supervisor(home).is_running()


def put_all_back(
    home: Home, mode: ModeName, docker: Docker | None, folder: Path, manifest: Manifest, *, safety: bool
) -> None:
    """Put every part back; should one fail, everything comes back as it was.

    Raises:
        BackupError: with what is there now.
    """
    before: Path | None = None
    if safety:
        before = new_folder(home, "before-restore-")
        kept = make_backup(home, mode, docker, before)
        click.echo(f"kept what was there, {kept.size_bytes / 1e6:,.0f} MB, in {before}")
    try:
        for part in manifest.parts:
            _put_back(home, docker, folder, part)
    except (BackupError, OSError, tarfile.TarError) as error:
        if before is None:
            raise BackupError(f"{error}; some parts are the backup's now, others are not") from None
        for part in read_manifest(before).parts:
            _put_back(home, docker, before, part)
        raise BackupError(f"{error}; everything is as it was before") from None


def _put_back(home: Home, docker: Docker | None, folder: Path, part: Part) -> None:
    if part.kind == "volume":
        assert docker is not None
        put_back(docker, _volume_of(home, docker, part), any_image(docker), folder / part.file)
    elif part.name == ENV:
        # The user's own file, which may have changed for good reasons, stays where there is one.
        if not home.env_file.exists():
            read_tar(home.env_file, folder / part.file)
    else:
        read_tar(home.state / part.name, folder / part.file)


def _volume_of(home: Home, docker: Docker, part: Part) -> Volume:
    """Return the volume that a part belongs in: this project's of that name, there already or not."""
    project = recorded_project(home, docker).name
    known = next((volume for volume in find_volumes(docker, project) if volume.key == part.name), None)
    if known is not None:
        return known
    labels = {name: value for name, value in part.labels.items() if name not in _OF_OTHERS}
    return Volume(f"{project}_{part.name}", part.name, {**labels, PROJECT_LABEL: project, VOLUME_LABEL: part.name})


def _agrees() -> bool:
    if not sys.stdin.isatty():
        click.echo("this replaces what is there now; --yes says that you want it", err=True)
        return False
    return click.confirm("Replace what is there now?")


def _verb(name: str) -> click.Command:
    from services.cli.main import cli

    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command
