"""The gateway's own metrics, named by the OpenTelemetry GenAI conventions.

Source: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.gateway.exchange import Exchange

_SECONDS = (
    0.01,
    0.02,
    0.04,
    0.08,
    0.16,
    0.32,
    0.64,
    1.28,
    2.56,
    5.12,
    10.24,
    20.48,
    40.96,
    81.92,
    163.84,
    327.68,
)
_PER_TOKEN_S = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.015,
    0.02,
    0.025,
    0.03,
    0.04,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.5,
    1,
    2.5,
)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)
_MODEL = ["gen_ai_request_model"]


class _ModelMetrics:
    """The metrics of one model with their labels already looked up."""

    def __init__(self, metrics: "GatewayMetrics", model: str) -> None:
        self.first_token = metrics.first_token.labels(model)
        self.per_token = metrics.per_token.labels(model)
        self.input_tokens = metrics.tokens.labels(model, "input")
        self.output_tokens = metrics.tokens.labels(model, "output")
        self.outcomes: dict[tuple[str, str], tuple[Histogram, Counter]] = {}


class GatewayMetrics:
    """What is measured of each exchange. Models are a closed set: those of the catalogue."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From the request to the first content event of a stream (TTFT).",
            _MODEL,
            buckets=_SECONDS,
            registry=registry,
        )
        self.per_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Mean time between the tokens of a stream after the first (ITL).",
            _MODEL,
            buckets=_PER_TOKEN_S,
            registry=registry,
        )
        self.duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "From the request to the end of the answer.",
            [*_MODEL, "gen_ai_operation_name", "outcome"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.tokens = Histogram(
            "gen_ai_client_token_usage",
            "Tokens of a request, as the engine counted them.",
            [*_MODEL, "gen_ai_token_type"],
            buckets=_TOKENS,
            registry=registry,
        )
        self.usage_sources = Counter(
            "gateway_usage_source",
            "Where token counts came from: the engine's usage, its tokenizer afterwards, or an estimate.",
            ["source"],
            registry=registry,
        )
        self.exchanges = Counter(
            "gateway_exchanges",
            "Requests relayed to an engine, by how they ended.",
            [*_MODEL, "gen_ai_operation_name", "outcome"],
            registry=registry,
        )
        self.backend_up = Gauge(
            "gateway_backend_up",
            "1 where the backend answered its last discovery.",
            ["backend"],
            registry=registry,
        )
        self.in_flight = Gauge("gateway_requests_in_flight", "Requests being relayed now.", registry=registry)
        self.held = Gauge(
            "gateway_held_requests", "Requests that wait for their model to be loaded.", registry=registry
        )
        self.leases = Gauge("gateway_leases", "Leases on models' engines that are alive.", registry=registry)
        self.lease_events = Counter(
            "gateway_lease_events",
            "What happened to leases: granted, released, draining, lapsed, lost, refused, none to be had (unleased).",
            ["event"],
            registry=registry,
        )
        self.load_wait = Histogram(
            "gateway_load_wait_seconds",
            "How long a request was held for its model, by how that ended: granted, sent away, refused, or left.",
            [*_MODEL, "outcome"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.background_wait = Histogram(
            "gateway_background_wait_seconds",
            "How long a request that can wait, such as one for a chat's title, let others go first.",
            _MODEL,
            buckets=_SECONDS,
            registry=registry,
        )
        self.records_sent = Counter(
            "gateway_records_sent", "Records of requests that the tracking service has taken.", registry=registry
        )
        self.records_dropped = Counter(
            "gateway_records_dropped",
            "Records of requests that were dropped: too many waited, or the gateway ended.",
            registry=registry,
        )
        self.record_texts_dropped = Counter(
            "gateway_record_texts_dropped",
            "Sampled requests whose record went without its text, because too much text waited.",
            registry=registry,
        )
        self.records_waiting = Gauge(
            "gateway_records_waiting", "Records of requests that wait to be sent.", registry=registry
        )
        self.alias_file_errors = Counter(
            "gateway_alias_file_errors",
            "Times that the file of promoted names was found unreadable; the names before it stay.",
            registry=registry,
        )
        self._models: dict[str, _ModelMetrics] = {}

    def lease(self, event: str) -> None:
        """Count something that happened to a lease."""
        self.lease_events.labels(event).inc()

    def settle(self, exchange: Exchange, seconds: float) -> None:
        """Record an exchange that has ended."""
        model = self._models.get(exchange.model)
        if model is None:
            model = self._models[exchange.model] = _ModelMetrics(self, exchange.model)
        key = (exchange.operation, exchange.outcome)
        pair = model.outcomes.get(key)
        if pair is None:
            labels = (exchange.model, *key)
            pair = model.outcomes[key] = (self.duration.labels(*labels), self.exchanges.labels(*labels))
        pair[0].observe(seconds)
        pair[1].inc()
        if exchange.first_token_s is not None:
            model.first_token.observe(exchange.first_token_s)
            if exchange.per_token_s is not None:
                model.per_token.observe(exchange.per_token_s)
        if exchange.usage is not None and exchange.billed:
            model.input_tokens.observe(exchange.usage.prompt_tokens)
            model.output_tokens.observe(exchange.usage.completion_tokens)
            self.usage_sources.labels(exchange.usage_source).inc()
