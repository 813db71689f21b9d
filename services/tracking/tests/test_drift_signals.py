"""A window against the reference: what is called changed, and what is left out."""

import numpy as np
import pytest

from services.tracking.drift.signals import NAMES, SAYS, compare
from services.tracking.drift.windows import belongs, columns_of
from services.tracking.tests.samples_of_drift import sampled


@pytest.fixture(scope="module")
def reference():
    return columns_of(sampled(np.random.default_rng(11), 160))


def findings(reference, requests):
    return {each.name: each for each in compare(reference, columns_of(requests), seed=1)}


def changed(reference, **drift):
    found = findings(reference, sampled(np.random.default_rng(12), 80, first=1000, **drift))
    return {name for name, each in found.items() if each.alarm}


def test_an_unchanged_window_is_quiet(reference):
    assert changed(reference) == set()


@pytest.mark.parametrize(
    ("drift", "signals"),
    [
        ({"prompt": "Wie kann ich das mit der Datenbank von gestern machen?"}, {"prompt_language", "prompt_length"}),
        ({"prompt": lambda dice: "what is it? " * int(dice.integers(40, 90))}, {"prompt_length"}),
        ({"answer": "I'm sorry, but I can't help with that."}, {"refusals", "answer_length"}),
        ({"answer": ""}, {"empty_answers"}),
        ({"answer": "it is it is " * 30, "finish_reason": "length"}, {"repetition", "finish_reasons"}),
        ({"shift": 4.0}, {"prompt_domain", "prompt_mmd", "answer_domain", "topics"}),
        ({"seconds": lambda dice: float(dice.lognormal(2, 0.3))}, {"latency"}),
        ({"first_token_s": lambda dice: float(dice.lognormal(0, 0.3))}, {"first_token"}),
        ({"status": 502, "outcome": "failed"}, {"failures"}),
        ({"status": 403, "error": "guardrail_blocked"}, {"guard_blocks"}),
    ],
)
def test_what_has_changed_is_named(reference, drift, signals):
    found = changed(reference, **drift)

    assert signals <= found, found


def test_failures_of_formats_and_tools_are_compared_among_those_that_asked():
    asked = {"format_asked": True, "tools_offered": 1}
    good = columns_of(sampled(np.random.default_rng(1), 80, answer='{"a": 1}', **asked))
    found = findings(good, sampled(np.random.default_rng(2), 40, answer='{"name": "x", "arguments": {}} and', **asked))

    assert found["format_failures"].alarm
    assert not found["tool_failures"].alarm
    assert "format_failures" not in findings(good, sampled(np.random.default_rng(2), 40))


def test_without_vectors_what_needs_them_is_left_out(reference):
    found = findings(reference, sampled(np.random.default_rng(3), 80, vectors=False))

    assert not {"prompt_domain", "prompt_mmd", "topics", "closeness"} & found.keys()
    assert {"prompt_length", "latency", "refusals"} <= found.keys()


def test_the_same_window_has_the_same_findings(reference):
    window = columns_of(sampled(np.random.default_rng(4), 80))

    assert compare(reference, window, seed=5) == compare(reference, window, seed=5)


def test_every_signal_says_what_it_means():
    assert len(set(NAMES)) == len(NAMES)
    assert all(SAYS[name] for name in NAMES)


def test_inner_requests_and_those_measured_otherwise_do_not_belong():
    dice = np.random.default_rng(0)
    (ours,) = sampled(dice, 1)
    (inner,) = sampled(dice, 1, hops=1)

    assert belongs(ours)
    assert not belongs(inner)
    assert not belongs(type(ours)(ours.seq, ours.record, {"version": 0}))
