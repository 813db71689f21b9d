"""Services stand still while their data is copied: else a copy would hold half of a write."""

import contextlib
from collections.abc import Callable, Iterable, Iterator

import click

from services.cli.arrival import Running
from services.cli.containers.containers import find_containers
from services.cli.containers.docker import Docker
from services.cli.containers.running import Containers
from services.cli.containers.status import read_container_status
from services.cli.embedded import Embedded
from services.cli.home import Home
from services.cli.probes import new_client
from services.cli.progress import Progress
from services.cli.restart import wait_for
from services.cli.status import ServiceStatus, read_status
from services.cli.supervision import Supervisor
from services.cli.units import STOP_WAIT_S
from services.kit.files import read_json

_READY_S = 120.0


@contextlib.contextmanager
def processes_stopped(home: Home) -> Iterator[list[str]]:
    """Stop every service that is a process, and start it again; engines, which keep nothing, run on."""
    supervisor = Supervisor(home)
    running = [name for name, process in supervisor.processes().items() if process.state in ("running", "starting")]
    order = list(read_json(home.stack_file).get("services", {}))
    names = [name for name in order if name in running]
    if names:
        click.echo(f"stopping {', '.join(names)} while their data is copied …")
    try:
        for name in reversed(names):
            supervisor.stop(name)
        yield names
    finally:
        if names:
            supervisor.restart(names)
            with new_client() as client:
                _wait(Embedded(home, supervisor, client, None, {}), lambda: read_status(home), names)


@contextlib.contextmanager
def containers_stopped(home: Home, docker: Docker, project: str, volumes: Iterable[str]) -> Iterator[list[str]]:
    """Stop the containers that use volumes, and start them again."""
    used = set(volumes)
    found = find_containers(docker, project).values()
    writers = [each for each in found if each.is_up and used & set(each.mounts)]
    names = sorted(each.service for each in writers)
    ids = [each.id for each in writers]
    if names:
        click.echo(f"stopping {', '.join(names)} while their data is copied …")
    try:
        if ids:
            docker.ask("stop", "--time", str(STOP_WAIT_S), *ids, timeout_s=None)
        yield names
    finally:
        if ids:
            docker.ask("start", *ids, timeout_s=None)
            _wait(Containers(docker, project, names, None), lambda: read_container_status(home), names)


def _wait(running: Running, read: Callable[[], list[ServiceStatus]], names: list[str]) -> None:
    wait_for(running, read, names, Progress(), _READY_S)
