"""How each container of the stack is."""

import time
from collections.abc import Collection, Iterable

import click

from services.cli.containers.containers import Container, find_containers
from services.cli.containers.docker import Docker
from services.cli.containers.project import recorded_project
from services.cli.containers.running import seen_here
from services.cli.home import Home
from services.cli.probes import address
from services.cli.status import ServiceStatus, rss_of
from services.kit.files import read_json
from services.stack import find_service


def docker_of(home: Home) -> tuple[Docker, str]:
    """Return the docker command and the project of the last `up`.

    Raises:
        click.ClickException: there is no docker command any more.
    """
    docker = Docker.find()
    if docker is None:
        raise click.ClickException("the stack runs as containers, and there is no docker command here any more")
    return docker, recorded_project(home, docker).name


def read_container_status(home: Home) -> list[ServiceStatus]:
    """Return how each service of the last start is, the gateway first.

    Raises:
        click.ClickException: Docker does not answer.
    """
    docker, project = docker_of(home)
    found = find_containers(docker, project)
    known = list(read_json(home.stack_file).get("services", {}))
    names = [name for name in known if name not in found or not found[name].instance]
    names += [name for name in found if name not in known and not found[name].instance]
    return [_status(name, found.get(name)) for name in sorted(names, key=lambda name: (name != "gateway", name))]


def judge(container: Container | None) -> tuple[str, str]:
    """Return a container's state and what it waits for, as the status of processes tells it."""
    if container is None:
        return "stopped", "there is no container of it; `make up` makes it"
    health = container.judge()
    if container.state == "restarting":
        reason = container.problem or f"ended with status {container.exit_code}"
        return "crashing", f"{reason}; see `sparkstack logs {container.service}`"
    if not container.is_up:
        return "stopped", container.problem or f"`sparkstack restart {container.service}` starts it"
    if health.ready:
        return "ready", ""
    return ("starting" if container.health == "starting" else "waiting"), health.waiting_for


def not_ready(containers: Iterable[Container], waited_for: Collection[str]) -> list[str]:
    """Return a sentence on each container that `up` did not wait for and that does not answer yet, or has ended."""
    lines = []
    for container in containers:
        state, why = judge(container)
        if state != "ready" and not container.instance and container.service not in waited_for:
            lines.append(f"{container.service} is {state}: {why}")
    return lines


def _status(name: str, container: Container | None) -> ServiceStatus:
    state, waiting_for = judge(container)
    if container is None:
        return ServiceStatus(name, state, waiting_for, "", 0, 0, 0, 0)
    pid = seen_here(container)
    uptime = max(0, int(time.time()) - container.started_at) if container.is_up else 0
    return ServiceStatus(
        name, state, waiting_for, _address(name, container), pid, uptime, container.restarts, rss_of(pid)
    )


def _address(name: str, container: Container) -> str:
    """Return where a service is reached from this machine; empty where only its neighbours reach it."""
    service = find_service(name)
    inside = service.port if service else next(iter(sorted(container.ports)), 0)
    place = container.ports.get(inside)
    return address(*place) if place else ""
