"""What every route of the gateway needs, put together once: the composition root hands it around."""

from dataclasses import dataclass
from typing import Any

from services.gateway.backends import Backends
from services.gateway.catalogue import Catalogue, Target
from services.gateway.exchange import Exchange, Live
from services.gateway.formats import AnswerFormat
from services.gateway.headers import request_headers
from services.gateway.identity import Keys
from services.gateway.metrics import GatewayMetrics
from services.gateway.relay import Relay
from services.gateway.settings import GatewaySettings
from services.kit.asgi import Receive, Scope, Send
from services.kit.errors import EngineUnreachable, ModelNotFound
from services.kit.middleware import LOG_FIELDS, REQUEST_ID
from services.kit.tracing import Tracer


@dataclass(slots=True)
class Call:
    """A request of an identified caller, its body read."""

    scope: Scope
    receive: Receive
    send: Send
    client: str
    body: bytes


@dataclass(slots=True)
class Forward:
    """What is sent to the engine: always one of OpenAI's requests.

    Args:
        fields: the request's top-level fields as JSON bytes, for counting tokens where the engine does not.
    """

    path: str
    body: bytes
    operation: str
    stream: bool
    fields: dict[str, Any]


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

    async def resolve(self, name: str) -> Target:
        """Return where a model's name leads; backends are asked once more before it is called unknown.

        Raises:
            ModelNotFound
            EngineUnreachable: no backend has named any model yet, so nobody can say whether the name is wrong.
        """
        try:
            return self.catalogue.resolve(name)
        except ModelNotFound:
            await self.backends.look_again()
        if not self.catalogue.entries() and (missing := self.backends.missing()):
            raise EngineUnreachable(f"no backend has named a model yet: {missing}; see `sparkstack status`")
        return self.catalogue.resolve(name)

    async def relay(self, call: Call, target: Target, forward: Forward, answer_format: AnswerFormat) -> None:
        """Carry a request to its target and the answer back, and leave its figures for the log line.

        Raises:
            AppError: before the first byte of the answer.
        """
        headers = request_headers(call.scope, self.tracer)
        exchange = Exchange(
            call.scope[REQUEST_ID].decode(), call.client, target, forward.operation, forward.stream, forward.fields
        )
        relay = Relay(
            exchange,
            answer_format,
            call.send,
            settings=self.settings,
            backends=self.backends,
            live=self.live,
            metrics=self.metrics,
        )
        try:
            await relay.run(call.receive, forward.path, forward.body, headers)
        finally:
            call.scope[LOG_FIELDS].update(_figures(exchange))


def _figures(exchange: Exchange) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "client": exchange.client,
        "model": exchange.model,
        "backend": exchange.target.backend,
        "stream": exchange.stream,
        "outcome": exchange.outcome,
    }
    if exchange.error_code is not None:
        figures["error"] = exchange.error_code
    if exchange.first_token_s is not None:
        figures["ttft_ms"] = round(exchange.first_token_s * 1000, 2)
    if exchange.usage is not None:
        figures["prompt_tokens"] = exchange.usage.prompt_tokens
        figures["completion_tokens"] = exchange.usage.completion_tokens
        figures["usage_source"] = exchange.usage_source
    return figures
