"""Every shipped recipe, rendered, as it was when somebody last looked. UPDATE_GOLDEN=1 writes the files anew."""

import os

import pytest

from services.engines.recipes import load_recipes
from services.engines.tests.golden_files import FOLDER, golden_text

PAIRS = [(recipe, engine) for recipe in load_recipes() for engine in recipe.engines]


def file_name(recipe, engine):
    return f"{recipe.id}@{engine}.txt"


@pytest.mark.parametrize(("recipe", "engine"), PAIRS, ids=[file_name(*pair) for pair in PAIRS])
def test_a_shipped_recipe_is_rendered_as_its_golden_file_says(recipe, engine):
    path = FOLDER / file_name(recipe, engine)
    text = golden_text(recipe, engine)
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.write_text(text, encoding="utf-8")
    assert path.is_file(), "no golden file; UPDATE_GOLDEN=1 writes it: read it before you commit it"
    assert text == path.read_text(encoding="utf-8"), "UPDATE_GOLDEN=1 writes it anew, when this is what you wanted"


def test_no_golden_file_is_left_over():
    assert {path.name for path in FOLDER.glob("*.txt")} == {file_name(*pair) for pair in PAIRS}
