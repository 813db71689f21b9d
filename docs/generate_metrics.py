"""Write docs/metrics.md from the services' own metrics: `python -m docs.generate_metrics`."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from services.embeddings.metrics import EmbeddingsMetrics
from services.engines.host_memory import HostMemory
from services.engines.metrics import EnginesMetrics
from services.engines.watching.engine_metrics import NAMES
from services.engines.watching.exporter import EngineExporter
from services.gateway.metrics import GatewayMetrics
from services.rag.metrics import RagMetrics
from services.tracking.drift.metrics import DriftMetrics
from services.tracking.drift.state import DriftState
from services.tracking.given import StoreCounts
from services.tracking.metrics import CostRow, TrackingMetrics

TARGET = Path(__file__).with_name("metrics.md")
_FIELDS = {
    "engine_requests_running": "running",
    "engine_requests_waiting": "waiting",
    "engine_kv_cache_usage_ratio": "kv_usage",
    "engine_prompt_tokens_total": "prompt_tokens",
    "engine_generation_tokens_total": "generation_tokens",
    "engine_time_to_first_token_seconds": "ttft",
    "engine_inter_token_latency_seconds": "itl",
}
_MORE_LABELS = {"engine_state": ", state", "engine_model_memory_bytes": ", device"}
_HEAD = """\
<!-- Made by `python -m docs.generate_metrics` from the services' own code: edit that. -->
# Metrics

Every service has `GET /metrics`; on this machine it wants no key. Beside what stands here each has
`http_requests_total` and `http_request_duration_seconds`, by method, route and status (`services/kit/metrics.py`), and
where traces are sent `trace_spans_total`, by what became of them (`services/kit/otlp_sending.py`).

## Engines

The engines service looks at each engine every other second and exports what it saw last, under one set of names
whatever the engine (`GET /metrics` of the service, port 8010). A scrape asks no engine anything, so one that hangs
makes no scrape slow. Labels are the model's public id and the engine's name.

| metric | type | labels | what |
|---|---|---|---|
"""
_SERVICE = """
## The engines service itself

Its decisions: what was loaded, unloaded and refused. `GET /receipts` has each load with its memory and its seconds.
`GET /prometheus/targets` tells a Prometheus where the own figures of vLLM, SGLang and TensorRT-LLM are while they run
(`http_sd_configs`, as in `compose/prometheus`); llama.cpp shows its own to those alone who have its key.

| metric | type | labels | what |
|---|---|---|---|
"""
_GATEWAY = """
## The gateway

Named by OpenTelemetry's GenAI conventions where those have a name. The model is its public id.

| metric | type | labels | what |
|---|---|---|---|
"""
_EMBEDDINGS = """
## Embeddings

Labels are ids of the service's own list of models.

| metric | type | labels | what |
|---|---|---|---|
"""
_RAG = """
## RAG

A step is one of a retrieval preset; outcomes are those that the help names.

| metric | type | labels | what |
|---|---|---|---|
"""
_TRACKING = """
## Tracking

Cost is of all days, by the names of keys and models; `increase()` makes it a day's. A score of drift is of the newest
window that was compared.

| metric | type | labels | what |
|---|---|---|---|
"""
_OWN_NAMES = """
## Where the figures come from

| metric | {engines} |
|---|{rules}
"""
_TAIL = """
- **Nothing is made up.** An engine that has no such figure has no such series; one that does not answer has its
  `engine_state` and `engine_rss_bytes`, and gaps in the rest.
- **Counters are the engine's own.** They begin again at zero with a new process. `rate()` and `increase()` know that;
  a sum over restarts that this service kept would hide it.
- **Histograms keep the engine's buckets**, with their bounds as the engine writes them. Those of two engines have
  different bounds: compare quantiles, not buckets.
- Figures of several ranks of one engine are added up; for the KV cache the fullest counts.
- **llama.cpp has no time to first token.** The gateway measures it for every engine alike
  (`gen_ai_server_time_to_first_token_seconds`), from the request's arrival, with the queue in it. llama.cpp counts a
  prompt's tokens when it has read all of it, and an answer's when it has ended; it has no gauge of its KV cache.
- **TensorRT-LLM** has a time per output token of whole requests, which is no inter-token latency and is left out. Its
  Prometheus text is at `/prometheus/metrics`, and only with `return_perf_metrics: true`.
- **Ollama has no Prometheus endpoint.** `/api/ps` tells where its models are (`engine_model_memory_bytes`: what of it
  is on the GPU, and what is not). Its nanosecond timings are in its native answers alone; requests reach it through
  the gateway, which measures and counts them (`gen_ai_client_token_usage`).
- The names of llama.cpp and vLLM were read from running servers, those of SGLang and TensorRT-LLM from their
  documentation; nobody here could run the latter, nor any of them on a GPU.
- `nvidia-smi` and DCGM tell nothing of a Spark's memory, which is one pool: watch `host_memory_available_bytes`
  (admission), `host_memory_free_bytes` (the load guard) and `engine_rss_bytes`. What a GPU driver holds for an engine
  is in none of an engine's own processes; it shows as what `host_memory_available_bytes` lacks.
"""


def families() -> list[Metric]:
    """Return the exported families."""
    return EngineExporter(_Nothing(), lambda: HostMemory(0, 0, 0)).describe()


class _Nothing:
    engines: dict[str, object] = {}  # noqa: RUF012
    signals: dict[str, object] = {}  # noqa: RUF012
    verdicts: dict[str, object] = {}  # noqa: RUF012


def full_name(family: Metric) -> str:
    """Return the name as queries write it."""
    return f"{family.name}_total" if family.type == "counter" else family.name


def reference() -> str:
    """Return the text of docs/metrics.md."""
    engines = " | ".join(NAMES)
    head = _OWN_NAMES.format(engines=engines, rules="---|" * len(NAMES))
    service = _registered(EnginesMetrics)
    gateway = _registered(GatewayMetrics)
    behind = [_EMBEDDINGS, *_registered(EmbeddingsMetrics), _RAG, *_registered(RagMetrics), _TRACKING, *_tracking()]
    return "".join([_HEAD, *_rows(), _SERVICE, *service, _GATEWAY, *gateway, *behind, head, *_names(), _TAIL])


def _registered(metrics: Callable[[CollectorRegistry], object]) -> Iterator[str]:
    registry = CollectorRegistry()
    for metric in vars(metrics(registry)).values():
        for family in metric.describe() if hasattr(metric, "describe") else ():
            what = family.documentation[0].upper() + family.documentation[1:].rstrip(".") + "."
            labels = ", ".join(metric._labelnames)  # noqa: SLF001 - it has no public name
            yield f"| `{full_name(family)}` | {family.type} | {labels} | {what} |\n"


def _tracking() -> Iterator[str]:
    """Yield the rows of figures that are read when Prometheus asks: they show their labels with a value alone."""
    registry = CollectorRegistry()
    yield from _registered(TrackingMetrics)
    metrics = TrackingMetrics(registry)
    options = SimpleNamespace(queue_records=0)
    metrics.store = cast("Any", SimpleNamespace(counts=StoreCounts(), waiting=0, options=options, state="ok"))
    metrics.costs = [CostRow("", "", 0, 0, 0, 0.0, 0.0, 0.0)]
    drift = DriftMetrics(registry, DriftState(findings=({"signal": "", "score": 0.0, "alarm": False},)))
    for family in [*metrics.collect(), *drift.collect()]:
        labels = ", ".join(family.samples[0].labels)
        yield f"| `{full_name(family)}` | {family.type} | {labels} | {family.documentation} |\n"


def _rows() -> Iterator[str]:
    for family in families():
        name = full_name(family)
        labels = "" if name.startswith("host_") else "model, engine" + _MORE_LABELS.get(name, "")
        yield f"| `{name}` | {family.type} | {labels} | {family.documentation} |\n"


def _names() -> Iterator[str]:
    for metric, field in _FIELDS.items():
        names = [getattr(each, field) for each in NAMES.values()]
        yield f"| `{metric}` | {' | '.join(f'`{name}`' if name else '–' for name in names)} |\n"


if __name__ == "__main__":
    TARGET.write_text(reference())
