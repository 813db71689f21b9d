"""The list of models: as it is shipped, as it may be broken, and where a model's files are looked for."""

import importlib.util

import pytest

from services.embeddings.catalogue import HubFiles, NotHere, chosen, locate, read_cards
from services.embeddings.loading import budget_tokens
from services.embeddings.tests.dummies import card, settings
from services.kit.settings import SettingsError

AWAY = card("away", backend="torch", hub=HubFiles("some/one", "abc123"))


def test_the_shipped_models_say_what_a_user_must_know():
    cards = {each.id: each for each in read_cards()}
    assert list(cards) == ["all-minilm-l6-v2", "all-minilm-l6-v2-maxsim", "bge-large-en-v1.5", "bge-reranker-large"]
    for each in cards.values():
        assert each.licence in ("Apache-2.0", "MIT")
        assert bool(each.dimensions) == (each.capability == "embeddings")
        assert each.hub or all(len(file.sha256) == 64 for file in each.package_files.values())
        assert each.hub is None or len(each.hub.revision) == 40


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[{id: a}]", "missing required field"),
        ("[", "while parsing"),
        ("- {id: a, wrong: 1}", "unknown field `wrong`"),
    ],
)
def test_a_broken_list_names_its_file(tmp_path, text, says):
    path = tmp_path / "models.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"models\.yaml: ") as wrong:
        read_cards(path)
    assert says in str(wrong.value)


def test_two_models_can_not_have_one_name(tmp_path):
    path = tmp_path / "models.yaml"
    fields = "capability: rerank, backend: dummy, family: x, context_tokens: 64, licence: MIT, origin: here"
    path.write_text(f"- {{id: a, {fields}, aliases: [Same]}}\n- {{id: b, {fields}, aliases: [same]}}")
    with pytest.raises(SettingsError, match="same is a name of both a and b"):
        read_cards(path)


def test_models_are_chosen_by_any_of_their_names_in_the_order_asked():
    first, second = card("first", aliases=("one",)), card("second")
    assert chosen([first, second], ["SECOND", "one", "first"]) == [second, first]
    assert chosen([first, second], []) == [first, second]


@pytest.mark.parametrize("place", ["own", "HF_HUB_CACHE", "HF_HOME"])
def test_a_downloaded_model_is_found(tmp_path, monkeypatch, place):
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "nothing"))
    snapshot = "models--some--one/snapshots/abc123"
    folder = tmp_path / {"own": "embeddings/away", "HF_HOME": f"hub/{snapshot}", "HF_HUB_CACHE": snapshot}[place]
    if place != "own":
        monkeypatch.setenv(place, str(tmp_path))
    with pytest.raises(NotHere, match="`hf download some/one --revision abc123`"):
        locate(AWAY, tmp_path)
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert locate(AWAY, tmp_path).folder == folder


def test_a_downloaded_model_without_torch_says_which_environment_to_make(tmp_path, monkeypatch):
    folder = tmp_path / "embeddings" / "away"
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NotHere, match="this Python has no torch: make the environment"):
        locate(AWAY, tmp_path)


def test_a_batch_is_as_large_as_is_quick_and_allowed_and_holds_a_text(tmp_path):
    quick = card(batch_tokens=1024)
    assert budget_tokens(card(), settings(tmp_path)) == 4096
    assert budget_tokens(quick, settings(tmp_path)) == 1024
    assert budget_tokens(quick, settings(tmp_path, batch_tokens=512)) == 512
    assert budget_tokens(card(context_tokens=512), settings(tmp_path, batch_tokens=64)) == 512
