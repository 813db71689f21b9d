"""The overhead bench: its arithmetic, its reading of processes, and a whole quick run, whose times nobody asserts."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loadtests.gateway_overhead.arithmetic import (
    StreamLoad,
    cpu_per_chunk_s,
    median,
    percentile,
    spread,
)
from loadtests.gateway_overhead.processes import tree_cpu_s, tree_peak_rss_bytes
from loadtests.gateway_overhead.report import ratio, table
from loadtests.gateway_overhead.run import Row
from loadtests.gateway_overhead.wire import content_event

ROOT = Path(__file__).resolve().parents[2]


def test_the_median_of_an_even_count_lies_between_the_middle_two():
    assert median([9, 1, 5]) == 5
    assert median([4, 1, 2, 9]) == 3


def test_a_percentile_is_a_value_that_was_measured():
    values = list(range(1, 101))
    assert percentile(values, 50) == 50
    assert percentile(values, 99) == 99
    assert percentile(values, 100) == 100
    assert percentile([7.5], 1) == 7.5


@pytest.mark.parametrize("percent", [0, -1, 100.1])
def test_percentages_beyond_the_scale_are_refused(percent):
    with pytest.raises(ValueError, match="above 0, at most 100"):
        percentile([1.0], percent)


def test_nothing_has_no_median():
    with pytest.raises(ValueError, match="nothing"):
        median([])


def test_a_spread_is_median_lowest_and_highest():
    assert spread([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)


def test_a_chunk_costs_what_long_streams_cost_beyond_short_ones():
    per_stream_s, per_chunk_s = 300e-6, 50e-6
    short = StreamLoad(1000 * (per_stream_s + 2 * per_chunk_s), streams=1000, chunks=2000)
    long = StreamLoad(64 * (per_stream_s + 100 * per_chunk_s), streams=64, chunks=6400)
    assert cpu_per_chunk_s(long, short) == pytest.approx(per_chunk_s)


def test_streams_of_one_length_do_not_tell_a_chunk_from_a_stream():
    load = StreamLoad(1.0, streams=10, chunks=100)
    with pytest.raises(ValueError, match="can't be told"):
        cpu_per_chunk_s(load, load)


def test_ratios_are_taken_within_each_repetition():
    ours = Row("sparkstack", repetitions=[{"cost": 20.0}, {"cost": 60.0}, {"cost": 30.0}])
    theirs = Row("nginx", repetitions=[{"cost": 10.0}, {"cost": 30.0}, {"cost": 10.0}])
    assert ratio(ours, theirs, "cost") == 2.0
    assert ratio(ours, None, "cost") is None


def test_an_event_has_the_size_of_a_real_one():
    assert 200 <= len(content_event(time.monotonic_ns())) <= 260


_PARENT = """
import subprocess, sys
burn = "import time\\nwhile time.process_time() < 0.3: pass"
subprocess.run([sys.executable, "-c", burn], check=True)
print("child ended", flush=True)
sys.stdin.read()
"""


def test_the_cpu_time_of_a_tree_includes_children_that_have_ended():
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"child ended\n"
        assert 0.3 <= tree_cpu_s(parent.pid) < 30
        assert 1_000_000 < tree_peak_rss_bytes(parent.pid) < 1_000_000_000
        parent.kill()


def test_a_target_that_is_not_installed_gets_a_line_that_says_how_to_install_it():
    text = table([Row("litellm", status="not installed", note="not installed: make bench-peers")])
    assert "litellm: not installed: make bench-peers" in text


def _run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


@pytest.mark.slow  # it measures for seconds on all cores
def test_a_quick_run_measures_our_gateway_without_an_error(tmp_path):
    arguments = ["--targets", "direct,sparkstack", "--seconds", "1", "--repetitions", "1"]
    done = _run("loadtests.gateway_overhead", *arguments, "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr + done.stdout
    (written,) = tmp_path.glob("*.json")
    report = json.loads(written.read_text())
    assert set(report["targets"]) == {"direct", "sparkstack"}
    assert report["machine"]["cores"] >= 1
    ours, direct = report["targets"]["sparkstack"], report["targets"]["direct"]
    assert ours["status"] == direct["status"] == "ok"
    figures = {name: one["median"] for name, one in ours["summary"].items()}
    assert figures["cpu_us_per_request"] > 0
    assert figures["cpu_us_per_chunk"] > 0
    assert figures["plain_requests"] > 0
    assert figures["paced_chunks"] == 64 * report["plan"]["rounds"] * report["plan"]["chunks"]
    assert 0 < figures["ttft_p50_ms"] <= figures["ttft_p99_ms"]
    assert 0 < figures["chunk_delay_p50_ms"] <= figures["chunk_delay_p99_ms"]
    assert ours["peak_rss_bytes"] > 10_000_000
    assert direct["summary"]["cpu_us_per_request"]["median"] == 0
    assert "sparkstack" in done.stdout
    assert "CPU µs a request" in done.stdout


def test_an_unknown_target_is_named(tmp_path):
    done = _run("loadtests.gateway_overhead", "--targets", "direct,nonsense", "--output", str(tmp_path))
    assert done.returncode == 2
    assert "nonsense is no target; there are direct, sparkstack" in done.stderr


@pytest.mark.slow
def test_the_models_are_listed_whatever_state_the_engine_is_in(tmp_path):
    module = "loadtests.gateway_overhead.models_latency"
    done = _run(module, "--seconds", "0.5", "--per-second", "40", "--output", str(tmp_path))
    assert done.returncode in (0, 1), done.stderr  # 1: a time was above the limit, which is not asserted here
    (written,) = tmp_path.glob("*.json")
    found = {
        (one["engine"], one["discovery"]): (one["answers"], one["models"])
        for one in json.loads(written.read_text())["situations"]
    }
    assert found == {
        ("up", "done"): (20, 1),
        **{(state, "never got through"): (20, 0) for state in ("stopped", "silent", "dead")},
        **{(state, "done before"): (20, 1) for state in ("stopped", "silent", "dead")},
    }
