"""What `up` is going to run: the models, the ports, each service's arguments, the gateway's catalogue."""

import hashlib
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from services.cli.home import Home
from services.cli.ports import OLLAMA_VARIABLE, choose_ollama_port, choose_port, holds
from services.cli.probes import address
from services.cli.units import STAMP, ServiceUnit
from services.engines.commands.service import Preloaded, StackModels, stack_models
from services.kit.files import read_json, write_json, write_private
from services.kit.keys import derive
from services.stack import SERVICES, Service, find_service, start_order

LOOPBACK = "127.0.0.1"
_COLLECTORS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_NEEDED_DISK_BYTES = 200_000_000  # rotated logs of all services, and state


@dataclass(frozen=True)
class Plan:
    """What is to run.

    Args:
        host: the gateway's address to listen on; everything else is on loopback.
        ollama_port: 0 for none.
        remarks: what the user should know, a sentence each.
    """

    models: StackModels
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
        return {
            "mode": "embedded",
            "model": self.models.default,
            "ollama_port": self.ollama_port,
            "services": services,
        }

    def host_of(self, name: str) -> str:
        """Return the address that a service listens on."""
        return self.host if name == "gateway" else LOOPBACK


def make_plan(home: Home, gguf: str, variables: Mapping[str, str]) -> Plan:
    """Return what is to run.

    Args:
        gguf: the user's model; empty for the default model.

    Raises:
        click.ClickException: the model or a port can't be had; with what to do.
    """
    own_file = str(Path(gguf).expanduser().absolute()) if gguf else ""
    models = stack_models({"state": home.state, "gguf": own_file}, variables)
    remarks = [f"model: {describe(home, model)}" for model in models.preload]
    host = variables.get("GATEWAY_HOST", "").strip() or LOOPBACK
    services, left_out = choose_services(home, variables)
    remarks += left_out
    ports = {
        service.name: choose_port(home, service, host if service.name == "gateway" else LOOPBACK, variables)
        for service in services
    }
    gateway = find_service("gateway")
    assert gateway is not None
    ollama_port, remark = choose_ollama_port(host, variables, lambda port: holds(home, gateway, port))
    if remark:
        remarks.append(remark)
    environments = _environments(home, host, ports, ollama_port, own_file)
    environments["gateway"]["GATEWAY_LINKS"] = _links(ports, variables)
    environments["gateway"]["GATEWAY_OPENWEBUI_SECRET"] = openwebui_secret(home, variables)
    traced = traces_to(address(LOOPBACK, ports["mlflow"]) if "mlflow" in ports else "", variables)
    arguments = {"engines": ["--supervisor", str(home.socket), "--programs", str(home.programs)]}
    inputs = {"gateway": [home.catalogue]}
    units = [
        ServiceUnit(
            service,
            ports[service.name],
            arguments.get(service.name, ()),
            {**(traced if "OTEL_" in service.variables else {}), **environments[service.name]},
            inputs.get(service.name, ()),
        )
        for service in services
    ]
    return Plan(models, host, ports, ollama_port, units, catalogue(models, ports), remarks)


def choose_services(home: Home, variables: Mapping[str, str]) -> tuple[list[Service], list[str]]:
    """Return the services that are to run, each after those that it needs, and a sentence on each that is left out.

    Raises:
        click.ClickException: WITHOUT names one that the stack can't do without.
    """
    unwanted = variables.get("WITHOUT", "").replace(",", " ").split()
    optional = {service.name for service in SERVICES if service.optional}
    for name in unwanted:
        if name not in optional:
            raise click.ClickException(f"WITHOUT={name}: what can be left out is {', '.join(sorted(optional))}")
    chosen, remarks = [], []
    for service in start_order():
        if service.name in unwanted:
            remarks.append(f"left out, as WITHOUT says: {service.name}")
        elif service.environment and not (home.environment(service) / STAMP).is_file():
            remarks.append(
                f"left out: {service.name}, whose environment is not here; "
                f"`python3 scripts/bootstrap.py {service.environment}` makes it (`make up` does)"
            )
        else:
            chosen.append(service)
    return chosen, remarks


def _environments(
    home: Home, host: str, ports: Mapping[str, int], ollama_port: int, own_file: str
) -> dict[str, dict[str, str]]:
    """Return each service's variables: where it listens, whom it asks, the key that the stack's services share."""
    key = internal_key(home)
    urls = {name: address(host if name == "gateway" else LOOPBACK, port) for name, port in ports.items()}
    recorded = {"GATEWAY_TRACKING_URL": urls["tracking"], "GATEWAY_TRACKING_KEY": key} if "tracking" in ports else {}
    found = {
        "engines": {
            "ENGINES_HOST": LOOPBACK,
            "ENGINES_PORT": str(ports["engines"]),
            "ENGINES_API_KEY": key,
            "GGUF": own_file,
        },
        "embeddings": {
            "EMBEDDINGS_HOST": LOOPBACK,
            "EMBEDDINGS_PORT": str(ports["embeddings"]),
            "EMBEDDINGS_API_KEY": key,
        },
        "rag": {
            "RAG_HOST": LOOPBACK,
            "RAG_PORT": str(ports["rag"]),
            "RAG_API_KEY": key,
            "RAG_GATEWAY_URL": urls["gateway"],
            "RAG_GATEWAY_KEY": key,
            "RAG_EMBEDDINGS_URL": urls["embeddings"],
            "RAG_EMBEDDINGS_KEY": key,
        },
        "gateway": {
            "GATEWAY_CATALOGUE": str(home.catalogue),
            "GATEWAY_ALIASES_FILE": str(home.aliases),
            "GATEWAY_HOST": host,
            "GATEWAY_PORT": str(ports["gateway"]),
            "GATEWAY_ENGINES_URL": urls["engines"],
            "GATEWAY_ENGINES_KEY": key,
            "GATEWAY_INTERNAL_KEY": key,
            OLLAMA_VARIABLE: str(ollama_port),
            **recorded,
        },
    }
    if "tracking" in ports:
        found["tracking"] = {
            "TRACKING_HOST": LOOPBACK,
            "TRACKING_PORT": str(ports["tracking"]),
            "TRACKING_API_KEY": key,
            "TRACKING_GATEWAY_URL": urls["gateway"],
            "TRACKING_GATEWAY_KEY": key,
            "TRACKING_EMBEDDINGS_URL": urls["embeddings"],
            "TRACKING_EMBEDDINGS_KEY": key,
            "TRACKING_MLFLOW_URL": urls.get("mlflow", ""),
        }
    if "mlflow" in ports:
        found["mlflow"] = {"MLFLOW_HOST": LOOPBACK, "MLFLOW_PORT": str(ports["mlflow"])}
    return found


def _links(ports: Mapping[str, int], variables: Mapping[str, str]) -> str:
    """Return the pages that the gateway's page links to: the user's own, and MLflow where it runs."""
    own = [f"MLflow={address(LOOPBACK, ports['mlflow'])}"] if "mlflow" in ports else []
    return ",".join([*own, *filter(None, [variables.get("GATEWAY_LINKS", "").strip(" ,")])])


def traces_to(mlflow: str, variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that have a service send its traces to MLflow; none where the user has named a collector."""
    if not mlflow or any(variables.get(name) for name in _COLLECTORS):
        return {}
    return {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{mlflow}/v1/traces",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "x-mlflow-experiment-id=0",
    }


def catalogue(models: StackModels, ports: Mapping[str, int]) -> dict[str, Any]:
    """Return what the gateway reads before it can ask: what stands behind it, and the models of the engines service."""
    backends = [
        {
            "name": service.name,
            "url": address(LOOPBACK, ports[service.name]),
            "engine": "sparkstack",
            "paths": list(service.paths),
            "models": [],
        }
        for service in start_order()
        if service.behind_gateway and service.name in ports
    ]
    return {"default": models.default, "backends": backends, "managed": models.managed}


def internal_key(home: Home) -> str:
    """Return the key that the stack's services show each other; made on the first start, kept in the state folder."""
    path = home.internal_key
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        write_private(path, secrets.token_urlsafe(32) + "\n")
    return path.read_text(encoding="ascii").strip()


def openwebui_secret(home: Home, variables: Mapping[str, str]) -> str:
    """Return what Open WebUI signs its users' names with; where none is given it is made of the stack's own key."""
    return variables.get("GATEWAY_OPENWEBUI_SECRET", "").strip() or derive(internal_key(home), "open-webui")


def describe(home: Home, model: Preloaded) -> str:
    """Return a sentence on a model that is loaded at the start, having checked its file.

    Raises:
        click.ClickException: the file is damaged.
    """
    return f"{model.id} ({model.size_bytes / 1e6:,.0f} MB, {check_digest(home, model)})"


def check_digest(home: Home, model: Preloaded) -> str:
    """Check a packaged model's sha256, once for each file; return what can be said of it.

    Raises:
        click.ClickException: when it has another one.
    """
    if model.sha256 is None or model.path is None:
        return model.where
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
