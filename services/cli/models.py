"""What the engines service says of its models."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from services.cli.home import Home
from services.cli.probes import address, json_object, new_client
from services.kit.files import read_json

SERVING = ("ready", "busy")


@dataclass(frozen=True)
class ModelStatus:
    """One model.

    Args:
        state: `stopped`, `queued`, `loading`, `unloading`, `ready`, `busy`, `stalled`, `failed` or `missing`.
        held_bytes: planned memory of a loaded one, 0 for others.
        note: why it has failed, how long it still takes, …; empty where there is nothing to say.
    """

    id: str
    engine: str
    state: str
    address: str
    pids: list[int]
    in_flight: int
    pinned: bool
    on_gpu: bool | None
    held_bytes: int
    eta_s: float | None
    note: str


def engines_address(home: Home) -> str:
    """Return where the engines service of the last start listens; empty where there is none."""
    place = read_json(home.stack_file).get("services", {}).get("engines")
    return address(place["host"], place["port"]) if isinstance(place, dict) else ""


@contextmanager
def engines_client(home: Home) -> Iterator[httpx.Client | None]:
    """Give a client that asks the engines service, with its key; None where nothing was started.

    In a container it is reached through its container alone, as no network of this machine leads there.
    """
    url = engines_address(home)
    if not url:
        yield None
        return
    with new_client(_transport(home)) as client:
        client.base_url = httpx.URL(url)
        client.headers.update(authorization(home))
        yield client


def _transport(home: Home) -> httpx.BaseTransport | None:
    record = read_json(home.stack_file)
    if record.get("mode") != "compose":
        return None
    from services.cli.containers.docker import Docker
    from services.cli.containers.transport import ContainerTransport

    docker = Docker.find()
    return ContainerTransport(docker, record["services"]["engines"]["container"]) if docker else None


def authorization(home: Home) -> dict[str, str]:
    """Return the header that the engines service wants."""
    try:
        key = home.internal_key.read_text(encoding="ascii").strip()
    except OSError:
        return {}
    return {"authorization": f"Bearer {key}"}


def read_models(client: httpx.Client | None) -> list[ModelStatus]:
    """Return every model, the default first; [] where the service doesn't answer."""
    if client is None:
        return []
    try:
        document = json_object(client.get("/models"))
    except httpx.TransportError:
        return []
    default = document.get("default")
    found = [_status(item) for item in document.get("data", ())]
    return sorted(found, key=lambda model: model.id != default)


def _status(item: dict[str, Any]) -> ModelStatus:
    note = item.get("reason") or ""
    eta_s = item.get("eta_s")
    if not note and eta_s is not None:
        note = f"about {eta_s:.0f} s"
    return ModelStatus(
        id=item["id"],
        engine=item["engine"],
        state=item["state"],
        address=item.get("url") or "",
        pids=item.get("pids") or [],
        in_flight=item.get("in_flight") or 0,
        pinned=bool(item.get("pinned")),
        on_gpu=item.get("on_gpu"),
        held_bytes=item["need_bytes"] if item.get("url") else 0,
        eta_s=eta_s,
        note=note,
    )
