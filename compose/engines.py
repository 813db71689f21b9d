"""Write the engines' part of the compose file from the recipes: `python -m compose.engines`."""

import sys
from pathlib import Path

from services.engines.recipes import load_recipes
from services.engines.rendering.compose import compose_engines, compose_text

FOLDER = Path(__file__).parent
TARGET = FOLDER / "engines.yaml"


def rendered() -> dict[Path, str]:
    """Return each file that comes of the shipped recipes, with its text."""
    engines = compose_engines(load_recipes())
    files = {FOLDER / name: text for each in engines for name, text in each.files.items()}
    return {TARGET: compose_text(engines), **files}


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
