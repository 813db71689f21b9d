"""Each engine's own metric names, read into one set of figures.

The values are the engine's, unchanged: counters that begin again at zero with a new process stay so (Prometheus'
`rate()` knows resets), histograms keep their buckets, and what an engine doesn't have is left out, not made up.
docs/metrics.md has the table of names.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


@dataclass(frozen=True)
class EngineNames:
    """What an engine calls its figures; None where it has none.

    Args:
        path: where its Prometheus text is.
        work: further figures that change while it works, and only then.
    """

    path: str
    running: str
    waiting: str
    prompt_tokens: str
    generation_tokens: str
    kv_usage: str | None = None
    ttft: str | None = None
    itl: str | None = None
    work: tuple[str, ...] = ()

    def samples(self) -> frozenset[str]:
        """Return the names of all samples that are read."""
        single = (self.running, self.waiting, self.prompt_tokens, self.generation_tokens, self.kv_usage, *self.work)
        histograms = [name for name in (self.ttft, self.itl) if name]
        parts = [name + suffix for name in histograms for suffix in ("_bucket", "_sum", "_count")]
        return frozenset([*(name for name in single if name), *parts])


NAMES: Mapping[str, EngineNames] = {
    # Source: a running server; its counters move when a prompt is read and when an answer ends, the slots before.
    "llamacpp": EngineNames(
        path="/metrics",
        running="llamacpp:requests_processing",
        waiting="llamacpp:requests_deferred",
        prompt_tokens="llamacpp:prompt_tokens_total",
        generation_tokens="llamacpp:tokens_predicted_total",
        work=("llamacpp:n_decode_total",),
    ),
    # Source: a running server (0.32, CPU). Prompt tokens count once the whole prompt is read; the share of the KV
    # cache grows with each chunk before that.
    "vllm": EngineNames(
        path="/metrics",
        running="vllm:num_requests_running",
        waiting="vllm:num_requests_waiting",
        prompt_tokens="vllm:prompt_tokens_total",
        generation_tokens="vllm:generation_tokens_total",
        kv_usage="vllm:kv_cache_usage_perc",
        ttft="vllm:time_to_first_token_seconds",
        itl="vllm:inter_token_latency_seconds",
        work=("vllm:kv_cache_usage_perc", "vllm:iteration_tokens_total_sum", "vllm:prefix_cache_queries_total"),
    ),
    # Source: SGLang's documentation and its own tests. Its token counters move when a request ends.
    "sglang": EngineNames(
        path="/metrics",
        running="sglang:num_running_reqs",
        waiting="sglang:num_queue_reqs",
        prompt_tokens="sglang:prompt_tokens_total",
        generation_tokens="sglang:generation_tokens_total",
        kv_usage="sglang:token_usage",
        ttft="sglang:time_to_first_token_seconds",
        itl="sglang:inter_token_latency_seconds",
        work=(
            "sglang:token_usage",
            "sglang:num_used_tokens",
            "sglang:gen_throughput",
            "sglang:inter_token_latency_seconds_count",
            "sglang:time_to_first_token_seconds_count",
        ),
    ),
    # Source: TensorRT-LLM's documentation. Served with `return_perf_metrics` only; /metrics itself is JSON. It has
    # a time per output token of whole requests, which is no inter-token latency.
    "trtllm": EngineNames(
        path="/prometheus/metrics",
        running="trtllm_num_requests_running",
        waiting="trtllm_num_requests_waiting",
        prompt_tokens="trtllm_prompt_tokens_total",
        generation_tokens="trtllm_generation_tokens_total",
        kv_usage="trtllm_kv_cache_utilization",
        ttft="trtllm_time_to_first_token_seconds",
        work=("trtllm_kv_cache_utilization", "trtllm_time_to_first_token_seconds_count"),
    ),
}


@dataclass(frozen=True)
class HistogramFigures:
    """A histogram as it was read: buckets by their `le` as written, cumulative, and the sum of all values."""

    buckets: tuple[tuple[str, float], ...]
    sum: float


@dataclass(frozen=True)
class EngineFigures:
    """What an engine says of itself; None for what it doesn't.

    Args:
        kv_usage: share of the KV cache in use, 0 to 1; the fullest where it has several.
        work: further figures that change while it works, and only then.
        memory_bytes: of its loaded model by device (`gpu`, `cpu`), where it tells (Ollama).
    """

    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    prompt_tokens: float | None = None
    generation_tokens: float | None = None
    ttft: HistogramFigures | None = None
    itl: HistogramFigures | None = None
    work: Mapping[str, float] = field(default_factory=dict)
    memory_bytes: Mapping[str, float] = field(default_factory=dict)

    @property
    def tokens(self) -> float | None:
        """Return the tokens read and generated; None where it counts neither."""
        if self.prompt_tokens is None and self.generation_tokens is None:
            return None
        return (self.prompt_tokens or 0.0) + (self.generation_tokens or 0.0)


def read_figures(engine: str, text: str) -> EngineFigures | None:
    """Return the figures in an engine's Prometheus text; None where there is none of them in it.

    Raises:
        ValueError: it is no Prometheus text.
    """
    names = NAMES[engine]
    samples = _samples(text, names.samples())
    if not samples:
        return None
    return EngineFigures(
        running=_total(samples, names.running),
        waiting=_total(samples, names.waiting),
        kv_usage=_highest(samples, names.kv_usage),
        prompt_tokens=_total(samples, names.prompt_tokens),
        generation_tokens=_total(samples, names.generation_tokens),
        ttft=_histogram(samples, names.ttft),
        itl=_histogram(samples, names.itl),
        work={name: total for name in names.work if (total := _total(samples, name)) is not None},
    )


def _samples(text: str, wanted: frozenset[str]) -> dict[str, list[Sample]]:
    """Return the wanted samples by name. Engines write hundreds more, which are skipped before they are parsed."""
    lines = [line for line in text.splitlines() if line.partition("{")[0].partition(" ")[0] in wanted]
    found: dict[str, list[Sample]] = {}
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            if sample.value == sample.value:  # no NaN: it says nothing, and differs from itself at each look
                found.setdefault(sample.name, []).append(sample)
    return found


def _values(samples: Mapping[str, Iterable[Sample]], name: str | None) -> list[float]:
    return [sample.value for sample in samples.get(name or "", ())]


def _total(samples: Mapping[str, Iterable[Sample]], name: str | None) -> float | None:
    values = _values(samples, name)
    return sum(values) if values else None


def _highest(samples: Mapping[str, Iterable[Sample]], name: str | None) -> float | None:
    return max(_values(samples, name), default=None)


def _histogram(samples: Mapping[str, Iterable[Sample]], name: str | None) -> HistogramFigures | None:
    """Return a histogram, its label sets (ranks of one engine, which have the same buckets) added up."""
    buckets: dict[str, float] = {}
    for sample in samples.get(f"{name}_bucket", ()):
        le = sample.labels.get("le", "")
        buckets[le] = buckets.get(le, 0.0) + sample.value
    if "+Inf" not in buckets:
        return None
    return HistogramFigures(tuple(buckets.items()), _total(samples, f"{name}_sum") or 0.0)
