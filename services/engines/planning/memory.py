"""The memory plan: whether models fit on a machine, before anything is loaded.

    weights + KV cache + overhead, of every model, + the host's reserve ≤ the machine's memory

An engine that takes a share of the memory at its start and holds it (vLLM, SGLang, TensorRT-LLM on a GPU) counts with
that share; what is asked of it must fit inside. Pure arithmetic: what is loaded at the moment is not looked at.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from services.engines.planning.advice import advise
from services.engines.planning.capacity import course_remarks
from services.engines.planning.kv_cache import KVDtypeError
from services.engines.planning.machines import GIB, Machine
from services.engines.planning.sizing import MOST_SEQUENCES, PlanError, Sizing, size_up
from services.engines.recipes import Anchor, EngineName, Recipe

__all__ = ["ModelPlan", "Plan", "PlanError", "plan", "plan_model"]


@dataclass(frozen=True)
class ModelPlan:
    """What one model takes; of several nodes, on all together.

    Args:
        kv_bytes: for `sequences` of `context_tokens` each; where requests wait for room in the KV cache, at most that
            room.
        held_bytes: what it holds when it has settled.
        transient_bytes: more than that, for seconds while it loads.
        required_sequences: how many must have room at once for the plan to fit: what was asked for. Where nothing was,
            one is enough for an engine in which the others wait.
        kv_bytes_per_token: what each further token of one sequence adds, beyond all windows.
        holds: whether the engine's own limit (its share, its pool) holds what is required.
        max_context_tokens: that the required sequences can have at once; 0 where nothing fits.
        max_sequences: that can have `context_tokens` at once.
        ceiling_tok_per_s: of decoding one sequence at `context_tokens`, without speculation.
        short_ceiling_tok_per_s: the same with a short context, which is how speeds are usually measured.
    """

    model_id: str
    engine: EngineName
    weights_bytes: int
    kv_bytes: int
    overhead_bytes: int
    held_bytes: int
    transient_bytes: int
    context_tokens: int
    sequences: int
    required_sequences: int
    kv_dtype: str
    kv_bytes_per_token: int
    holds: bool
    max_context_tokens: int
    max_sequences: int
    ceiling_tok_per_s: float | None
    short_ceiling_tok_per_s: float | None
    anchors: tuple[Anchor, ...]
    remarks: tuple[str, ...]
    sizing: Sizing = field(repr=False, compare=False)

    @property
    def utilization(self) -> float | None:
        """The share of all memory that the engine holds; None where it takes what it needs."""
        return self.sizing.utilization

    def within(self, room_bytes: int) -> "ModelPlan":
        """Return the same with the limits that `room_bytes` of the machine set."""
        return replace(
            self,
            max_context_tokens=self.sizing.max_context(self.required_sequences, room_bytes),
            max_sequences=self.sizing.max_sequences(self.context_tokens, room_bytes),
        )

    def document(self) -> dict[str, Any]:
        """Return the plan as JSON has it: sizes in GiB, 2 ** 30 bytes."""
        return {
            "id": self.model_id,
            "engine": self.engine,
            "device": "gpu" if self.sizing.gpu else "cpu",
            "context_tokens": self.context_tokens,
            "sequences": self.sequences,
            "required_sequences": self.required_sequences,
            "kv_dtype": self.kv_dtype,
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "utilization": self.utilization,
            "weights_gib": gib(self.weights_bytes),
            "kv_gib": gib(self.kv_bytes),
            "overhead_gib": gib(self.overhead_bytes),
            "held_gib": gib(self.held_bytes),
            "transient_gib": gib(self.transient_bytes),
            "holds": self.holds,
            "max_context_tokens": self.max_context_tokens,
            "max_sequences": self.max_sequences,
            "ceiling_tok_per_s": _speed(self.ceiling_tok_per_s),
            "short_ceiling_tok_per_s": _speed(self.short_ceiling_tok_per_s),
            "anchors": [anchor.model_dump(exclude_none=True) for anchor in self.anchors],
            "remarks": list(self.remarks),
        }


@dataclass(frozen=True)
class Plan:
    """Models side by side on one machine."""

    models: tuple[ModelPlan, ...]
    machine: Machine
    reserve_bytes: int

    @property
    def held_bytes(self) -> int:
        """What all models hold when they have settled."""
        return sum(model.held_bytes for model in self.models)

    @property
    def total_bytes(self) -> int:
        """What the models hold, and what the host keeps."""
        return self.held_bytes + self.reserve_bytes

    @property
    def available_bytes(self) -> int:
        """What there is: the machine's memory."""
        return self.machine.total_bytes

    @property
    def transient_bytes(self) -> int:
        """The largest transient: engines start one at a time."""
        return max((model.transient_bytes for model in self.models), default=0)

    @property
    def fits(self) -> bool:
        """Whether the machine has room for all, and each engine's own limit holds what is asked of it."""
        return self.total_bytes <= self.available_bytes and all(model.holds for model in self.models)

    def advice(self) -> list[str]:
        """Return what to change where it does not fit, a sentence each; each of them alone would do."""
        return [] if self.fits else advise(self)

    def document(self) -> dict[str, Any]:
        """Return the plan as JSON has it: sizes in GiB, 2 ** 30 bytes."""
        ceilings = [model.ceiling_tok_per_s for model in self.models if model.ceiling_tok_per_s is not None]
        return {
            "fits": self.fits,
            "weights_gib": gib(sum(model.weights_bytes for model in self.models)),
            "kv_gib": gib(sum(model.kv_bytes for model in self.models)),
            "overhead_gib": gib(sum(model.overhead_bytes for model in self.models)),
            "held_gib": gib(self.held_bytes),
            "reserve_gib": gib(self.reserve_bytes),
            "total_gib": gib(self.total_bytes),
            "available_gib": gib(self.available_bytes),
            "transient_gib": gib(self.transient_bytes),
            "max_context_tokens": min((model.max_context_tokens for model in self.models), default=0),
            "max_sequences": min((model.max_sequences for model in self.models), default=0),
            "ceiling_tok_per_s": _speed(min(ceilings, default=None)),
            "machine": {
                "name": self.machine.name,
                "total_gib": gib(self.machine.total_bytes),
                "nodes": self.machine.nodes,
                "bandwidth_gb_per_s": _in_gigabytes(self.machine.bandwidth_bytes_per_s),
                "available_now_gib": gib(self.machine.available_bytes) if self.machine.name == "this" else None,
            },
            "models": [model.document() for model in self.models],
            "advice": self.advice(),
        }


def plan_model(
    recipe: Recipe,
    engine: EngineName,
    machine: Machine,
    *,
    context_tokens: int | None = None,
    sequences: int | None = None,
    kv_dtype: str | None = None,
    utilization: float | None = None,
) -> ModelPlan:
    """Return what a model takes, as if it had the machine alone.

    Args:
        context_tokens: of one request; the recipe's where None. So `sequences`, requests at a time.
        sequences: where given, all of them must have room at once.
        utilization: share of the memory, in place of the recipe's.

    Raises:
        PlanError: the model was not trained for the context, or the engine can't do what is asked.
    """
    try:
        sizing = size_up(recipe, engine, machine, kv_dtype=kv_dtype, utilization=utilization)
    except KVDtypeError as error:
        raise PlanError(f"{recipe.id}: {error}") from None
    context = _context(recipe, sizing, context_tokens)
    count = sizing.arguments.sequences if sequences is None else sequences
    if not 1 <= count <= MOST_SEQUENCES:
        raise PlanError(f"{count} sequences can't be planned; name 1 to {MOST_SEQUENCES}")
    required = 1 if sequences is None and sizing.waits else count
    held = sizing.held(context, count)
    ceiling = sizing.ceiling(context)
    found = ModelPlan(
        model_id=recipe.id,
        engine=engine,
        weights_bytes=recipe.memory.weight_bytes,
        kv_bytes=_kv_bytes(sizing, context, count, required),
        overhead_bytes=sizing.overhead(context),
        held_bytes=held,
        transient_bytes=sizing.transient(held),
        context_tokens=context,
        sequences=count,
        required_sequences=required,
        kv_dtype=sizing.kv_dtype,
        kv_bytes_per_token=round(sizing.kv.bytes_per_token),
        holds=sizing.holds(context, required),
        max_context_tokens=0,
        max_sequences=0,
        ceiling_tok_per_s=ceiling,
        short_ceiling_tok_per_s=sizing.ceiling(0),
        anchors=tuple(anchor for anchor in recipe.anchors if anchor.engine == engine),
        remarks=tuple(_remarks(sizing, kv_dtype)),
        sizing=sizing,
    )
    return found.within(machine.total_bytes - machine.reserve_bytes)


def _context(recipe: Recipe, sizing: Sizing, asked: int | None) -> int:
    context = sizing.arguments.context_tokens if asked is None else asked
    if context < 1:
        raise PlanError(f"a context of {context} tokens can't be planned; name 1 or more")
    if context > recipe.context_tokens:
        raise PlanError(
            f"{recipe.id} was trained for {recipe.context_tokens:,} tokens, not for {context:,}; ask for that or less"
        )
    return context


def _kv_bytes(sizing: Sizing, context: int, sequences: int, required: int) -> int:
    """Return what all sequences take; where some of them wait, as much as there is room for, if it holds the rest."""
    wanted = sizing.kv.size(context, sequences)
    room = sizing.kv_room(context)
    if room is None or wanted <= room:
        return wanted
    return max(room, sizing.kv.size(context, required))


def _remarks(sizing: Sizing, asked_dtype: str | None) -> Iterable[str]:
    if asked_dtype and asked_dtype != sizing.kv_dtype:
        yield f"{sizing.engine} has no {asked_dtype} KV cache; its 8-bit type is {sizing.kv_dtype}, planned here"
    if sizing.arguments.device == "gpu" and not sizing.machine.gpu:
        yield f"{sizing.engine} runs it on a GPU, and no GPU that shares this machine's memory was found"
    yield from course_remarks(sizing.facts, round(sizing.kv.bytes_per_token))


def plan(models: Iterable[ModelPlan], machine: Machine, *, reserve_bytes: int | None = None) -> Plan:
    """Return the sum of models side by side, each with the limits that the others leave to it.

    Args:
        reserve_bytes: what the host keeps; the machine's usual where None.
    """
    every = tuple(models)
    reserve = machine.reserve_bytes if reserve_bytes is None else reserve_bytes
    room = machine.total_bytes - reserve - sum(model.held_bytes for model in every)
    return Plan(tuple(model.within(room + model.held_bytes) for model in every), machine, reserve)


def gib(size: int) -> float:
    """Return bytes as GiB, to a MiB."""
    return round(size / GIB, 3)


def _speed(tokens_per_s: float | None) -> float | None:
    return None if tokens_per_s is None else round(tokens_per_s, 1)


def _in_gigabytes(bandwidth: float | None) -> float | None:
    return None if bandwidth is None else round(bandwidth / 1e9, 1)
