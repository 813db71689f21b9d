"""The stack as processes: what waiting for it and telling of it needs."""

from collections.abc import Iterable
from dataclasses import dataclass

import httpx

from services.cli.arrival import Endpoints, Place
from services.cli.home import Home
from services.cli.logs import last_lines
from services.cli.models import ModelStatus, read_models
from services.cli.plan import Plan
from services.cli.probes import Health, address, probe
from services.cli.supervision import Supervisor
from services.kit.supervisord import ProcessState


@dataclass(frozen=True)
class Embedded:
    """The processes of one stack.

    Args:
        client: asks the services how they are.
        engines: asks the engines service.
        places: the address that tells how a service is, by its name, in the order of their start.
    """

    home: Home
    supervisor: Supervisor
    client: httpx.Client
    engines: httpx.Client | None
    places: dict[str, str]

    def processes(self) -> dict[str, ProcessState]:
        """Return how each service's process is; {} when supervisord doesn't answer."""
        return self.supervisor.processes()

    def stop(self, name: str) -> None:
        """Stop a service."""
        self.supervisor.stop(name)

    def health(self) -> Iterable[tuple[str, Health]]:
        """Give each service's own answer."""
        for name, url in self.places.items():
            yield name, probe(self.client, url)

    def models(self) -> list[ModelStatus]:
        """Return what the engines service says of its models."""
        return read_models(self.engines)

    def last_lines(self, name: str, count: int) -> list[str]:
        """Return the end of a service's log."""
        return last_lines(self.home.log(name), count)

    def log_of(self, name: str) -> str:
        """Return a service's log file."""
        return str(self.home.log(name))


def health_places(plan: Plan) -> dict[str, str]:
    """Return where each service that `up` waits for tells how it is."""
    return {
        unit.service.name: address(plan.host_of(unit.service.name), unit.port) + unit.service.health_path
        for unit in plan.units
        if not unit.service.optional
    }


def endpoints_of(plan: Plan, key: str) -> Endpoints:
    """Return where the plan's stack is reached from this machine."""
    return Endpoints(address(plan.host, plan.ports["gateway"]), key)


def places_of(plan: Plan) -> list[Place]:
    """Return what is where, for a person: the gateway first."""
    places = []
    for unit in reversed(plan.units):
        name = unit.service.name
        places.append(Place(name, address(plan.host_of(name), unit.port), unit.service.purpose))
        if name == "gateway" and plan.ollama_port:
            places.append(Place("", address(plan.host, plan.ollama_port), "the same, where Ollama's clients look"))
    return places
