"""What the engines service exports: the last looks, unchanged, under one set of names."""

from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from services.engines.host_memory import HostMemory
from services.engines.watching.engine_metrics import EngineFigures, read_figures
from services.engines.watching.exporter import EngineExporter
from services.engines.watching.health import EngineTarget, Signals, Verdict

MEMORY = HostMemory(1000, 300, 700, 400, 64, 12)
SAMPLES = Path(__file__).parent / "samples"


def sample(engine):
    return (SAMPLES / f"{engine}-metrics.txt").read_text()


@dataclass
class Watched:
    target: EngineTarget
    on_gpu: bool | None = None


@dataclass
class Observed:
    engines: dict[str, Watched] = field(default_factory=dict)
    signals: dict[str, Signals] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)

    def see(self, model, engine, figures, *, state="busy", on_gpu=None, rss_bytes=1):
        self.engines[model] = Watched(EngineTarget(model, engine, "", "", model), on_gpu)
        self.verdicts[model] = Verdict(state, "", 0)
        self.signals[model] = Signals(
            1.0, "running", 1.0, True, False, None, None, None, 0, rss_bytes=rss_bytes, figures=figures
        )


def scrape(observed):
    registry = CollectorRegistry()
    registry.register(EngineExporter(observed, lambda: MEMORY))
    text = generate_latest(registry).decode()
    return {
        (each.name, tuple(sorted(each.labels.items()))): each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
    }


def labels(model, engine, **more):
    return tuple(sorted({"model": model, "engine": engine, **more}.items()))


def test_two_engines_under_one_set_of_names():
    observed = Observed()
    observed.see("small", "llamacpp", read_figures("llamacpp", sample("llamacpp")))
    observed.see("big", "sglang", read_figures("sglang", sample("sglang")))
    values = scrape(observed)
    assert values["engine_prompt_tokens_total", labels("small", "llamacpp")] == 32
    assert values["engine_prompt_tokens_total", labels("big", "sglang")] == 8128
    assert values["engine_requests_running", labels("big", "sglang")] == 2
    assert values["engine_kv_cache_usage_ratio", labels("big", "sglang")] == 0.28
    assert ("engine_kv_cache_usage_ratio", labels("small", "llamacpp")) not in values


def test_histograms_pass_through_bucket_by_bucket():
    observed = Observed()
    figures = read_figures("vllm", sample("vllm"))
    observed.see("m", "vllm", figures)
    values = scrape(observed)
    name = "engine_time_to_first_token_seconds"
    exported = {
        dict(key)["le"]: value for (sample_name, key), value in values.items() if sample_name == f"{name}_bucket"
    }
    assert exported == dict(figures.ttft.buckets)
    assert values[f"{name}_count", labels("m", "vllm")] == 8
    assert values[f"{name}_sum", labels("m", "vllm")] == figures.ttft.sum


def test_one_state_of_five_is_one():
    observed = Observed()
    observed.see("m", "vllm", None, state="stalled")
    values = scrape(observed)
    states = {state: values["engine_state", labels("m", "vllm", state=state)] for state in ("busy", "stalled", "dead")}
    assert states == {"busy": 0, "stalled": 1, "dead": 0}
    assert sum(value for (name, _), value in values.items() if name == "engine_state") == 1


def test_a_counter_that_begins_again_is_exported_as_it_is():
    observed = Observed()
    observed.see("m", "vllm", EngineFigures(generation_tokens=500))
    before = scrape(observed)["engine_generation_tokens_total", labels("m", "vllm")]
    observed.see("m", "vllm", EngineFigures(generation_tokens=3))
    after = scrape(observed)["engine_generation_tokens_total", labels("m", "vllm")]
    assert (before, after) == (500, 3)  # Prometheus sees the reset; a sum of ours would hide or double it


def test_an_engine_that_did_not_answer_has_a_state_and_no_figures():
    observed = Observed()
    observed.see("m", "vllm", None)
    names = {name for name, _ in scrape(observed)}
    assert {"engine_state", "engine_rss_bytes"} <= names
    assert not names & {"engine_requests_running", "engine_generation_tokens_total"}


def test_where_it_computes_is_exported_once_it_is_known():
    observed = Observed()
    observed.see("a", "vllm", None, on_gpu=True)
    observed.see("b", "vllm", None, on_gpu=False)
    observed.see("c", "vllm", None, on_gpu=None)
    values = scrape(observed)
    assert values["engine_on_gpu", labels("a", "vllm")] == 1
    assert values["engine_on_gpu", labels("b", "vllm")] == 0
    assert ("engine_on_gpu", labels("c", "vllm")) not in values


def test_ollamas_models_by_device():
    observed = Observed()
    observed.see("m", "ollama", EngineFigures(memory_bytes={"gpu": 5, "cpu": 7}))
    values = scrape(observed)
    assert values["engine_model_memory_bytes", labels("m", "ollama", device="gpu")] == 5
    assert values["engine_model_memory_bytes", labels("m", "ollama", device="cpu")] == 7


def test_the_machines_memory_is_there_with_no_engine_at_all():
    values = scrape(Observed())
    assert {name: value for (name, _), value in values.items() if name.startswith("host_")} == {
        "host_memory_total_bytes": 1000,
        "host_memory_free_bytes": 300,
        "host_memory_available_bytes": 700,
        "host_memory_page_cache_bytes": 400,
        "host_memory_largest_free_block_bytes": 64,
        "host_major_faults_total": 12,
    }


def test_what_is_described_is_what_is_collected():
    exporter = EngineExporter(Observed(), lambda: MEMORY)
    assert [family.name for family in exporter.describe()] == [family.name for family in exporter.collect()]
