"""What the services export, from their own code: registries whose every series has a value, and the names in them."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.embeddings.metrics import EmbeddingsMetrics
from services.engines.host_memory import HostMemory
from services.engines.metrics import EnginesMetrics
from services.engines.watching.engine_metrics import EngineFigures, HistogramFigures
from services.engines.watching.exporter import EngineExporter
from services.engines.watching.health import EngineTarget, Signals, Verdict
from services.gateway.metrics import GatewayMetrics
from services.kit.metrics import HttpMetrics, new_registry
from services.rag.metrics import RagMetrics
from services.tracking.drift.metrics import DriftMetrics
from services.tracking.drift.state import DriftState
from services.tracking.energy import EnergyMeter
from services.tracking.given import StoreCounts
from services.tracking.metrics import CostRow, TrackingMetrics
from services.tracking.store import Store

_GIB = 2**30
MODEL = "smollm2"
# The closed sets of labels, where a label is one: each value gets a series.
LABELS: Mapping[str, tuple[str, ...]] = {
    "model": (MODEL,),
    "gen_ai_request_model": (MODEL,),
    "gen_ai_operation_name": ("chat",),
    "gen_ai_token_type": ("input", "output"),
    "source": ("engine", "tokenizer", "estimate", "api"),
    "backend": ("embeddings", "rag"),
    "event": ("granted", "released", "draining", "lapsed", "lost", "refused", "unleased"),
    "step": ("dense", "sparse", "rerank"),
    "kind": ("exact", "semantic"),
    "result": ("hit", "miss"),
    "reason": ("age", "user"),
}
# `outcome` is a closed set in each metric that has it, and another one.
OUTCOMES: Mapping[str, tuple[str, ...]] = {
    "gateway_exchanges": ("ok", "failed", "cancelled"),
    "gen_ai_server_request_duration_seconds": ("ok", "failed", "cancelled"),
    "gateway_load_wait_seconds": ("granted", "sent away", "refused", "left"),
    "engines_loads": ("ready", "failed", "cancelled"),
    "rag_ingest_documents": ("ready", "failed", "cancelled", "unchanged", "deleted"),
    "rag_answers": ("answered", "failed", "cancelled"),
}


@dataclass
class Exported:
    """A service's registry, and what makes its counters go on."""

    registry: CollectorRegistry
    http: HttpMetrics
    metrics: list[Any] = field(default_factory=list)

    def move(self) -> None:
        """Count one more of everything."""
        self.http.observe("POST", "/v1/chat/completions", 200, 0.2)
        self.http.observe("POST", "/v1/chat/completions", 503, 0.01)
        for metric in self.metrics:
            for labels in _combinations(metric):
                child = metric.labels(*labels) if labels else metric
                if isinstance(metric, Histogram):
                    child.observe(0.3)
                elif isinstance(metric, Counter):
                    child.inc()
                else:
                    child.set(1)


def _combinations(metric: Any) -> Iterable[tuple[str, ...]]:
    outcomes = OUTCOMES.get(metric._name, ())
    return itertools.product(*(outcomes if name == "outcome" else LABELS[name] for name in metric._labelnames))


def _exported(*kinds: Any) -> Exported:
    registry = new_registry()
    found = Exported(registry, HttpMetrics(registry))
    for kind in kinds:
        metrics = vars(kind(registry)).values()
        found.metrics += [each for each in metrics if isinstance(each, Counter | Gauge | Histogram)]
    return found


class _Looks:
    """Two engines that were looked at."""

    def __init__(self) -> None:
        target = EngineTarget(MODEL, "vllm", "http://127.0.0.1:8020", "", MODEL, gpu=True)
        self.engines: Mapping[str, Any] = {MODEL: SimpleNamespace(target=target, on_gpu=True)}
        self.verdicts = {MODEL: Verdict("busy", "tokens move", 1.0)}
        self.looks = 0

    @property
    def signals(self) -> Mapping[str, Signals]:
        """Return a look at which everything has moved."""
        self.looks += 1
        times = HistogramFigures((("0.1", self.looks), ("1.0", 2 * self.looks), ("+Inf", 2 * self.looks)), 0.4)
        figures = EngineFigures(
            running=2,
            waiting=1,
            prompt_tokens=100 * self.looks,
            generation_tokens=40 * self.looks,
            kv_usage=0.4,
            ttft=times,
            itl=times,
            memory_bytes={"gpu": _GIB},
        )
        return {MODEL: cast("Signals", SimpleNamespace(figures=figures, rss_bytes=3 * _GIB))}


def _engines() -> Exported:
    found = _exported(EnginesMetrics)
    memory = HostMemory(128 * _GIB, 20 * _GIB, 60 * _GIB, page_cache=30 * _GIB, largest_free_block=_GIB, major_faults=9)
    found.registry.register(EngineExporter(_Looks(), lambda: memory))
    return found


def _tracking() -> Exported:
    registry = new_registry()
    found = Exported(registry, HttpMetrics(registry))
    metrics = TrackingMetrics(registry)
    metrics.store = cast(
        "Store",
        SimpleNamespace(counts=StoreCounts(), waiting=3, options=SimpleNamespace(queue_records=50_000), state="ok"),
    )
    metrics.meter = cast("EnergyMeter", SimpleNamespace(sources=("gpu0",), total_joules=50.0))
    metrics.costs = [CostRow("alice", MODEL, 3, 100, 40, 2.5, 50.0, 0.01)]
    metrics.currency = "EUR"
    found.metrics += [metrics.feedback, metrics.deleted]
    findings = tuple({"signal": name, "score": 0.4, "alarm": True} for name in ("embeddings", "prompt_tokens"))
    DriftMetrics(registry, DriftState(windows=4, alarmed=1, reference_records=400, filled=30, findings=findings))
    return found


def exported() -> dict[str, Exported]:
    """Return what each scraped service exports, by the name of its scrape job."""
    return {
        "gateway": _exported(GatewayMetrics),
        "engines": _engines(),
        "embeddings": _exported(EmbeddingsMetrics),
        "rag": _exported(RagMetrics),
        "tracking": _tracking(),
    }


def samples() -> dict[str, set[str]]:
    """Return the labels of each sample that a service can export, by its name as queries write it."""
    found: dict[str, set[str]] = {}
    for service in exported().values():
        service.move()
        for family in service.registry.collect():
            for sample in family.samples:
                if not sample.name.endswith("_created"):
                    found.setdefault(sample.name, set()).update(sample.labels)
    return found
