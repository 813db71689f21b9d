"""`sparkstack restart` with containers."""

import click

from services.cli.containers.containers import find_containers
from services.cli.containers.running import Containers
from services.cli.containers.status import docker_of, read_container_status
from services.cli.home import Home
from services.cli.lock import stack_lock
from services.cli.progress import Progress
from services.cli.restart import chosen, wait_for
from services.cli.units import STOP_WAIT_S


def restart_containers(home: Home, services: tuple[str, ...], timeout_s: float) -> None:
    """Restart services that are containers, and wait for them.

    Raises:
        click.ClickException: one isn't running, crashes, or isn't ready in time.
    """
    docker, project = docker_of(home)
    found = {name: each for name, each in find_containers(docker, project).items() if not each.instance}
    if not any(container.is_up for container in found.values()):
        raise click.ClickException("nothing is running here; `make up` starts it")
    names = chosen(services, found)
    progress = Progress()
    with stack_lock(home):
        ids = [found[name].id for name in names]
        docker.ask("restart", "--time", str(STOP_WAIT_S), *ids, timeout_s=None)
    running = Containers(docker, project, names, None)
    wait_for(running, lambda: read_container_status(home), names, progress, timeout_s)
