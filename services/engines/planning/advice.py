"""What to change where a plan does not fit. Each piece of advice is tried out first: alone, it makes the plan fit."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from services.engines.planning.kv_cache import DTYPE_BYTES, EIGHT_BITS
from services.engines.planning.machines import GIB, Machine, MachineError, machine
from services.engines.planning.sizing import PlanError, Sizing, size_up

if TYPE_CHECKING:
    from services.engines.planning.memory import ModelPlan, Plan

_LARGER = ("spark-64", "spark-128", "dual-spark")
# A context that is shorter than this serves nobody, nor does a share that leaves less than this beside it.
_SHORTEST_CONTEXT = 1024
_LARGEST_SHARE = 0.95


def advise(plan: "Plan") -> list[str]:
    """Return sentences on what would make a plan fit that does not; at least one."""
    found = list(_unload(plan))
    for model in plan.models:
        found += _settings(plan, model)
    if not found:
        found += _elsewhere(plan)
    return found or [_hopeless(plan)]


def _unload(plan: "Plan") -> Iterator[str]:
    """Yield the models without which the others fit."""
    if len(plan.models) < 2:
        return
    for index, model in enumerate(plan.models):
        others = plan.models[:index] + plan.models[index + 1 :]
        left = plan.available_bytes - plan.total_bytes + model.held_bytes
        if left >= 0 and all(other.holds for other in others):
            names = " and ".join(other.model_id for other in others)
            yield f"unload {model.model_id}: {names} would fit, with {left / GIB:.1f} GiB left"


def _settings(plan: "Plan", model: "ModelPlan") -> Iterator[str]:
    """Yield the settings of one model that would do, the others staying as they are."""
    others_hold = all(other.holds for other in plan.models if other is not model)
    if not others_hold:
        return
    room = plan.available_bytes - plan.total_bytes + model.held_bytes
    context, count, sizing = model.context_tokens, model.required_sequences, model.sizing
    whose = f" for {model.model_id}" if len(plan.models) > 1 else ""
    shorter = _round_down(model.max_context_tokens)
    if _SHORTEST_CONTEXT <= shorter < context:
        yield f"a smaller context{whose}: --context {shorter}"
    if 1 <= model.max_sequences < count:
        yield f"fewer requests at a time{whose}: --sequences {model.max_sequences}"
    eight_bits = EIGHT_BITS[model.engine]
    if DTYPE_BYTES[eight_bits] < DTYPE_BYTES[model.kv_dtype]:
        smaller = sizing.with_dtype(eight_bits)
        if smaller.fits(context, count, room):
            yield f"a KV cache of 8 bits{whose}: --kv-dtype {eight_bits}"
    yield from _shares(sizing, context, count, room, whose)


def _shares(sizing: Sizing, context: int, count: int, room: int, whose: str) -> Iterator[str]:
    """Yield another share of the memory, where one holds what is asked."""
    if sizing.utilization is None or room <= 0:
        return
    largest = math.floor(100 * min(_LARGEST_SHARE, room / sizing.machine.physical_bytes)) / 100
    least = sizing.least_utilization(context, count)
    if largest <= 0:
        return
    if largest < sizing.utilization:
        if sizing.with_utilization(largest).fits(context, count, room):
            yield f"a lower utilization{whose}: --utilization {largest:.2f}"
        else:
            lower = sizing.with_utilization(largest)
            shorter = _round_down(lower.max_context(count, room))
            if _SHORTEST_CONTEXT <= shorter < context:
                flags = f"--utilization {largest:.2f} --context {shorter}"
                yield f"a lower utilization and a smaller context{whose}: {flags}"
    elif least > sizing.utilization and sizing.with_utilization(least).fits(context, count, room):
        yield f"a higher utilization{whose}: --utilization {least:.2f}"


def _elsewhere(plan: "Plan") -> Iterator[str]:
    for name in _LARGER:
        larger = machine(name)
        if larger.total_bytes > plan.available_bytes and _fits_on(plan, larger):
            yield f"a larger machine: --machine {name}"
            return


def _fits_on(plan: "Plan", larger: Machine) -> bool:
    total = larger.reserve_bytes
    for model in plan.models:
        old = model.sizing
        try:
            sizing = size_up(
                old.recipe, old.engine, larger, kv_dtype=model.kv_dtype,
                utilization=old.utilization if old.utilization != old.arguments.memory_utilization else None,
            )  # fmt: skip
        except (PlanError, MachineError):
            return False
        if not sizing.holds(model.context_tokens, model.required_sequences):
            return False
        total += sizing.held(model.context_tokens, model.sequences)
    return total <= larger.total_bytes


def _hopeless(plan: "Plan") -> str:
    need = sum(model.weights_bytes + model.overhead_bytes for model in plan.models) + plan.reserve_bytes
    several = "the models" if len(plan.models) > 1 else plan.models[0].model_id
    return (
        f"no setting helps: weights, engine and reserve of {several} alone are {need / GIB:.1f} GiB; take a smaller "
        "model, or fewer bits a weight"
    )


def _round_down(tokens: int) -> int:
    """Return a context that people would name: whole multiples of 1,024."""
    return tokens // 1024 * 1024
