"""The ways in which the gateway is run: what it tells, to whom, and how well that one is."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from loadtests.gateway_overhead.targets import free_port
from loadtests.tracing_overhead.sink import Sink

_QUEUE = 500
"""Records that may wait where nobody takes them: full after the warm-up, which is the state of a long outage."""


@dataclass(frozen=True)
class Variant:
    """One way.

    Args:
        compared_with: the variant that its cost is held against.
        most: how many times that cost is allowed; None where the cost is only reported.
        traces: share of the traces that are sampled; None: tracing is off.
        records: share of the records that have text; None: there are no records.
        tracking: answer of the tracking service, 0 for one that is dead.
    """

    name: str
    compared_with: str = "off"
    most: float | None = None
    traces: float | None = None
    records: float | None = None
    tracking: int = 202
    tracking_after_s: float = 0.0

    @property
    def loses(self) -> bool:
        """Whether nobody takes its records."""
        return self.records is not None and (self.tracking != 202 or self.tracking_after_s > 0)


_AS_RECORDS = {"compared_with": "records-10", "most": 1.05, "records": 0.1}
VARIANTS: Mapping[str, Variant] = {
    each.name: each
    for each in (
        Variant("off"),
        Variant("traces-0", traces=0.0),
        Variant("traces-10", most=1.15, traces=0.1),
        Variant("traces-100", traces=1.0),
        Variant("records-0", records=0.0),
        Variant("records-10", records=0.1),
        Variant("records-100", records=1.0),
        Variant("both-10", traces=0.1, records=0.1),
        Variant("tracking-dead", **_AS_RECORDS, tracking=0),  # type: ignore[arg-type]
        Variant("tracking-full", **_AS_RECORDS, tracking=429),  # type: ignore[arg-type]
        Variant("tracking-failing", **_AS_RECORDS, tracking=503),  # type: ignore[arg-type]
        Variant("tracking-slow", **_AS_RECORDS, tracking_after_s=20.0),  # type: ignore[arg-type]
    )
}


@dataclass
class Receivers:
    """Who takes a variant's spans and records."""

    variant: Variant
    collector: Sink = field(default_factory=Sink)
    tracking: Sink = field(init=False)

    def __post_init__(self) -> None:
        self.tracking = Sink(self.variant.tracking, self.variant.tracking_after_s)

    async def start(self) -> dict[str, str]:
        """Start those that there are; return the gateway's variables."""
        variant, found = self.variant, {}
        if variant.traces is not None:
            await self.collector.start()
            found["OTEL_EXPORTER_OTLP_ENDPOINT"] = self.collector.url
            found["OTEL_TRACES_SAMPLER"] = "parentbased_traceidratio"
            found["OTEL_TRACES_SAMPLER_ARG"] = str(variant.traces)
        if variant.records is not None:
            found["GATEWAY_RECORD_SAMPLE"] = str(variant.records)
            if variant.tracking:
                await self.tracking.start()
                found["GATEWAY_TRACKING_URL"] = self.tracking.url
            else:
                found["GATEWAY_TRACKING_URL"] = f"http://127.0.0.1:{free_port()}"
            if variant.loses:
                found["GATEWAY_RECORD_QUEUE"] = str(_QUEUE)
        return found

    async def stop(self) -> None:
        """Stop them."""
        await self.collector.stop()
        await self.tracking.stop()
