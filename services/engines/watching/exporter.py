"""The engines' figures as Prometheus metrics, from the last look at each: a scrape asks no engine anything."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.engines.host_memory import HostMemory, read_host_memory
from services.engines.watching.engine_metrics import EngineFigures, HistogramFigures
from services.engines.watching.health import STATES, EngineTarget, Signals, Verdict

_LABELS = ("model", "engine")

_GAUGES: Mapping[str, tuple[str, Callable[[EngineFigures], float | None]]] = {
    "engine_requests_running": ("Requests that the engine works on, as it says.", lambda each: each.running),
    "engine_requests_waiting": ("Requests that wait in the engine, as it says.", lambda each: each.waiting),
    "engine_kv_cache_usage_ratio": ("Share of the engine's KV cache in use, 0 to 1.", lambda each: each.kv_usage),
}
_COUNTERS: Mapping[str, tuple[str, Callable[[EngineFigures], float | None]]] = {
    "engine_prompt_tokens_total": ("Prompt tokens that the engine has read.", lambda each: each.prompt_tokens),
    "engine_generation_tokens_total": ("Tokens that the engine has generated.", lambda each: each.generation_tokens),
}
_HISTOGRAMS: Mapping[str, tuple[str, Callable[[EngineFigures], HistogramFigures | None]]] = {
    "engine_time_to_first_token_seconds": ("Time to the first token, in the engine's buckets.", lambda each: each.ttft),
    "engine_inter_token_latency_seconds": (
        "Time between two tokens, in the engine's buckets.",
        lambda each: each.itl,
    ),
}
_OF_PROCESSES: Mapping[str, tuple[str, Callable[[Signals], float | None]]] = {
    "engine_rss_bytes": (
        "Resident memory of the engine's processes together; pages that they share count in each.",
        lambda each: each.rss_bytes,
    ),
}
_HOST: Mapping[str, tuple[str, Callable[[HostMemory], float]]] = {
    "host_memory_total_bytes": ("Memory of the machine.", lambda each: each.total),
    "host_memory_free_bytes": ("Memory that nothing uses, page cache neither.", lambda each: each.free),
    "host_memory_available_bytes": ("Memory that programs can have without swapping.", lambda each: each.available),
    "host_memory_page_cache_bytes": ("Files that the kernel keeps and would give back.", lambda each: each.page_cache),
    "host_memory_largest_free_block_bytes": (
        "Largest contiguous free piece; 0 where the system doesn't tell.",
        lambda each: each.largest_free_block,
    ),
}
_STATE = ("engine_state", "1 for the state that the engine is in, 0 for the others.")
_MODEL_MEMORY = ("engine_model_memory_bytes", "Of a loaded model by device, where the engine tells (Ollama).")
_ON_GPU = ("engine_on_gpu", "1: the engine computes on the GPU; 0: on the CPU; absent where nothing tells.")
_FAULTS = ("host_major_faults_total", "Pages that the machine read from a disk since it started.")


class Watched(Protocol):
    """An engine that is looked at."""

    @property
    def target(self) -> EngineTarget:
        """Return where it answers."""

    @property
    def on_gpu(self) -> bool | None:
        """Return whether it computes on the GPU."""


class Observed(Protocol):
    """Who looks at engines, and keeps the last of what was seen, by model."""

    @property
    def engines(self) -> Mapping[str, Watched]:
        """Return the engines that run."""

    @property
    def signals(self) -> Mapping[str, Signals]:
        """Return the last look at each."""

    @property
    def verdicts(self) -> Mapping[str, Verdict]:
        """Return the last verdict on each."""


class EngineExporter(Collector):
    """Registered in the service's registry; collects what is known at that moment."""

    def __init__(self, observed: Observed, read_memory: Callable[[], HostMemory] = read_host_memory) -> None:
        self._observed = observed
        self._read_memory = read_memory

    def describe(self) -> list[Metric]:
        """Return the families without their values, which the registry and the documentation ask for."""
        return list(_families().values())

    def collect(self) -> Iterator[Metric]:
        """Yield the figures of the last looks, and the machine's memory."""
        families = _families()
        for model, engine in self._observed.engines.items():
            labels = (model, engine.target.engine)
            verdict, signals = self._observed.verdicts.get(model), self._observed.signals.get(model)
            if verdict is not None:
                for state in STATES:
                    families[_STATE[0]].add_metric([*labels, state], float(verdict.state == state))
            if engine.on_gpu is not None:
                families[_ON_GPU[0]].add_metric(labels, float(engine.on_gpu))
            if signals is not None:
                _add_processes(families, labels, signals)
                _add_figures(families, labels, signals.figures or EngineFigures())
        memory = self._read_memory()
        for name, (_, read) in _HOST.items():
            families[name].add_metric((), read(memory))
        families[_FAULTS[0]].add_metric((), memory.major_faults)
        yield from families.values()


def _families() -> dict[str, Any]:
    gauges = {**_GAUGES, **_OF_PROCESSES}
    return {
        _STATE[0]: GaugeMetricFamily(*_STATE, labels=[*_LABELS, "state"]),
        **{name: GaugeMetricFamily(name, about[0], labels=_LABELS) for name, about in gauges.items()},
        **{name: CounterMetricFamily(name, about[0], labels=_LABELS) for name, about in _COUNTERS.items()},
        **{name: HistogramMetricFamily(name, about[0], labels=_LABELS) for name, about in _HISTOGRAMS.items()},
        _ON_GPU[0]: GaugeMetricFamily(*_ON_GPU, labels=_LABELS),
        _MODEL_MEMORY[0]: GaugeMetricFamily(*_MODEL_MEMORY, labels=[*_LABELS, "device"]),
        **{name: GaugeMetricFamily(name, about[0]) for name, about in _HOST.items()},
        _FAULTS[0]: CounterMetricFamily(*_FAULTS),
    }


def _add_processes(families: Mapping[str, Any], labels: tuple[str, str], signals: Signals) -> None:
    for name, (_, read) in _OF_PROCESSES.items():
        value = read(signals)
        if value is not None:
            families[name].add_metric(labels, value)


def _add_figures(families: Mapping[str, Any], labels: tuple[str, str], figures: EngineFigures) -> None:
    for name, (_, read) in {**_GAUGES, **_COUNTERS}.items():
        value = read(figures)
        if value is not None:
            families[name].add_metric(labels, value)
    for name, (_, read_histogram) in _HISTOGRAMS.items():
        histogram = read_histogram(figures)
        if histogram is not None:
            families[name].add_metric(labels, buckets=list(histogram.buckets), sum_value=histogram.sum)
    for device, size in figures.memory_bytes.items():
        families[_MODEL_MEMORY[0]].add_metric([*labels, device], size)
