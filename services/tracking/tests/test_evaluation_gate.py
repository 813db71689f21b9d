"""The gate: only what is shown lets a candidate pass, and each refusal says why."""

from dataclasses import replace

import pytest

from services.tracking.evaluation.comparison import compare
from services.tracking.evaluation.gate import DriftFound, Evidence, JudgeFound, check, passes
from services.tracking.evaluation.rules import SHIPPED, RulesError, load_rules
from services.tracking.evaluation.runs import Run
from services.tracking.tests.samples_of_evaluation import item

RULES = load_rules()


def evidence(baseline, candidate, set_name="basics", **fields):
    run = Run("", "m", "set", set_name, "d")
    comparison = compare(run, baseline, run, candidate)
    return Evidence({set_name: tuple(candidate)}, (comparison,), **fields)


def scores(*values, **fields):
    return [item(number, float(score), **fields) for number, score in enumerate(values)]


def outcomes(found):
    return {each.rule: each.outcome for each in found}


def test_a_candidate_with_the_same_answers_passes_with_enough_items_and_not_with_few():
    enough = check(RULES, evidence(scores(*[1] * 60), scores(*[1] * 60)))
    assert passes(enough)
    few = check(RULES, evidence(scores(*[1] * 20), scores(*[1] * 20)))
    assert not passes(few)
    assert outcomes(few)["items"] == "not shown"
    quality = next(each for each in few if each.rule == "quality")
    assert quality.outcome == "not shown"
    assert quality.note == "20 items can't show it; about 31 such items would"


def test_a_worse_candidate_is_refused_as_worse_and_a_better_one_passes():
    half = [1, 0] * 50
    worse = check(RULES, evidence(scores(*half), scores(*([0, 0] * 50))))
    quality = next(each for each in worse if each.rule == "quality")
    assert quality.outcome == "broken"
    assert quality.figure.startswith("-0.5")
    assert quality.limit == "> -0.050"
    assert "it is worse: at most -0.4" in quality.note
    assert passes(check(RULES, evidence(scores(*half), scores(*([1, 1] * 50)))))


def test_a_candidate_that_may_be_worse_by_the_margin_is_not_shown_to_be_good_enough():
    before, after = [1] * 100, [1] * 96 + [0] * 4
    found = check(RULES, evidence(scores(*before), scores(*after)))
    quality = next(each for each in found if each.rule == "quality")
    assert quality.outcome == "broken" or "items would" in quality.note
    assert not passes(found)


def test_one_set_that_is_surely_worse_is_not_made_good_by_another():
    run = Run("", "m", "set", "good", "d")
    good = compare(run, scores(*[0] * 400), run, scores(*[1] * 400))
    bad_run = replace(run, set="bad")
    bad = compare(bad_run, scores(*[1] * 40), bad_run, scores(*[0] * 40))
    both = Evidence({"good": tuple(scores(*[1] * 400)), "bad": tuple(scores(*[0] * 40))}, (good, bad))
    found = outcomes(check(RULES, both))
    assert found["quality"] == "kept"
    assert found["quality in each set"] == "broken"


def test_a_first_model_has_nothing_to_be_compared_with_and_passes_on_what_can_be_asked():
    found = check(RULES, Evidence({"basics": tuple(scores(*[0] * 50))}))
    assert outcomes(found) == {
        "items": "kept",
        "quality": "not asked",
        "failures": "kept",
        "new format failures": "not asked",
        "latency": "not asked",
        "judge": "not asked",
        "drift": "not asked",
    }
    assert passes(found)


def test_new_format_failures_failed_requests_and_slowness_are_refused():
    before = scores(*[1] * 60)
    form = [item(0, 1.0, format_failed=True), *before[1:]]
    assert outcomes(check(RULES, evidence(before, form)))["new format failures"] == "broken"
    assert outcomes(check(RULES, evidence(form, before)))["new format failures"] == "kept"
    failed = [replace(before[0], error="502", score=0.0), *before[1:]]
    found = check(RULES, evidence(before, failed))
    assert outcomes(found)["failures"] == "broken"
    assert next(each for each in found if each.rule == "failures").note == "1 of 60 requests, such as q0"
    assert outcomes(check(RULES, evidence(before, scores(*[1] * 60, seconds=1.3))))["latency"] == "broken"
    assert outcomes(check(RULES, evidence(before, scores(*[1] * 60, seconds=1.2))))["latency"] == "kept"
    assert outcomes(check(RULES, evidence(before, scores(*[1] * 60, seconds=None))))["latency"] == "not shown"


def test_an_absolute_bound_on_seconds_counts_without_a_baseline(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("latency: {p95_s_at_most: 2}\n")
    rules = load_rules(own)
    quick = check(rules, Evidence({"s": tuple(scores(*[1] * 20))}))
    slow = check(rules, Evidence({"s": tuple(scores(*[1] * 20, seconds=2.5))}))
    assert [each.outcome for each in (*quick, *slow)] == ["kept", "broken"]


@pytest.mark.parametrize(
    ("judge", "rule", "outcome"),
    [
        (JudgeFound("j", 0.52, 0.44, asked=60, contradicted=10, unreadable=2), "judge", "kept"),
        (JudgeFound("j", 0.45, 0.35, asked=60, contradicted=10, unreadable=2), "judge", "not shown"),
        (JudgeFound("j", 0.50, 0.48, asked=60, contradicted=40, unreadable=2), "judge is consistent", "not shown"),
        (JudgeFound("j", 0.50, 0.48, asked=60, contradicted=0, unreadable=12), "judge is readable", "not shown"),
        (JudgeFound("j", None, None, asked=60, contradicted=0, unreadable=60), "judge is readable", "not shown"),
        (JudgeFound("j", 0.5, 0.5, asked=0, contradicted=0, unreadable=0), "judge", "kept"),
    ],
)
def test_a_judge_is_believed_where_it_can_be_read_and_agrees_with_itself(judge, rule, outcome):
    found = check(RULES, evidence(scores(*[1] * 60), scores(*[1] * 60), judge=judge))
    assert outcomes(found)[rule] == outcome
    assert passes(found) == (outcome == "kept")


@pytest.mark.parametrize(
    ("drift", "outcome", "note"),
    [
        (None, "not asked", "no tracking service runs"),
        (DriftFound(trouble="it does not answer"), "not asked", "it does not answer"),
        (DriftFound(), "kept", "no full window yet"),
        (DriftFound((), 7), "kept", "window 7"),
        (DriftFound(("prompt_language",), 7), "broken", "window 7: prompt_language"),
    ],
)
def test_traffic_that_drifts_stands_in_the_way(drift, outcome, note):
    found = check(RULES, evidence(scores(*[1] * 60), scores(*[1] * 60), drift=drift))[-1]
    assert (found.outcome, found.note) == (outcome, note)


def test_nothing_that_is_kept_is_no_pass():
    assert not passes(check(replace(RULES, items=None, failures=None), Evidence({"s": tuple(scores(1))})))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("quality: {margni: 0.1, margin: 0.1}", "margni"),
        ("quality: {}", "margin"),
        ("quality: {margin: 2}", "<= 1.0"),
        ("speed: {ratio: 1}", "speed"),
        ("items: {at_least: many}", "Expected `int`"),
        ("[1]", "Expected `object`"),
        ("", "has no rule"),
        ("items: [", "own.yaml"),
    ],
)
def test_a_file_with_a_mistake_is_refused_and_the_mistake_is_named(tmp_path, text, why):
    own = tmp_path / "own.yaml"
    own.write_text(text)
    with pytest.raises(RulesError, match=why):
        load_rules(own)


def test_a_missing_file_is_named_and_the_shipped_one_has_every_rule(tmp_path):
    with pytest.raises(RulesError, match=r"none\.yaml can't be read: No such file"):
        load_rules(tmp_path / "none.yaml")
    shipped = load_rules(SHIPPED)
    assert all(
        getattr(shipped, name) is not None
        for name in ("items", "quality", "failures", "formats", "latency", "judge", "drift")
    )
