"""Write the tables of docs/recipes.md from the recipes and their schema: `python -m docs.generate_recipes`."""

import re
from pathlib import Path

from pydantic import BaseModel

from services.engines.recipes import (
    MODELS_FOLDER,
    Anchor,
    EngineArguments,
    HubSource,
    MemoryFacts,
    OllamaSource,
    PackageSource,
    Recipe,
    load_recipes,
)

TARGET = Path(__file__).with_name("recipes.md")
_ENGINES = {"llamacpp": "llama.cpp", "vllm": "vLLM", "sglang": "SGLang", "trtllm": "TensorRT-LLM", "ollama": "Ollama"}


def page() -> str:
    """Return the text of docs/recipes.md with its tables made anew."""
    text = TARGET.read_text(encoding="utf-8")
    tables = {
        "recipes": _recipes(),
        "recipe": _fields(Recipe),
        "memory": _fields(MemoryFacts),
        "engine": _fields(EngineArguments),
        "anchor": _fields(Anchor),
    }
    for name, table in tables.items():
        begin, end = f"<!-- table {name} -->\n", "<!-- end -->"
        text, count = re.subn(
            f"{re.escape(begin)}.*?{end}", lambda _, new=f"{begin}{table}{end}": new, text, flags=re.DOTALL
        )
        if count != 1:
            raise ValueError(f"{TARGET} has {count} places for the table {name!r}; it must have one")
    return text


def text_of(recipe: Recipe) -> str:
    """Return a shipped recipe's file."""
    return (MODELS_FOLDER / f"{recipe.id}.yaml").read_text(encoding="utf-8")


def _recipes() -> str:
    head = (
        "| recipe | short names | engines (context × requests) | can | weights | for | licence |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    return head + "".join(_row(recipe) for recipe in load_recipes())


def _row(recipe: Recipe) -> str:
    engines = "<br>".join(
        f"{_ENGINES[name]} ({engine.context_tokens:,} × {engine.sequences})" for name, engine in recipe.engines.items()
    )
    cells = [
        f"[`{recipe.id}`](../services/engines/models/{recipe.id}.yaml) {_origin(recipe)}".strip(),
        ", ".join(f"`{alias}`" for alias in recipe.aliases),
        engines,
        ", ".join(recipe.capabilities),
        f"{recipe.memory.weight_bytes / 1e9:.1f} GB",
        ", ".join(recipe.machines),
        recipe.licence + (", gated" if isinstance(recipe.source, HubSource) and recipe.source.gated else ""),
    ]
    return f"| {' | '.join(cells)} |\n"


def _origin(recipe: Recipe) -> str:
    source = recipe.source
    if isinstance(source, HubSource):
        return f"from {source.repository}"
    if isinstance(source, OllamaSource):
        return f"from Ollama's {source.model}"
    return f"from the package {source.package}" if isinstance(source, PackageSource) else ""


def _fields(model: type[BaseModel]) -> str:
    rows = [
        f"| `{name}` | {'yes' if field.is_required() else ''} | {field.description} |\n"
        for name, field in model.model_fields.items()
        if field.description
    ]
    return "| field | required | what it says |\n|---|---|---|\n" + "".join(rows)


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
