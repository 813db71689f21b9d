"""Two runs side by side: the difference, how sure it is, and which items changed."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from services.tracking.commands.compare import compare as verb
from services.tracking.evaluation.comparison import (
    NotComparable,
    compare,
    items_needed,
    lower_bound,
    mcnemar,
    median_ratio,
    upper_bound,
)
from services.tracking.evaluation.runs import Run, Runs
from services.tracking.tests.samples_of_evaluation import item, stored


def run(model="m", **fields):
    return Run("", model, "set", "basics", "d", **fields)


def scores(*values, **fields):
    return [item(number, float(score), **fields) for number, score in enumerate(values)]


def test_the_difference_is_paired_and_the_changed_items_are_named_worst_first():
    before = scores(1, 1, 0, 0, 1)
    after = scores(1, 0, 1, 0, 0.5)
    found = compare(run(), before, run(), after)
    assert found.difference.mean == pytest.approx(-0.1)
    assert found.difference.low <= -0.1 <= found.difference.high
    assert [(change.before.id, change.by) for change in found.changes] == [("q1", -1), ("q4", -0.5), ("q2", 1)]
    assert found.mcnemar is None
    assert found.unlike == []


def test_mcnemar_is_the_binomial_of_the_items_that_changed_sides():
    pairs = list(zip(scores(*[1] * 10, 0, 0), scores(*[0] * 8, 1, 1, 1, 0), strict=True))
    found = mcnemar(pairs)
    assert (found.better, found.worse) == (1, 8)
    assert found.p == pytest.approx(2 * (1 + 9) / 2**9)
    same = mcnemar(list(zip(scores(1, 0), scores(1, 0), strict=True)))
    assert (same.better, same.worse, same.p) == (0, 0, 1.0)


def test_mcnemar_of_many_items_does_not_overflow():
    pairs = list(zip(scores(*[1] * 3000), scores(*[0] * 3000), strict=True))
    assert mcnemar(pairs).p == 0.0


def test_only_items_that_were_asked_alike_are_compared():
    before = [*scores(1, 1), item(2, 1.0, prompt="worded so")]
    after = [*scores(0), item(2, 0.0, prompt="worded otherwise"), item(7)]
    found = compare(run(), before, run(seed=3), after)
    assert [one.id for one, _ in found.pairs] == ["q0"]
    assert (found.missing, found.asked_differently) == (2, 1)
    assert found.unlike == ["seed", "the wording of 1 items, which are left out"]


@pytest.mark.parametrize(
    ("after", "set_name", "why"),
    [
        ([item(0, prompt="other")], "basics", "their 1 common items were worded differently"),
        ([item(9)], "other", "one asked basics, the other other"),
        ([item(9)], "basics", "no item in common"),
    ],
)
def test_runs_without_a_common_item_are_refused_with_the_reason(after, set_name, why):
    second = Run("", "m", "set", set_name, "d")
    with pytest.raises(NotComparable, match=why):
        compare(run(), scores(1), second, after)


def test_seconds_and_tokens_are_ratios_of_items_that_both_answered():
    before = [item(0, seconds=1.0), item(1, seconds=2.0), item(2, seconds=1.0), item(3, seconds=None)]
    after = [
        item(0, seconds=2.0, completion_tokens=40),
        item(1, seconds=4.0, completion_tokens=10),
        item(2, seconds=90.0, error="502", completion_tokens=None),
        item(3, seconds=5.0),
    ]
    found = compare(run(), before, run(), after)
    assert found.seconds_ratio.mean == pytest.approx(2.0)
    assert median_ratio(found) == pytest.approx(2.0)
    assert found.tokens_ratio.mean == pytest.approx(4 ** (1 / 3))
    untimed = compare(run(), [item(0, seconds=None)], run(), [item(0, seconds=None)])
    assert untimed.seconds_ratio is None
    assert median_ratio(untimed) is None


def test_new_format_failures_are_those_of_the_second_run_alone():
    before = [item(0, format_failed=True), item(1), item(2)]
    after = [item(0, format_failed=True), item(1, format_failed=True), item(2)]
    assert compare(run(), before, run(), after).new_format_failures == ("q1",)


def test_a_bound_is_honest_about_few_items_and_mirrors():
    same = [0.0] * 40
    assert lower_bound(same, 0.95) < -0.03
    assert upper_bound(same, 0.95) == pytest.approx(-lower_bound(same, 0.95))
    assert lower_bound([0.0] * 400, 0.95) > -0.005
    assert lower_bound([0.1, -0.1] * 50, 0.99) < lower_bound([0.1, -0.1] * 50, 0.9)
    with pytest.raises(ValueError, match="no differences"):
        lower_bound([], 0.95)


def test_a_candidate_that_is_worse_by_the_margin_passes_no_more_often_than_the_confidence_says():
    generator = np.random.default_rng(11)
    passed = 0
    for _ in range(2000):
        # Of 80 items 12 % change for the worse and 7 % for the better: worse by 0.05.
        drawn = generator.choice([-1.0, 1.0, 0.0], 80, p=[0.12, 0.07, 0.81])
        passed += lower_bound(list(drawn), 0.95) > -0.05
    assert passed / 2000 < 0.06


def test_the_number_of_items_that_would_show_it_is_about_right():
    drawn = [-1.0] * 4 + [1.0] * 4 + [0.0] * 92
    assert lower_bound(drawn, 0.95) < -0.04
    needed = items_needed(drawn, 0.04, 0.95)
    times = needed / 100
    more = [-1.0] * round(4 * times) + [1.0] * round(4 * times) + [0.0] * round(92 * times)
    assert lower_bound(more, 0.95) > -0.045
    assert needed < 200
    assert items_needed([-1.0] * 10, 0.05, 0.95) is None


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARKSTACK_STATE", str(tmp_path))
    return Runs(tmp_path / "evaluations")


def invoke(*arguments):
    return CliRunner().invoke(verb, list(arguments), catch_exceptions=False)


def test_the_verb_shows_runs_side_by_side_and_what_changed(runs, tmp_path):
    one = stored(runs, "old", scores(*[1] * 6, 0, 0))
    two = stored(runs, "new", [*scores(*[1] * 5), item(5, 0.0, answer="a | *bold* mistake"), item(6), item(7)])
    three = stored(runs, "newest", scores(*[1] * 8, seconds=3.0))
    report = tmp_path / "report.md"
    said = invoke(one.id, two.id, three.id, "--output", str(report))
    assert said.exit_code == 0
    assert said.output.splitlines()[1].split()[:3] == ["a", "old", "basics"]
    assert "b − a, 8 items: +0.125" in said.output
    assert "right in 2 that were wrong, wrong in 1 that were right: p = 1, chance would do" in said.output
    assert "q5: 1 → 0  a | *bold* mistake" in said.output
    assert "an answer takes 3.00 × [3.00, 3.00] as long" in said.output
    text = report.read_text(encoding="utf-8")
    assert "a \\| \\*bold\\* mistake" in text
    assert text.count("\n## ") == 2


def test_the_verb_takes_models_newest_finished_runs_of_a_set(runs):
    stored(runs, "old", scores(0, 0))
    stored(runs, "new", scores(1, 1), recipe="recipe-of-new")
    said = invoke("old", "new", "--set", "basics", "--json")
    assert json.loads(said.output)[0]["difference"]["mean"] == 1
    assert invoke("old", "recipe-of-new", "--set", "basics").exit_code == 0
    missing = invoke("old", "other", "--set", "basics")
    assert missing.exit_code == 1
    assert "other has no finished run on basics; `sparkstack eval run other --set basics` makes one" in missing.output


def test_the_verb_refuses_one_run_and_runs_that_have_nothing_in_common(runs):
    one, other = stored(runs, "old", scores(1)), stored(runs, "old", [item(5)], "other")
    assert invoke(one.id).exit_code == 2
    assert "one asked basics, the other other" in invoke(one.id, other.id).output
    assert "there is no run 'nothing'" in invoke(one.id, "nothing").output
