"""What every route of the gateway needs, put together once: the composition root hands it around."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.gateway.backends import Backends
from services.gateway.catalogue import Catalogue, Target
from services.gateway.exchange import Exchange, Live
from services.gateway.formats import AnswerFormat
from services.gateway.identity import Keys
from services.gateway.metrics import GatewayMetrics
from services.gateway.relay import Relay
from services.gateway.settings import GatewaySettings
from services.kit.asgi import Receive, Scope, Send
from services.kit.errors import EngineUnreachable, ModelNotFound
from services.kit.middleware import LOG_FIELDS, REQUEST_ID
from services.kit.tracing import Tracer


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

    def begin(
        self,
        scope: Scope,
        client: str,
        target: Target,
        operation: str,
        *,
        stream: bool,
        fields: Mapping[Any, Any],
    ) -> Exchange:
        """Return the exchange of a request."""
        request_id = scope[REQUEST_ID].decode()
        return Exchange(request_id, client, target, operation, stream, dict(fields))

    async def relay(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        exchange: Exchange,
        answer_format: AnswerFormat,
        *,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
    ) -> None:
        """Carry the exchange, and leave its figures for the log line.

        Raises:
            AppError: before the first byte of the answer.
        """
        relay = Relay(
            exchange,
            answer_format,
            send,
            settings=self.settings,
            backends=self.backends,
            live=self.live,
            metrics=self.metrics,
        )
        try:
            await relay.run(receive, path, body, headers)
        finally:
            scope[LOG_FIELDS].update(_figures(exchange))


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
