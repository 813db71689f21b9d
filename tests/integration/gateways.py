"""A gateway on a real socket, and what a test asks of it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from services.gateway.app import create_app
from services.gateway.door import Door
from services.gateway.settings import GatewaySettings
from services.kit.settings import load_settings
from services.kit.sse import EventSplitter, event_data
from tests.testkit.engine import FakeEngine
from tests.testkit.server import eventually, running

CHAT = "/v1/chat/completions"
MODEL = "fake-chat"


@dataclass
class Gateway:
    """A running gateway; `client` speaks to it and keeps its connections alive."""

    url: str
    app: FastAPI
    client: httpx.AsyncClient

    @property
    def door(self) -> Door:
        """Return the gateway's own parts, for what it does not show: the exchanges under way."""
        door: Door = self.app.state.door
        return door

    async def chat(self, *, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        """Ask for a whole answer."""
        return await self.client.post(CHAT, json=chat_body(**fields), headers=headers)

    async def stream(self, *, headers: dict[str, str] | None = None, **fields: Any) -> "Streamed":
        """Ask for a stream and read it to its end, whatever that is."""
        streamed = Streamed()
        body = chat_body(stream=True, **fields)
        async with self.client.stream("POST", CHAT, json=body, headers=headers) as response:
            streamed.response = response
            with contextlib.suppress(httpx.RemoteProtocolError):
                async for piece in response.aiter_raw():
                    streamed.body += piece
                streamed.whole = True
        return streamed

    async def status(self) -> dict[str, Any]:
        """Return what the page shows."""
        document: dict[str, Any] = (await self.client.get("/status")).json()
        return document

    async def settled(self) -> None:
        """Wait until no exchange is under way: tokens may be counted after the client has its answer, or has left."""
        await eventually(lambda: not len(self.door.live))

    async def totals(self) -> dict[str, int]:
        """Return the counts of `/status` when all exchanges are settled."""
        await self.settled()
        totals: dict[str, int] = (await self.status())["totals"]
        return totals

    async def metrics(self) -> "Metrics":
        """Return the metrics when all exchanges are settled."""
        await self.settled()
        return Metrics((await self.client.get("/metrics")).text)


@dataclass
class Streamed:
    """What a client got of a stream."""

    response: httpx.Response = field(default_factory=lambda: httpx.Response(0))
    body: bytes = b""
    whole: bool = False
    """The response ended as HTTP says, not by a lost connection."""

    @property
    def events(self) -> list[bytes]:
        """Return the whole events, byte for byte; a tail without its end is one more."""
        return split_events(self.body)

    @property
    def data(self) -> list[Any]:
        """Return the events' data as JSON, `[DONE]` as that text; comments are left out."""
        found = (event_data(event) for event in self.events)
        return [data.decode() if data == b"[DONE]" else json.loads(data) for data in found if data is not None]

    @property
    def text(self) -> str:
        """Return the first choice's content."""
        return "".join(
            choice["delta"].get("content") or ""
            for data in self.data
            if isinstance(data, dict)
            for choice in data.get("choices", ())
        )

    @property
    def done(self) -> bool:
        """Return whether the stream ended with `[DONE]`."""
        return self.data[-1:] == ["[DONE]"]

    @property
    def failure(self) -> dict[str, Any] | None:
        """Return the error, whether it came before the stream had begun, as a plain answer, or as its last event."""
        if self.response.status_code < 400:
            return self.error
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error

    @property
    def error(self) -> dict[str, Any] | None:
        """Return the error of the last event; None where that is something else."""
        last = self.data[-1] if self.data else None
        return last["error"] if isinstance(last, dict) and "error" in last else None

    @property
    def usage(self) -> dict[str, Any] | None:
        """Return the usage that the client was sent."""
        return next((each["usage"] for each in self.data if isinstance(each, dict) and each.get("usage")), None)


class Metrics:
    """Prometheus' text, read."""

    def __init__(self, text: str) -> None:
        self.samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    @property
    def names(self) -> set[str]:
        """Return the names of all samples."""
        return {sample.name for sample in self.samples}

    def value(self, name: str, **labels: str) -> float:
        """Return the sum over all samples of this name that have these labels."""
        return sum(
            sample.value for sample in self.samples if sample.name == name and labels.items() <= sample.labels.items()
        )

    def labels(self, name: str, label: str) -> set[str]:
        """Return the values of a label of a metric."""
        return {sample.labels[label] for sample in self.samples if sample.name == name}


def chat_body(**fields: Any) -> dict[str, Any]:
    """Return a chat request."""
    return {"model": MODEL, "messages": [{"role": "user", "content": "Tell me something."}], **fields}


def split_events(body: bytes) -> list[bytes]:
    """Return the events of a body; a tail without its end is one more."""
    splitter = EventSplitter()
    events = splitter.feed(body)
    return [*events, splitter.pending] if splitter.pending else events


@contextlib.asynccontextmanager
async def gateway(*engines: FakeEngine, **settings: Any) -> AsyncIterator[Gateway]:
    """Run a gateway in front of engines, named `engine`, `engine2` and so on; callers need no key.

    Args:
        engines: running fake engines; `backends={name: url}` names others.
        settings: fields of `GatewaySettings`; `times` are those of its leases.
    """
    times = settings.pop("times", None)
    named = {f"engine{number or ''}": engine.url for number, engine in zip(_numbers(), engines, strict=False)}
    given = {
        "allow_loopback_without_key": True,
        "backends": {**named, **settings.pop("backends", {})},
        **settings,
    }
    # Both read files.
    read = await asyncio.to_thread(load_settings, GatewaySettings, **given)
    app = await asyncio.to_thread(create_app, read, times=times)
    async with (
        running(app) as url,
        httpx.AsyncClient(base_url=url, trust_env=False, verify=False, timeout=10) as client,
    ):
        yield Gateway(url, app, client)


def _numbers() -> Any:
    yield 0
    number = 2
    while True:
        yield number
        number += 1
