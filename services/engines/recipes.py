"""A recipe is a model in one format: where it comes from, what it can do, how each engine serves it.

One file a recipe: `models/<id>.yaml`. Every verb takes a recipe's id or one of its aliases.
"""

from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

MODELS_FOLDER = Path(__file__).with_name("models")

Capability = Literal["chat", "completion", "tools", "reasoning", "vision", "embeddings"]


class RecipeError(Exception):
    """A recipe is wrong, unknown, or its file isn't here; the message says which and what to do."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Part):
    """The Python package that carries the model's file, and what must be in it."""

    package: str
    revision: str = Field(description="the package's version")
    file: str = Field(description="path within the package's installation")
    size_bytes: int = Field(gt=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class LlamaCppArguments(_Part):
    """How llama.cpp serves the model."""

    slots: int = Field(4, ge=1, le=256, description="requests at a time")
    context_tokens: int = Field(4096, ge=256, description="prompt and answer of one request, a slot's share")
    temperature: float | None = Field(None, ge=0, description="for requests that name none")
    top_p: float | None = Field(None, gt=0, le=1, description="for requests that name none")


class Engines(_Part):
    """The engines that serve the model, with their arguments."""

    llamacpp: LlamaCppArguments


class Recipe(_Part):
    """A model in one format."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    name: str
    source: Source
    licence: str
    aliases: tuple[str, ...] = ()
    family: str
    format: Literal["gguf"]
    parameters: int = Field(gt=0)
    quantization: str
    capabilities: tuple[Capability, ...] = Field(min_length=1)
    context_tokens: int = Field(gt=0, description="what the model was trained for")
    engines: Engines


def load_recipe(path: Path) -> Recipe:
    """Return the recipe in a file.

    Raises:
        RecipeError: with one line for each wrong field.
    """
    try:
        document: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        recipe = Recipe.model_validate(document)
    except OSError as error:
        raise RecipeError(f"{path} can't be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {error}") from None
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, item['loc'])) or 'the file'}: {item['msg']}" for item in error.errors()]
        raise RecipeError("\n".join([f"{path} is not a recipe:", *lines])) from None
    if recipe.id != path.stem:
        raise RecipeError(f"{path}: its id is {recipe.id!r}; name the file {recipe.id}.yaml, or change the id")
    return recipe


def load_recipes(folder: Path = MODELS_FOLDER) -> list[Recipe]:
    """Return the recipes of a folder, by file name.

    Raises:
        RecipeError: when one is wrong, or two claim the same id or alias.
    """
    recipes = [load_recipe(path) for path in sorted(folder.glob("*.yaml"))]
    owners: dict[str, str] = {}
    for recipe in recipes:
        for name in (recipe.id, *recipe.aliases):
            owner = owners.setdefault(name, recipe.id)
            if owner != recipe.id:
                raise RecipeError(f"both {owner} and {recipe.id} claim the name {name!r}; change one of them")
    return recipes


def find_recipe(name: str, recipes: Iterable[Recipe]) -> Recipe:
    """Return the recipe with this id or alias.

    Raises:
        RecipeError: naming what there is.
    """
    known = list(recipes)
    for recipe in known:
        if name == recipe.id or name in recipe.aliases:
            return recipe
    raise RecipeError(f"there is no recipe {name!r}; there are: {', '.join(recipe.id for recipe in known)}")


def locate(source: Source) -> Path:
    """Return the path of a recipe's file, having checked its size.

    Raises:
        RecipeError: when the package isn't installed, or holds another file.
    """
    try:
        installed = metadata.distribution(source.package)
    except metadata.PackageNotFoundError:
        raise RecipeError(
            f"the package {source.package} {source.revision}, which holds the model, is not installed; "
            "`make up` installs it. Or serve a file of your own: GGUF=/path/to/model.gguf make up"
        ) from None
    path = Path(str(installed.locate_file(source.file)))
    size = path.stat().st_size if path.is_file() else 0
    if size != source.size_bytes:
        raise RecipeError(
            f"{path} has {size:,} bytes, {source.package} {source.revision} has {source.size_bytes:,} there; "
            "remove the .venv folder and run `make up` to install it again"
        )
    return path
