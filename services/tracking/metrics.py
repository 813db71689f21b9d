"""What the tracking service counts. Labels are closed sets, and the names of keys and models that were used."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.tracking.energy import EnergyMeter
from services.tracking.store import Store


@dataclass(frozen=True)
class CostRow:
    """What was used under a key and a model since the records began."""

    key: str
    model: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    joules: float
    money: float | None


class TrackingMetrics(Collector):
    """The counters of the service; those of the store and of cost are read when Prometheus asks."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.feedback = Counter("tracking_feedback", "Feedback that was stored.", ["source"], registry=registry)
        self.deleted = Counter(
            "tracking_deleted", "Rows that were deleted: by age, by user, by key.", ["reason"], registry=registry
        )
        self.store: Store | None = None
        self.meter: EnergyMeter | None = None
        self.costs: Sequence[CostRow] = ()
        self.currency = ""
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Return what stands now."""
        if self.store is None:
            return
        yield from _of_store(self.store)
        sources = GaugeMetricFamily(
            "tracking_power_sources", "Counters of energy that are read; 0: this machine shows none."
        )
        sources.add_metric([], len(self.meter.sources) if self.meter else 0)
        yield sources
        energy = CounterMetricFamily("tracking_energy_joules", "Energy since the start, where it is measured.")
        energy.add_metric([], self.meter.total_joules if self.meter else 0.0)
        yield energy
        yield from _of_costs(self.costs, self.currency)


def _of_store(store: Store) -> Iterable[Metric]:
    counts = store.counts
    records = CounterMetricFamily("tracking_records", "Records by what became of them.", labels=["outcome"])
    outcomes: Mapping[str, int] = {
        "stored": counts.stored,
        "repeated": counts.repeated,
        "forgotten": counts.forgotten,
        "invalid": counts.invalid,
        "dropped": counts.queue_full,
        "dropped_by_sender": counts.sender_dropped,
    }
    for outcome, count in outcomes.items():
        records.add_metric([outcome], count)
    yield records
    waiting = GaugeMetricFamily("tracking_queue_records", "Records that wait to be stored.")
    waiting.add_metric([], store.waiting)
    yield waiting
    limit = GaugeMetricFamily("tracking_queue_limit_records", "Records that may wait; more are dropped.")
    limit.add_metric([], store.options.queue_records)
    yield limit
    state = GaugeMetricFamily("tracking_store_up", "1 where records can be written; /readyz says what is wrong.")
    state.add_metric([], float(store.state == "ok"))
    yield state
    failures = CounterMetricFamily("tracking_store_failures", "Attempts to write that failed.")
    failures.add_metric([], counts.failures)
    yield failures


def _of_costs(rows: Sequence[CostRow], currency: str) -> Iterable[Metric]:
    names = ["key", "model"]
    requests = CounterMetricFamily("tracking_cost_requests", "Requests from outside, of all days.", labels=names)
    tokens = CounterMetricFamily("tracking_cost_tokens", "Tokens, each billed once.", labels=[*names, "type"])
    seconds = CounterMetricFamily("tracking_cost_seconds", "Seconds of answering.", labels=names)
    joules = CounterMetricFamily("tracking_cost_joules", "Energy, where it is measured.", labels=names)
    money = CounterMetricFamily(
        "tracking_cost_money", "Money by the user's tariff, in its currency.", labels=[*names, "currency"]
    )
    for row in rows:
        where = [row.key, row.model]
        requests.add_metric(where, row.requests)
        tokens.add_metric([*where, "input"], row.prompt_tokens)
        tokens.add_metric([*where, "output"], row.completion_tokens)
        seconds.add_metric(where, row.seconds)
        joules.add_metric(where, row.joules)
        if row.money is not None:
            money.add_metric([*where, currency], row.money)
    yield from (requests, tokens, seconds, joules, money)
