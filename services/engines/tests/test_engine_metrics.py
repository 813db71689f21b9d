"""Each engine's own text, read into one set of figures. llama.cpp's and vLLM's samples were recorded from real runs."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from services.engines.watching.engine_metrics import NAMES, read_figures

SAMPLES = Path(__file__).parent / "samples"


def sample(engine):
    return (SAMPLES / f"{engine}-metrics.txt").read_text()


def test_llamacpp():
    figures = read_figures("llamacpp", sample("llamacpp"))
    assert (figures.running, figures.waiting) == (0, 0)
    assert (figures.prompt_tokens, figures.generation_tokens, figures.tokens) == (32, 11, 43)
    assert figures.work == {"llamacpp:n_decode_total": 11}
    assert (figures.kv_usage, figures.ttft, figures.itl) == (None, None, None)  # it has none, and none is made up


def test_vllm():
    figures = read_figures("vllm", sample("vllm"))
    assert (figures.running, figures.waiting, figures.kv_usage) == (0, 0, 0)
    assert (figures.prompt_tokens, figures.generation_tokens) == (264, 463)
    assert figures.work["vllm:iteration_tokens_total_sum"] == 727


def test_sglang():
    figures = read_figures("sglang", sample("sglang"))
    assert (figures.running, figures.waiting, figures.kv_usage) == (2, 1, 0.28)
    assert figures.tokens == 8128 + 7557
    assert figures.work["sglang:num_used_tokens"] == 1234
    assert figures.itl.sum == 80.0


def test_trtllm():
    figures = read_figures("trtllm", sample("trtllm"))
    assert (figures.running, figures.kv_usage, figures.tokens) == (3, 0.62, 1200)
    assert figures.ttft.buckets == (("0.5", 9.0), ("+Inf", 10.0))
    assert figures.itl is None  # its time per output token is one of whole requests


@pytest.mark.parametrize("name", ["vllm:time_to_first_token_seconds", "vllm:inter_token_latency_seconds"])
def test_histograms_keep_every_bucket(name):
    families = text_string_to_metric_families(sample("vllm"))
    written = next(family.samples for family in families if family.name == name)
    figures = read_figures("vllm", sample("vllm"))
    read = figures.ttft if "first" in name else figures.itl
    assert list(read.buckets) == [(each.labels["le"], each.value) for each in written if each.name.endswith("_bucket")]
    assert read.sum == next(each.value for each in written if each.name.endswith("_sum"))


@pytest.mark.parametrize("engine", NAMES)
def test_every_name_of_the_table_is_in_the_engines_text(engine):
    text = sample(engine)
    assert [name for name in NAMES[engine].samples() if f"\n{name}" not in text] == []


def test_ranks_of_one_engine_are_added_up_and_its_fullest_cache_counts():
    text = "".join(
        f'vllm:num_requests_running{{engine="{rank}"}} {rank + 1}\n'
        f'vllm:kv_cache_usage_perc{{engine="{rank}"}} {0.5 - rank / 10}\n'
        f'vllm:time_to_first_token_seconds_bucket{{engine="{rank}",le="1.0"}} {rank}\n'
        f'vllm:time_to_first_token_seconds_bucket{{engine="{rank}",le="+Inf"}} {rank + 5}\n'
        f'vllm:time_to_first_token_seconds_sum{{engine="{rank}"}} {rank}\n'
        for rank in (0, 1)
    )
    figures = read_figures("vllm", text)
    assert (figures.running, figures.kv_usage) == (3, 0.5)
    assert figures.ttft.buckets == (("1.0", 1.0), ("+Inf", 11.0))


def test_labels_with_spaces_and_braces_are_read():
    assert read_figures("vllm", 'vllm:num_requests_running{model_name="a } b, \\"c\\""} 4\n').running == 4


@pytest.mark.parametrize("engine", NAMES)
@pytest.mark.parametrize("text", ["", "\n", "<html>It works!</html>", '{"figures": 1}', "up 1\n", "# HELP x y\n"])
def test_a_text_with_no_figure_of_the_engine_is_none(engine, text):
    assert read_figures(engine, text) is None


def test_a_value_that_is_no_number_is_left_out():
    assert read_figures("vllm", "vllm:kv_cache_usage_perc NaN\nvllm:num_requests_running 1\n").kv_usage is None


@given(st.text(alphabet='vllm:num_requests_running{}"=, 1.5\n#', max_size=200))
def test_garbage_is_figures_or_none_or_a_value_error(text):
    with contextlib.suppress(ValueError):
        figures = read_figures("vllm", "vllm:num_requests_running" + text)
        assert figures is None or figures.tokens is None
