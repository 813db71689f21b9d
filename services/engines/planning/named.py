"""From the names that a person gives, on the command line or in a query, to a plan."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.engines.planning.machines import machine
from services.engines.planning.memory import Plan, PlanError, plan, plan_model
from services.engines.recipes import Recipe, find_recipe, load_recipes, pick_engine


@dataclass(frozen=True)
class Wishes:
    """What is asked for in place of what the recipes say; None for the recipes' own."""

    context_tokens: int | None = None
    sequences: int | None = None
    kv_dtype: str | None = None
    utilization: float | None = None


def plan_named(
    names: Sequence[str], machine_name: str, wishes: Wishes | None = None, *, recipes: Iterable[Recipe] | None = None
) -> Plan:
    """Return the plan of models by their ids, aliases or `id@engine`, side by side on a machine.

    Args:
        recipes: among which the names are looked up; the stack's own where None.

    Raises:
        MachineError: there is no such machine.
        RecipeError: there is no such model or engine.
        PlanError: what is asked for can't be planned.
    """
    where = machine(machine_name)
    known = list(load_recipes() if recipes is None else recipes)
    picked = [(found, pick_engine(name, found)) for name in names for found in [find_recipe(name, known)]]
    _refuse_doubles([f"{found.id}@{engine}" for found, engine in picked])
    asked = wishes or Wishes()
    shares = [found.engines[engine].memory_utilization is not None for found, engine in picked]
    if asked.utilization is not None and not any(shares):
        raise PlanError("none of these engines takes a share of the memory: leave the utilization out")
    models = [
        plan_model(
            found,
            engine,
            where,
            context_tokens=asked.context_tokens,
            sequences=asked.sequences,
            kv_dtype=asked.kv_dtype,
            utilization=asked.utilization if takes_share else None,
        )
        for (found, engine), takes_share in zip(picked, shares, strict=True)
    ]
    return plan(models, where)


def _refuse_doubles(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise PlanError(f"{name} is named twice; a model runs once, and --sequences says for how many requests")
