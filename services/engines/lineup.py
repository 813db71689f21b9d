"""Which models a stack serves: what it knows, what it loads at the start, by which names they are called."""

from collections.abc import Callable
from pathlib import Path

from services.engines.offers import Offer, find_offer
from services.engines.own_file import STAND_IN_NAMES, recipe_of_file
from services.engines.recipes import MODELS_FOLDER, Recipe, RecipeError, load_recipes
from services.engines.settings import EnginesSettings

DEFAULT_MODEL = "smollm2"


def known_recipes(settings: EnginesSettings, *, on_broken: Callable[[RecipeError], None] | None = None) -> list[Recipe]:
    """Return the stack's recipes, the user's own (`recipes/` in the state folder), and that of GGUF.

    Args:
        on_broken: is told of each recipe that can't be used, which is then left out.

    Raises:
        RecipeError, GgufError: with what to do.
    """
    own = settings.state / "recipes"
    recipes = load_recipes(MODELS_FOLDER, *([own] if own.is_dir() else []), on_broken=on_broken)
    if settings.gguf:
        file = recipe_of_file(Path(settings.gguf))
        taken = {name for recipe in recipes for name in (recipe.id, *recipe.aliases)} - set(STAND_IN_NAMES)
        if file.id in taken:
            file = file.model_copy(update={"id": f"{file.id}-file"})
        recipes = [file, *recipes]
    return recipes


def preloaded(settings: EnginesSettings, offers: list[Offer]) -> list[Offer]:
    """Return what is loaded at the start, the default first: GGUF's file, then MODELS, else the stack's own default.

    Raises:
        RecipeError: one can't be served here.
    """
    names = list(settings.models)
    first = [offers[0]] if settings.gguf else []
    if not names and not first:
        names = [DEFAULT_MODEL]
    named = [*first, *(find_offer(name, offers) for name in names)]
    return list({offer.id: offer for offer in named}.values())


def default_first(offers: list[Offer], chosen: list[Offer]) -> list[Offer]:
    """Return the offers as lists show them: what is loaded at the start, the default at the head, then the others."""
    return list({offer.id: offer for offer in [*chosen, *offers]}.values())


def aliases_of(offers: list[Offer], default: Offer) -> dict[str, list[str]]:
    """Return each model's further names. Those that clients have built in lead to the default, whatever that is."""
    aliases: dict[str, list[str]] = {}
    for offer in offers:
        names = [name for name in offer.recipe.aliases if name not in STAND_IN_NAMES]
        if offer.id != offer.recipe.id:
            names = []
        elif offer.engine != offer.recipe.default_engine or "@" not in offer.id:
            names = [*names, f"{offer.recipe.id}@{offer.engine}"]
        aliases[offer.id] = names
    aliases[default.id] += STAND_IN_NAMES
    return aliases
