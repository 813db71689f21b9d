"""What `up` is going to run: the model, the ports, each service's arguments, the gateway's catalogue."""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from services.cli.files import read_json, write_json
from services.cli.home import Home
from services.cli.ports import OLLAMA_VARIABLE, choose_ollama_port, choose_port
from services.cli.probes import address
from services.cli.units import ServiceUnit
from services.engines.commands.engine import resolve_model
from services.stack import find_service, start_order

if TYPE_CHECKING:
    from services.engines.serving import Served

LOOPBACK = "127.0.0.1"
_NEEDED_DISK_BYTES = 200_000_000  # rotated logs of all services, and state


@dataclass(frozen=True)
class Plan:
    """What is to run.

    Args:
        host: the gateway's address to listen on; everything else is on loopback.
        ollama_port: 0 for none.
        remarks: what the user should know, a sentence each.
    """

    model: "Served"
    host: str
    ports: dict[str, int]
    ollama_port: int
    units: list[ServiceUnit]
    catalogue: dict[str, Any]
    remarks: list[str]

    def record(self) -> dict[str, Any]:
        """Return what other verbs need to know of it."""
        services = {
            unit.service.name: {"host": self.host_of(unit.service.name), "port": unit.port} for unit in self.units
        }
        return {"model": self.model.id, "ollama_port": self.ollama_port, "services": services}

    def host_of(self, name: str) -> str:
        """Return the address that a service listens on."""
        return self.host if name == "gateway" else LOOPBACK


def make_plan(home: Home, gguf: str, variables: Mapping[str, str], earlier: Mapping[str, Any]) -> Plan:
    """Return what is to run.

    Args:
        gguf: the user's model; empty for the default model.
        earlier: the record of the last start.

    Raises:
        click.ClickException: the model or a port can't be had; with what to do.
    """
    model = resolve_model(gguf, variables)
    size = f"{model.facts['size_bytes'] / 1e6:,.0f} MB"
    remarks = [f"model: {model.id} ({size}, {check_digest(home, model)})"]
    host = variables.get("GATEWAY_HOST", "").strip() or LOOPBACK
    ports = _choose_ports(home, host, variables, earlier)
    gateway = find_service("gateway")
    assert gateway is not None
    ollama_port, remark = choose_ollama_port(home, gateway, host, variables)
    if remark:
        remarks.append(remark)
    units = []
    for service in start_order():
        unit = ServiceUnit(service, ports[service.name])
        if service.name == "llamacpp":
            arguments = model.arguments(unit.port)
            unit = ServiceUnit(service, unit.port, arguments)
        elif service.name == "gateway":
            environment = {
                "GATEWAY_CATALOGUE": str(home.catalogue),
                "GATEWAY_HOST": host,
                "GATEWAY_PORT": str(unit.port),
                OLLAMA_VARIABLE: str(ollama_port),
            }
            unit = ServiceUnit(service, unit.port, environment=environment, inputs=[home.catalogue])
        units.append(unit)
    return Plan(model, host, ports, ollama_port, units, catalogue(model, ports["llamacpp"]), remarks)


def _choose_ports(home: Home, host: str, variables: Mapping[str, str], earlier: Mapping[str, Any]) -> dict[str, int]:
    ports = {}
    for service in start_order():
        had = earlier.get("services", {}).get(service.name, {}).get("port")
        own_host = host if service.name == "gateway" else LOOPBACK
        ports[service.name] = choose_port(home, service, own_host, variables, had)
    return ports


def catalogue(model: "Served", port: int) -> dict[str, Any]:
    """Return what the gateway reads: the backends, and the facts of their models."""
    backend = {"name": "llamacpp", "url": address(LOOPBACK, port), "engine": "llamacpp", "models": [model.facts]}
    return {"default": model.id, "backends": [backend]}


def check_digest(home: Home, model: "Served") -> str:
    """Check a packaged model's sha256, once for each file; return what can be said of it.

    Raises:
        click.ClickException: when it has another one.
    """
    if model.sha256 is None:
        return f"your file {model.path}"
    record = home.state / "verified.json"
    found = model.path.stat()
    known = [model.sha256, found.st_size, found.st_mtime_ns]
    verified = read_json(record)
    if verified.get(str(model.path)) != known:
        with model.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != model.sha256:
            raise click.ClickException(
                f"{model.path} has the sha256 {digest}, the recipe says {model.sha256}: the file is damaged or "
                "another one. Remove the .venv folder and run `make up` to install it again"
            )
        write_json(record, {**verified, str(model.path): known})
    return "sha256 verified"


def check_disk(home: Home, needed_bytes: int = _NEEDED_DISK_BYTES) -> None:
    """Check that there is room for state and logs.

    Raises:
        click.ClickException: when there isn't.
    """
    free = shutil.disk_usage(home.state).free
    if free < needed_bytes:
        raise click.ClickException(
            f"only {free / 1e6:,.0f} MB are free at {home.state}; logs and state need {needed_bytes / 1e6:,.0f} MB. "
            "Free some, or name a folder on another disk: SPARKSTACK_STATE=/path make up"
        )
