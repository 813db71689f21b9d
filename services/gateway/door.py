"""What every route of the gateway needs, put together once: the composition root hands it around."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from services.gateway.alias_file import AliasFile
from services.gateway.backends import Backends
from services.gateway.background import Background, can_wait
from services.gateway.catalogue import ENGINES, RAG, Catalogue, Target
from services.gateway.exchange import Exchange, Live
from services.gateway.formats import AnswerFormat, Forward
from services.gateway.headers import HOPS, request_headers
from services.gateway.holding import SilentPatience
from services.gateway.identity import INNER, Keys
from services.gateway.leases import Leases
from services.gateway.managed import ManagedModels
from services.gateway.metrics import GatewayMetrics
from services.gateway.records import Records
from services.gateway.relay import Relay
from services.gateway.settings import GatewaySettings
from services.kit.asgi import Receive, Scope, Send
from services.kit.errors import AppError, EngineUnreachable, ModelNotFound, NotFound, UnsupportedParameter
from services.kit.middleware import LOG_FIELDS, REQUEST_ID
from services.kit.on_behalf import HEADER as ON_BEHALF_OF
from services.kit.on_behalf import sign
from services.kit.tracing import Tracer

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_WORTH_TELLING_S = 0.001
_ASKED_BY = {
    "chat": "chat",
    "text_completion": "continue texts",
    "embeddings": "make embeddings",
    "rerank": "rerank",
}


@dataclass(slots=True)
class Call:
    """A request of an identified caller, its body read."""

    scope: Scope
    receive: Receive
    send: Send
    client: str
    body: bytes = b""
    model: str = ""
    """The name that it was sent with."""
    fields: dict[str, Any] = field(default_factory=dict)
    relayed: bool = False
    """Somebody is, or was, to answer it."""


@dataclass(frozen=True)
class Door:
    """Keys, models, backends and the exchanges under way."""

    settings: GatewaySettings
    keys: Keys
    catalogue: Catalogue
    backends: Backends
    live: Live
    metrics: GatewayMetrics
    tracer: Tracer | None
    managed: ManagedModels | None
    """None where there is no engines service."""
    leases: Leases | None
    background: Background
    records: Records | None = None
    """None where nobody keeps them."""
    alias_file: AliasFile | None = None
    """None where no file of promoted names is named."""

    async def start(self) -> None:
        """Begin discovery; wait for the first answers, but not longer than a second."""
        if self.alias_file is not None:
            await self.alias_file.start()
        await asyncio.gather(self.backends.start(), *([self.managed.start()] if self.managed else []))

    async def stop(self) -> None:
        """End discovery and all leases."""
        if self.alias_file is not None:
            await self.alias_file.stop()
        await self.backends.stop()
        if self.leases is not None:
            await self.leases.stop()
        if self.managed is not None:
            await self.managed.stop()

    def checks(self) -> dict[str, str]:
        """Return for each backend, and for the engines service, `ok` or what is wrong with it."""
        checks = {b.name: "ok" if b.state == "ready" else b.message or b.state for b in self.backends.all()}
        if self.managed is not None:
            checks[ENGINES] = "ok" if self.managed.serves() else self.managed.message or self.managed.state
        return checks

    def readiness(self) -> dict[str, str]:
        """Return what requests need, each `ok` or what is wrong with it.

        One engine that answers is enough to work; the others show in `/status`. The stack's own services chat with
        nobody without one: alone behind the gateway they count, beside engines they don't.
        """
        checks = self.checks()
        own = {backend.name for backend in self.backends.all() if backend.own}
        engines = {name: state for name, state in checks.items() if name not in own} or checks
        return {name: state for name, state in engines.items() if state == "ok"} or engines

    async def resolve(self, name: str) -> Target:
        """Return where a model's name leads; backends are asked once more before it is called unknown.

        Raises:
            ModelNotFound
            EngineUnreachable: no backend has named any model yet, so nobody can say whether the name is wrong.
        """
        try:
            return await self.find(name)
        except ModelNotFound:
            if not self.catalogue.entries() and (missing := self.missing()):
                raise EngineUnreachable(
                    f"no backend has named a model yet: {missing}; see `sparkstack status`"
                ) from None
            raise

    async def find(self, name: str) -> Target:
        """Return where a model's name leads, as `resolve`, but where no backend has named any it is just unknown.

        Raises:
            ModelNotFound
        """
        try:
            return self.catalogue.resolve(name)
        except ModelNotFound:
            await self.look_again(name)
        return self.catalogue.resolve(name)

    def engines(self) -> ManagedModels:
        """Return the engines service's models.

        Raises:
            NotFound: there is no such service.
        """
        if self.managed is None:
            raise NotFound(
                "this gateway has no engines service, so it can't load, unload, pull or delete models: set "
                "GATEWAY_ENGINES_URL, or use the server's own commands"
            )
        return self.managed

    async def load(self, model: str, keep_alive_s: float | None) -> None:
        """Have a model loaded as a request would; `keep_alive_s` says how long it then stays without one.

        Raises:
            AppError: it can't be had.
        """
        self.engines()
        assert self.leases is not None
        lease = await self.leases.wait(model, SilentPatience())
        self.leases.give_back(lease, keep_alive_s)

    async def unload(self, model: str, *, force: bool = False) -> dict[str, Any]:
        """Have a model unloaded when nobody holds it; an idle lease of ours does not stand in the way."""
        engines = self.engines()
        if self.leases is not None:
            await self.leases.let_go(model)
        answer = await engines.service.unload(model, force=force)
        await engines.look_again(at_once=True)
        return answer

    async def look_again(self, model: str = "") -> None:
        """Ask backends and engines service for their models, for at most a second; `model`: which is looked for."""
        asked = [self.backends.look_again(model)]
        if self.managed is not None:
            asked.append(self.managed.look_again())
        await asyncio.gather(*asked)

    def missing(self) -> str:
        """Return what is wrong with backends and engines service, in one line; empty where all is well."""
        managed = self.managed
        found = [self.backends.missing()]
        if managed is not None and managed.state != "ready":
            found.append(f"engines: {managed.message}")
        return "; ".join(filter(None, found))

    def state(self, target: Target) -> str:
        """Return the state of a model: its own where it is loaded on demand, else its backend's."""
        if target.managed:
            assert self.managed is not None
            return self.managed[target.upstream_id].state
        return self.backends[target.backend].state

    def vouch(self, backend: str, client: str) -> dict[str, str]:
        """Return the header that tells one of the stack's own services who calls; no other server is told."""
        key = self.backends.shared_keys.get(backend)
        return {ON_BEHALF_OF: sign(client, key)} if key else {}

    async def relay(self, call: Call, target: Target, forward: Forward, answer_format: AnswerFormat) -> None:
        """Carry a request to its target and the answer back, and leave its figures for the log line.

        Raises:
            AppError: before the first byte of the answer.
        """
        if target.operations is not None and forward.operation not in target.operations:
            raise self._unable(target, forward.operation)
        if not can_wait(call.scope):
            await self._carry(call, target, forward, answer_format)
            return
        async with self.background.turn(target.public_id) as waited_s:
            call.scope[LOG_FIELDS]["yielded_ms"] = round(waited_s * 1000, 2)
            await self._carry(call, target, forward, answer_format)

    async def _carry(self, call: Call, target: Target, forward: Forward, answer_format: AnswerFormat) -> None:
        headers = request_headers(call.scope, self.tracer)
        exchange = Exchange(
            call.scope[REQUEST_ID].decode(), call.client, target, forward.operation, forward.stream, forward.fields
        )
        call.relayed = True
        self._prepare_record(exchange, call.scope, headers)
        if target.backend in self.backends.shared_keys:
            headers.update(self.vouch(target.backend, call.client))
            exchange.billed = RAG not in target.facts.capabilities
        relay = Relay(
            exchange,
            answer_format,
            call.send,
            settings=self.settings,
            backends=self.backends,
            leases=self.leases,
            live=self.live,
            metrics=self.metrics,
        )
        try:
            await relay.run(call.receive, forward, headers)
        finally:
            call.scope[LOG_FIELDS].update(_figures(exchange))
            if self.records is not None:
                self.records.settled(exchange)

    def _prepare_record(self, exchange: Exchange, scope: Scope, headers: Mapping[str, str]) -> None:
        """Note what a record says of the way of a request, and whether its text is wanted."""
        if self.records is None:
            return
        found = _TRACEPARENT.match(headers.get("traceparent", ""))
        if found is not None:
            exchange.trace_id = found[1]
        if scope.get(INNER):  # a number that anybody may send counts for nothing
            exchange.hops = int(headers[HOPS]) - 1
        if self.records.samples(exchange.trace_id or exchange.request_id):
            exchange.sampled = exchange.keeps_answer = True

    def note_refusal(self, call: Call, operation: str, error: AppError) -> None:
        """Have a record of a request that was refused before anybody was asked; of others there is one already."""
        if self.records is not None and not call.relayed:
            self.records.refused(
                request_id=call.scope[REQUEST_ID].decode(),
                key=call.client,
                model=call.model,
                operation=operation,
                fields=call.fields,
                status=error.status,
                error=error.code,
            )

    def _unable(self, target: Target, operation: str) -> UnsupportedParameter:
        able = self.catalogue.offering(operation)
        others = f"models that do: {', '.join(able[:10])}" if able else "no model here is known to do so"
        can = ", ".join(target.facts.capabilities)
        return UnsupportedParameter(
            f"{target.public_id} does not {_ASKED_BY[operation]}, it is for: {can}; {others}", param="model"
        )


def _figures(exchange: Exchange) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "client": exchange.client,
        "model": exchange.model,
        "backend": exchange.target.backend,
        "stream": exchange.stream,
        "outcome": exchange.outcome,
    }
    if exchange.target.managed and exchange.engine:
        figures["engine"] = exchange.engine
    if exchange.held_s >= _WORTH_TELLING_S:
        figures["held_ms"] = round(exchange.held_s * 1000, 2)
    if exchange.error_code is not None:
        figures["error"] = exchange.error_code
    if exchange.first_token_s is not None:
        figures["ttft_ms"] = round(exchange.first_token_s * 1000, 2)
    if exchange.usage is not None:
        figures["prompt_tokens"] = exchange.usage.prompt_tokens
        figures["completion_tokens"] = exchange.usage.completion_tokens
        figures["usage_source"] = exchange.usage_source
    return figures
