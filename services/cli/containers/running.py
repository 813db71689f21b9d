"""The stack as containers: what waiting for it, telling of it and its status need."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from services.cli.arrival import Place
from services.cli.containers.containers import Container, find_containers
from services.cli.containers.docker import Docker
from services.cli.models import ModelStatus, read_models
from services.cli.probes import Health, address
from services.kit.supervisord import ProcessState
from services.stack import find_service

# What third-party containers are for; ours say it in the table of services.
PURPOSES = {
    "open-webui": "Open WebUI: chat in the browser",
    "prometheus": "figures of all services",
    "alertmanager": "alerts",
    "grafana": "dashboards",
}
_OLLAMA_INSIDE = 11434


@dataclass(frozen=True)
class Containers:
    """The containers of one project.

    Args:
        services: those that are waited for, in the order of their start.
        engines: asks the engines service; None before it is there.
    """

    docker: Docker
    project: str
    services: Sequence[str]
    engines: httpx.Client | None

    def processes(self) -> dict[str, ProcessState]:
        """Return how each service's container is; {} when they are gone."""
        return {name: container.process() for name, container in self._found().items() if not container.instance}

    def stop(self, name: str) -> None:
        """Stop a service's container; Docker does not start it again by itself."""
        container = self._found().get(name)
        if container is not None:
            self.docker.ask("stop", container.id)

    def health(self) -> Iterable[tuple[str, Health]]:
        """Give each service's health, as its container's own check says it."""
        found = self._found()
        for name in self.services:
            container = found.get(name)
            yield name, container.judge() if container else Health(False, "there is no container of it")

    def models(self) -> list[ModelStatus]:
        """Return what the engines service says of its models."""
        return read_models(self.engines)

    def last_lines(self, name: str, count: int) -> list[str]:
        """Return what a container has written last, errors and all."""
        container = self._found().get(name)
        return log_lines(self.docker, container, count) if container else []

    def log_of(self, name: str) -> str:
        """Return how a person sees a container's log."""
        return f"`sparkstack logs {name}`"

    def _found(self) -> dict[str, Container]:
        return find_containers(self.docker, self.project)


def log_lines(docker: Docker, container: Container, count: int) -> list[str]:
    """Return the last lines of a container's log."""
    done = docker.run("logs", "--tail", str(count), container.id)
    return (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()[-count:]


def places_of(published: Iterable[tuple[str, str, int, int]]) -> list[Place]:
    """Return what is published where, for a person: the gateway first, then in the order of names.

    Args:
        published: service, address and port of this machine, port inside.
    """
    places = []
    for name, host, port, inside in sorted(published, key=lambda each: (each[0] != "gateway", each[0], each[3])):
        service = find_service(name)
        purpose = service.purpose if service else PURPOSES.get(name, "")
        if name == "gateway" and inside == _OLLAMA_INSIDE:
            places.append(Place("", address(host, port), "the same, where Ollama's clients look"))
        else:
            places.append(Place(name, address(host, port), purpose))
    return places


def seen_here(container: Container, proc: Path = Path("/proc")) -> int:
    """Return the container's main process as this machine numbers it; 0 where the engine is in a machine of its own."""
    try:
        cgroup = (proc / str(container.pid) / "cgroup").read_text(encoding="utf-8") if container.pid else ""
    except OSError:
        return 0
    return container.pid if container.id in cgroup else 0
