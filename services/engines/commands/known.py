"""The recipes that verbs know: the stack's own, and the user's in the state folder."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from services.engines.files.store import ModelStore
    from services.engines.recipes import Recipe


def state_folder() -> Path:
    """Return the state folder of this stack."""
    from services.cli.home import find_home

    return find_home().state


def recipe_folders(state: Path) -> list[Path]:
    """Return where recipes are; one of a later folder wins."""
    from services.engines.recipes import MODELS_FOLDER

    own = state / "recipes"
    return [MODELS_FOLDER, *([own] if own.is_dir() else [])]


def known_recipes() -> "list[Recipe]":
    """Return every recipe.

    Raises:
        click.ClickException: one is wrong.
    """
    from services.engines.recipes import RecipeError, load_recipes

    try:
        return load_recipes(*recipe_folders(state_folder()))
    except RecipeError as error:
        raise click.ClickException(str(error)) from None


def pick(name: str) -> "Recipe":
    """Return the recipe that a person names by its id or an alias.

    Raises:
        click.ClickException: there is none.
    """
    return among(name, known_recipes())


def among(name: str, recipes: "list[Recipe]") -> "Recipe":
    """Return the recipe of a name.

    Raises:
        click.ClickException: there is none.
    """
    import difflib

    from services.engines.recipes import RecipeError, find_recipe

    try:
        return find_recipe(name, recipes)
    except RecipeError:
        wanted = name.partition("@")[0]
        names = [known for recipe in recipes for known in (recipe.id, *recipe.aliases)]
        close = difflib.get_close_matches(wanted, names)
        meant = f"; did you mean {' or '.join(close)}?" if close else "."
        raise click.ClickException(
            f"there is no recipe {wanted!r}{meant} `sparkstack models --all` lists them"
        ) from None


def model_store(ollama_url: str | None = None) -> "ModelStore":
    """Return the models' files of this stack."""
    from services.engines.files.store import ModelStore

    return ModelStore(state_folder(), ollama_url=ollama_url)
