"""docs/memory-plan.md is what the recipes and the plan's code make of it, and what it promises is there."""

import re

from docs.generate_memory_plan import CONTEXTS, SEVENTY, TARGET, document, spark_plans
from services.engines.planning.capacity import CLAIMS
from services.engines.recipes import load_recipes


def test_the_memory_plan_is_up_to_date() -> None:
    assert TARGET.read_text(encoding="utf-8") == document(), "run: python -m docs.generate_memory_plan"


def test_every_recipe_for_a_spark_has_its_sum() -> None:
    text = TARGET.read_text(encoding="utf-8")
    meant = [recipe for recipe in load_recipes() if recipe.machines[0] != "any"]
    assert meant
    for recipe in meant:
        rows = re.findall(rf"^\| `{re.escape(recipe.id)}` .*\d of \d+\.\d .*$", text, re.MULTILINE)
        assert len(rows) == len(recipe.engines) * len(recipe.machines), recipe.id


def test_every_recipe_fits_where_it_is_meant_to_run() -> None:
    assert [(recipe.id, engine, found.machine.name) for recipe, engine, found in spark_plans() if not found.fits] == []


def test_the_courses_six_rows_are_there_with_an_explanation() -> None:
    text = TARGET.read_text(encoding="utf-8")
    assert len(CLAIMS) == 6
    assert all(f"| {claim.scenario} | " in text and claim.why in text for claim in CLAIMS)


def test_70b_is_planned_at_both_contexts() -> None:
    text = TARGET.read_text(encoding="utf-8")
    for context in CONTEXTS:
        assert f"$ sparkstack plan {SEVENTY} --machine spark-128 --context {context} " in text
    assert "163,840 bytes" in text
