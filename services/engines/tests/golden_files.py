"""How a recipe is rendered at every target, in one text a test compares."""

from pathlib import Path

from services.engines.recipes import EngineName, Recipe
from services.engines.rendering import model_in_container, port_at, render, targets
from services.engines.rendering.text import in_lines
from services.engines.threads import Threads

FOLDER = Path(__file__).with_name("golden")


def golden_text(recipe: Recipe, engine: EngineName) -> str:
    """Return how a recipe is rendered for an engine at each target that makes sense."""
    sections = []
    for target in targets(recipe, engine):
        rendered = render(
            recipe,
            engine,
            target,
            port=port_at(target, engine),
            model=model_in_container(recipe),
            threads=Threads(1, 2) if engine == "llamacpp" else None,
        )
        sections.append(f"== {target}\n{in_lines(rendered)}")
    return "\n".join(sections)
