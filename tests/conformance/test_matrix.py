"""docs/engine-matrix.md, the results that it is made from, and the recipes say the same."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from services.engines.recipes import load_recipes
from tests.conformance import matrix
from tests.conformance.checks import CHECKS
from tests.conformance.engines import SETUPS, version_of

RESULTS = {result["engine"]: result for result in matrix.read_results()}


def lacks_of(result: Mapping[str, Any]) -> dict[str, str]:
    """Return the checks of a result that its pair can't pass, with the reasons."""
    outcomes: dict[str, str] = result["checks"]
    return {name: text.removeprefix("lacks: ") for name, text in outcomes.items() if text.startswith("lacks: ")}


def test_the_document_is_made_from_the_results() -> None:
    assert matrix.DOCUMENT.read_text() == matrix.document(RESULTS.values()), (
        "run `python -m tests.conformance.matrix` to write it anew"
    )


def test_every_engine_of_the_suite_has_results() -> None:
    assert RESULTS.keys() == SETUPS.keys()


@pytest.mark.parametrize("name", RESULTS)
def test_results_are_of_the_suite_the_recipe_and_the_version_of_today(name: str) -> None:
    result, setup = RESULTS[name], SETUPS[name]
    assert list(result["checks"]) == list(CHECKS)
    assert "broken" not in result["checks"].values()
    assert lacks_of(result) == ({} if setup is None else setup.lacks)
    assert result["version"] == version_of(name), (
        "another version is pinned: run the suite with CONFORMANCE_RESULTS=tests/conformance/results"
    )


def test_what_a_recipe_lacks_is_a_check_of_the_suite() -> None:
    named = {
        f"{recipe.id}@{engine}: {name}"
        for recipe in load_recipes()
        for engine, arguments in recipe.engines.items()
        for name in arguments.lacks
        if name not in CHECKS
    }
    assert named == set()


def test_the_matrix_of_a_terminal_has_a_line_a_check_and_the_reasons() -> None:
    lines = matrix.table({"vllm": {"chat": "works", "stop": "broken", "seed": "lacks: it has no dice"}})
    assert len(lines) == 1 + len(CHECKS) + 1
    assert [line.split() for line in lines if line.startswith(("chat ", "stop ", "seed ", "several "))] == [
        ["chat", "✓"],
        ["stop", "✗"],
        ["several", "–"],
        ["seed", "lacks"],
    ]
    assert lines[-1] == "vLLM, seed: it has no dice"


def test_results_are_stable_text() -> None:
    for path in matrix.RESULTS.glob("*.json"):
        assert json.dumps(json.loads(path.read_text()), indent=1, ensure_ascii=False) + "\n" == path.read_text()
