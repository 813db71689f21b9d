"""The list of models for a person, and for a program: what each is, and whether it is here."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from services.engines.files.download_plan import gigabytes
from services.engines.files.store import ModelStore
from services.engines.recipes import HubSource, Recipe


@dataclass(frozen=True)
class ModelRow:
    """One model.

    Args:
        here: its files are here, whole.
        runnable: it is meant for a machine like this one.
        commit: of the hub's repository; None where there is none, or not here.
    """

    id: str
    aliases: tuple[str, ...]
    engines: tuple[str, ...]
    format: str
    size_bytes: int
    here: bool
    runnable: bool
    machines: tuple[str, ...]
    licence: str
    gated: bool
    capabilities: tuple[str, ...]
    source: str
    commit: str | None


def model_rows(recipes: Iterable[Recipe], store: ModelStore, machines: frozenset[str]) -> list[ModelRow]:
    """Return a row for each recipe: those for this machine first, and of them those that are here.

    Args:
        machines: names of recipes' machines that this one is.
    """
    listed = list(recipes)
    present = store.presence(listed)
    rows = [_row(recipe, store, present[recipe.id], machines) for recipe in listed]
    return sorted(rows, key=lambda row: (not row.runnable, not row.here))


def machines_here(total_bytes: int, *, is_spark: bool) -> frozenset[str]:
    """Return which of the recipes' machines this one is; a pair of Sparks can't be seen from one of them."""
    if not is_spark:
        return frozenset({"any"})
    # What fits the small one fits the large one.
    return frozenset({"any", "spark-64", "spark-128"} if total_bytes > 80e9 else {"any", "spark-64"})


def table(rows: Iterable[ModelRow]) -> list[tuple[str, ...]]:
    """Return the cells, the headings first; what a screen has room for. The rest is in `documents`."""
    cells: list[tuple[str, ...]] = [("model", "engines", "size", "here", "for", "can")]
    cells += [
        (
            row.id,
            ", ".join(row.engines),
            gigabytes(row.size_bytes),
            "yes" if row.here else "no, gated" if row.gated else "no",
            ", ".join(row.machines),
            ", ".join(row.capabilities),
        )
        for row in rows
    ]
    return cells


def documents(rows: Iterable[ModelRow]) -> list[dict[str, object]]:
    """Return the rows for a program."""
    return [asdict(row) for row in rows]


def _row(recipe: Recipe, store: ModelStore, here: bool, machines: frozenset[str]) -> ModelRow:
    source = recipe.source
    return ModelRow(
        id=recipe.id,
        aliases=recipe.aliases,
        engines=tuple(recipe.engines),
        format=recipe.format,
        size_bytes=store.size_of(recipe),
        here=here,
        runnable=not machines.isdisjoint(recipe.machines),
        machines=recipe.machines,
        licence=recipe.licence,
        gated=isinstance(source, HubSource) and source.gated,
        capabilities=recipe.capabilities,
        source=source.kind,
        commit=store.commit_of(recipe) if here else None,
    )
