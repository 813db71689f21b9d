"""`sparkstack down`: end everything, and leave no process, socket or port behind."""

import contextlib
import os
import shutil

import click

from services.cli.home import Home, find_home
from services.cli.lock import stack_lock
from services.cli.modes import running_mode
from services.cli.processes import Unit, end_units, find_units
from services.cli.supervision import Supervisor
from services.cli.units import STOP_WAIT_S


@click.command()
def down() -> None:
    """Stop the stack and leave nothing behind but what it keeps: .env, logs and data (volumes, in containers)."""
    home = find_home()
    mode = running_mode(home)
    if mode == "compose" or (mode is None and containers_left(home)):
        from services.cli.containers.down import down_containers

        down_containers(home)
    else:
        down_processes(home)


def containers_left(home: Home) -> bool:
    """Say whether there are containers of this folder's stack, though nothing is recorded: a start that was killed."""
    if os.environ.get("MODE", "") == "embedded":
        return False
    from services.cli.containers.containers import find_containers
    from services.cli.containers.docker import Docker
    from services.cli.containers.project import project_name

    docker = Docker.find()
    if docker is None:
        return False
    try:
        found = find_containers(docker, project_name(os.environ))
    except click.ClickException:  # no engine answers
        return False
    return any(container.folder == str(home.code / "compose") for container in found.values())


def down_processes(home: Home) -> None:
    """End every process of the stack, also what a dead supervisor has left."""
    if not home.state.is_dir():
        click.echo("nothing was running")
        return
    with stack_lock(home):
        units = find_units(home)
        if units:
            click.echo(f"stopping {_names(units)} …")
        Supervisor(home).shutdown()
        left = end_units(find_units(home), grace_s=STOP_WAIT_S)
        _remove_traces(home)
    if not units:
        click.echo("nothing was running")
        return
    by_hand = f" ({_names(left)}: left without a supervisor, ended too)" if left else ""
    click.echo(f"stopped{by_hand}; logs are in {home.logs}")


def _names(units: list[Unit]) -> str:
    return ", ".join(sorted({unit.name for unit in units}))


def _remove_traces(home: Home) -> None:
    for path in (home.socket, home.stack_file, home.catalogue, home.supervisor_config):
        path.unlink(missing_ok=True)
    shutil.rmtree(home.run, ignore_errors=True)
    if home.socket.parent != home.run:
        with contextlib.suppress(OSError):
            home.socket.parent.rmdir()
