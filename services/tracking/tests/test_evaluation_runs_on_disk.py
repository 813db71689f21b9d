"""Runs on disk: found again, whole after a kill, held by one process at a time."""

import json
from datetime import datetime

import pytest

from services.tracking.evaluation.figures import summarised
from services.tracking.evaluation.runs import Item, Run, RunError, Runs, evaluations_folder


def item(name, score=1.0, **more):
    return Item(id=name, prompt="?", prompt_digest="d", answer="a", reference="a", score=score, **more)


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path)


def make(runs, model="smollm2", name="basics", **more):
    return runs.create(Run(id="", model=model, kind="set", set=name, set_digest="d", **more))


def test_a_run_and_its_items_come_back_as_they_were_written(runs):
    run = make(runs, model="Some/Model:q4", versions={"python": "3.11"}, limit=3)
    items = [item("a", 0.5, scores={"acc,none": 0.5}, prompt_tokens=4, seconds=0.25), item("b", 0, error="503")]
    runs.append(run, items)
    ended = summarised(run, items)
    runs.save(ended)
    assert runs.load(run.id) == ended
    assert runs.items(run) == items
    assert "some-model-q4-basics" in run.id
    assert (runs.path(run.id) / "run.json").stat().st_mode & 0o077 == 0
    assert (runs.path(run.id) / "items.jsonl").stat().st_mode & 0o077 == 0


def test_figures_have_intervals_and_count_what_went_wrong(runs):
    items = [
        item("a", 1, seconds=1.0, completion_tokens=10, finish_reason="stop"),
        item("b", 0, seconds=3.0, completion_tokens=30, finish_reason="length", format_failed=True),
        item("c", 0, error="no answer", scores={"f1": 0.5}),
    ]
    run = summarised(make(runs), items)
    assert run.score.mean == pytest.approx(1 / 3)
    assert (run.score.low, run.score.high, run.score.n) == (0, 1, 3)
    assert (run.figures["f1"].n, run.figures["seconds"].mean, run.figures["seconds"].n) == (1, 2, 2)
    assert {name: run.counts[name] for name in ("items", "errors", "format_failures", "cut")} == {
        "items": 3,
        "errors": 1,
        "format_failures": 1,
        "cut": 1,
    }
    assert (run.times["p50"], run.times["tokens_per_s"]) == (2, 10)
    assert summarised(run, []).figures == {}


def test_a_line_that_a_kill_cut_off_is_not_read_and_harms_no_later_one(runs):
    run = make(runs)
    runs.append(run, [item("a")])
    path = runs.path(run.id) / "items.jsonl"
    with path.open("ab") as file:
        file.write(b'{"id":"b","prompt":"?","prompt_di')
    assert [each.id for each in runs.items(run)] == ["a"]
    runs.append(run, [item("c")])
    assert [each.id for each in runs.items(run)] == ["a", "c"]


def test_an_item_that_was_asked_again_counts_once_as_it_was_last(runs):
    run = make(runs)
    runs.append(run, [item("a", 0, error="503"), item("b")])
    runs.append(run, [item("a", 1)])
    assert [(each.id, each.score, each.error) for each in runs.items(run)] == [("a", 1, ""), ("b", 1, "")]


def test_a_line_that_is_no_item_is_told(runs):
    run = make(runs)
    (runs.path(run.id) / "items.jsonl").write_text('{"id": 3}\n')
    with pytest.raises(RunError, match=r"items\.jsonl, line 1"):
        runs.items(run)


def test_a_run_is_found_by_the_beginning_of_its_id_that_only_it_has(runs):
    run = make(runs)
    assert runs.load(run.id[:-2]).id == run.id
    other = make(runs)
    with pytest.raises(RunError, match="2 runs begin with 20"):
        runs.load(run.id[:2])
    assert runs.load(other.id).id == other.id
    for name in ("nothing", "", "../x"):
        with pytest.raises(RunError, match="there is no run"):
            runs.load(name)


def test_two_runs_that_begin_at_once_have_folders_of_their_own(runs, monkeypatch):
    drawn = iter(["aaaaaa", "aaaaaa", "bbbbbb"])
    monkeypatch.setattr("services.tracking.evaluation.runs.secrets.token_hex", lambda _: next(drawn))
    assert make(runs).id.endswith("aaaaaa")
    monkeypatch.setattr("services.tracking.evaluation.runs.datetime", _Still(runs.list()[0].started))
    assert make(runs).id.endswith("bbbbbb")


class _Still:
    """A clock that has stopped."""

    def __init__(self, at):
        self._at = datetime.fromisoformat(at)

    def now(self, _zone):
        return self._at


def test_the_list_is_newest_first_and_leaves_out_what_is_none(runs, tmp_path):
    from dataclasses import replace

    older, newer = make(runs), make(runs, model="other")
    (tmp_path / older.id).rename(tmp_path / "20200101-000000-old")
    runs.save(replace(older, id="20200101-000000-old", started="2020-01-01T00:00:00.000Z", state="finished"))
    (tmp_path / "20990101-broken").mkdir()
    (tmp_path / "20990101-broken" / "run.json").write_text("{")
    later = json.loads((tmp_path / newer.id / "run.json").read_text()) | {"version": 99, "id": "20990102-later"}
    (tmp_path / "20990102-later").mkdir()
    (tmp_path / "20990102-later" / "run.json").write_text(json.dumps(later))
    assert [run.id for run in runs.list()] == [newer.id, "20200101-000000-old"]
    assert [run.id for run in runs.list(model="other")] == [newer.id]
    assert runs.latest("smollm2", "basics").id == "20200101-000000-old"
    assert runs.latest("other", "basics") is None, "it has not finished"
    with pytest.raises(RunError, match="later version of sparkstack"):
        runs.load("20990102")


def test_one_process_at_a_time_is_at_work_on_a_run(runs):
    run = make(runs)
    assert not runs.at_work(run), "nobody holds it: it was killed"
    with runs.held(run):
        assert runs.at_work(run)
        with pytest.raises(RunError, match="at work in another process"), runs.held(run):
            pass
    assert not runs.at_work(run)


def test_they_are_kept_in_the_state_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARKSTACK_STATE", str(tmp_path / "state"))
    assert evaluations_folder() == tmp_path / "state" / "evaluations"
    monkeypatch.delenv("SPARKSTACK_STATE")
    monkeypatch.setenv("SPARKSTACK_HOME", str(tmp_path))
    assert evaluations_folder() == tmp_path / ".state" / "evaluations"
