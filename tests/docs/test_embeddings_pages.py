"""docs/embeddings.md and docs/reranking.md: tables of the load test's results, which say what is missed."""

import re

import pytest

from loadtests.embeddings import report

MACHINE = {"cpu": "a processor", "cores": 2, "kernel": "Linux 6", "python": "3.11.7"}


def entry(direct=100.0, http=90.0, target=0.75, others=0.1):
    found = {
        "start_s": [1.2],
        "peak_rss_bytes": 150_000_000,
        "direct": {"short": [direct, direct * 2, direct]},
        "http": {"short": {"1": [http / 2] * 3, "4": [http, http * 2, http], "16": [http / 3] * 3}},
        "singles": [50.0] * 3,
        "latency": {"direct_p50": [2.0], "direct_p99": [3.0], "http_p50": [2.5], "http_p99": [9.0]},
        "rerank": {"chunk/10": {"direct": [100.0], "http": [120.0], "again": [2.0]}},
        "others_cores": [others],
    }
    return {"target": target, "plan": {"repetitions": 3}, "machine": MACHINE, "found": found}


@pytest.mark.parametrize("path", report.PAGES, ids=lambda path: path.name)
def test_the_pages_have_marks_that_the_load_test_fills_and_fills_again(path):
    page = path.read_text(encoding="utf-8")
    results = {"int8 ONNX": entry()}
    once = report.render(page, results)
    assert "| " in once
    assert report.render(once, results) == once
    marks = set(re.findall(r"<!-- figures: (\w+) -->", page))
    assert marks == set(re.findall(r"<!-- end of (\w+) -->", page))
    assert marks <= set(report.blocks(results))


def test_a_share_is_taken_within_each_repetition_and_the_best_concurrency_counts():
    results = {"int8 ONNX": entry()}
    assert report.shares(results["int8 ONNX"], "short") == pytest.approx({"1": 0.45, "4": 0.9, "16": 0.3}, abs=0.01)
    assert report.missed(results) == []
    assert [cell.strip() for cell in report.throughput(results).splitlines()[2].split("|")][-3:-1] == ["90 %", "75 %"]


def test_a_target_that_is_missed_stands_on_the_page():
    results = {"torch fp32": entry(http=80.0, target=0.9)}
    assert report.missed(results) == ["torch fp32, short: 80 % of the direct calls' texts a second, not 90 %"]
    assert "**Missed**: torch fp32, short: 80 %" in report.blocks(results)["throughput"]


def test_a_candidates_cost_is_that_of_the_request_shared_out():
    (line,) = [line for line in report.reranking({"int8 ONNX": entry()}).splitlines() if line.startswith("| 10 ")]
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "10",
        "about 190",
        "100",
        "120",
        "12.0",
        "2.0",
        "0.20",
    ]


@pytest.mark.parametrize(("others", "said"), [(0.1, False), (1.2, True)])
def test_a_busy_machine_is_told(others, said):
    assert ("was busy with other work" in report.setting({"int8 ONNX": entry(others=others)})) is said


def test_results_of_one_subject_are_kept_when_the_other_is_measured(tmp_path):
    from loadtests.embeddings.measuring import Found, Plan
    from loadtests.embeddings.subjects import INT8, Subject

    path = tmp_path / "results.json"
    report.save(INT8, Plan(), Found(start_s=[1.0]), MACHINE, path)
    report.save(Subject("torch fp32", "python", 0.9, "model"), Plan(2, 0.4), Found(), MACHINE, path)
    known = report.load(path)
    assert list(known) == ["int8 ONNX", "torch fp32"]
    assert known["int8 ONNX"]["found"]["start_s"] == [1.0]
