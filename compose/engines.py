"""Write the engines' part of the compose file from the recipes: `python -m compose.engines`."""

import sys
from pathlib import Path

from services.engines.recipes import find_recipe, load_recipes
from services.engines.rendering.compose import compose_engines, compose_text
from services.engines.rendering.dual_spark import dual_spark_text

FOLDER = Path(__file__).parent
TARGET = FOLDER / "engines.yaml"
DUAL_SPARK = FOLDER / "dual-spark" / "compose.yaml"
DUAL_MODEL = "qwen3.8-27b"
"""The model that was measured on two Sparks."""


def rendered() -> dict[Path, str]:
    """Return each file that comes of the shipped recipes, with its text."""
    recipes = load_recipes()
    engines = compose_engines(recipes)
    files = {FOLDER / name: text for each in engines for name, text in each.files.items()}
    dual = {DUAL_SPARK: dual_spark_text(find_recipe(DUAL_MODEL, recipes))}
    return {TARGET: compose_text(engines), **files, **dual}


def main() -> int:
    """Write the files, and remove those of recipes that are gone."""
    files = rendered()
    for path in (FOLDER / "engines").glob("*.yaml"):
        if path not in files:
            path.unlink()
    for path, text in files.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
