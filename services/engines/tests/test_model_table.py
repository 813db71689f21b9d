"""The list of models: for this machine first, then what is here."""

from pathlib import Path
from typing import Any

from services.engines.files.model_table import documents, machines_here, model_rows, table
from services.engines.files.store import ModelStore
from services.engines.recipes import Recipe
from services.engines.tests.test_store import recipe


def named(recipe_id: str, **changes: Any) -> Recipe:
    return Recipe.model_validate({**recipe().model_dump(), "id": recipe_id, **changes})


def test_what_this_machine_runs_comes_first_and_of_it_what_is_here(tmp_path: Path) -> None:
    here = {"kind": "file", "path": tmp_path / "mine"}
    (tmp_path / "mine").write_bytes(b"123")
    store = ModelStore(tmp_path / "state", hub_cache=tmp_path / "hub", variables={})
    recipes = [named("big", machines=["spark-128"]), named("small"), named("mine", source=here)]
    rows = model_rows(recipes, store, frozenset({"any"}))
    assert [(row.id, row.runnable, row.here) for row in rows] == [
        ("mine", True, True),
        ("small", True, False),
        ("big", False, False),
    ]
    assert table(rows)[1] == ("mine", "llamacpp", "3 bytes", "yes", "any", "chat")
    assert [document["id"] for document in documents(rows)] == ["mine", "small", "big"]


def test_a_gated_model_is_marked(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "state", hub_cache=tmp_path / "hub", variables={})
    gated = named("llama", source={"kind": "hub", "repository": "meta/llama", "gated": True})
    rows = model_rows([gated], store, frozenset({"any"}))
    assert table(rows)[1][3] == "no, gated"
    assert (documents(rows)[0]["licence"], documents(rows)[0]["gated"]) == ("MIT", True)


def test_a_spark_runs_what_is_made_for_a_smaller_one() -> None:
    assert machines_here(16 * 10**9, is_spark=False) == {"any"}
    assert machines_here(60 * 10**9, is_spark=True) == {"any", "spark-64"}
    assert machines_here(128 * 10**9, is_spark=True) == {"any", "spark-64", "spark-128"}
