"""One model on one engine and one machine: what it takes at any context and concurrency, and where the limits are."""

import bisect
import math
from dataclasses import dataclass, replace

from services.engines.planning.kv_cache import KVCache, kv_cache, pick_dtype
from services.engines.planning.machines import Machine
from services.engines.planning.overheads import cpu_overhead, gpu_overhead, load_transient
from services.engines.recipes import EngineArguments, EngineName, MemoryFacts, Recipe

MOST_SEQUENCES = 1024
# They serve a model from one machine; the others divide it by tensor parallelism.
ONE_NODE_ENGINES = frozenset({"llamacpp", "ollama"})
# Others answer with a vector or a score: nothing of them is bound by reading the weights once a token.
_GENERATING = frozenset({"chat", "completion", "moderation"})


class PlanError(Exception):
    """What was asked can't be planned; the message says why and what can."""


@dataclass(frozen=True)
class Sizing:
    """The arithmetic of one model.

    Args:
        gpu: whether it runs on the machine's GPU.
        utilization: the share of all memory that the engine takes at its start and holds; None where it takes what it
            needs.
    """

    recipe: Recipe
    engine: EngineName
    machine: Machine
    gpu: bool
    kv: KVCache
    kv_dtype: str
    utilization: float | None

    @property
    def arguments(self) -> EngineArguments:
        """The recipe's arguments for the engine."""
        return self.recipe.engines[self.engine]

    @property
    def facts(self) -> MemoryFacts:
        """The model's facts."""
        return self.recipe.memory

    @property
    def waits(self) -> bool:
        """Whether requests that find no room in the KV cache wait for it, instead of enlarging it."""
        return self.utilization is not None or self.arguments.kv_cache_bytes is not None

    def overhead(self, context_tokens: int) -> int:
        """Return what the engine takes beside weights and KV cache."""
        if self.arguments.overhead_bytes is not None:
            return self.arguments.overhead_bytes * (self.machine.nodes if self.gpu else 1)
        if self.gpu:
            return gpu_overhead(self.engine, self.machine.nodes)
        return cpu_overhead(self.engine, self.facts, context_tokens)

    def kv_room(self, context_tokens: int) -> int | None:
        """Return what the engine's own limit leaves to the KV cache; None where it has none."""
        if self.arguments.kv_cache_bytes is not None:
            return self.arguments.kv_cache_bytes
        if self.utilization is None:
            return None
        return self._share() - self.facts.weight_bytes - self.overhead(context_tokens)

    def held(self, context_tokens: int, sequences: int) -> int:
        """Return what the model holds when it has settled."""
        if self.utilization is not None and self.arguments.kv_cache_bytes is None:
            return self._share()
        pool = self.arguments.kv_cache_bytes
        kv = self.kv.size(context_tokens, sequences) if pool is None else pool
        return self.facts.weight_bytes + self.overhead(context_tokens) + kv

    def _share(self) -> int:
        assert self.utilization is not None
        return round(self.utilization * self.machine.physical_bytes)

    def holds(self, context_tokens: int, sequences: int) -> bool:
        """Say whether the engine's own limit lets so many sequences of this context be there at once."""
        room = self.kv_room(context_tokens)
        return room is None or self.kv.size(context_tokens, sequences) <= room

    def fits(self, context_tokens: int, sequences: int, room_bytes: int) -> bool:
        """Say whether the model runs so within `room_bytes` of the machine."""
        return self.holds(context_tokens, sequences) and self.held(context_tokens, sequences) <= room_bytes

    def max_context(self, sequences: int, room_bytes: int) -> int:
        """Return the longest context, in tokens, that so many sequences can have at once; 0 where none fits."""
        longest = self.recipe.context_tokens
        return bisect.bisect_left(
            range(1, longest + 1), x=True, key=lambda tokens: not self.fits(tokens, sequences, room_bytes)
        )

    def max_sequences(self, context_tokens: int, room_bytes: int) -> int:
        """Return how many sequences can have this context at once, up to 1,024; 0 where not even one can."""
        return bisect.bisect_left(
            range(1, MOST_SEQUENCES + 1), x=True, key=lambda count: not self.fits(context_tokens, count, room_bytes)
        )

    def transient(self, held_bytes: int) -> int:
        """Return what the engine takes above `held_bytes`, for seconds while it loads."""
        usual = load_transient(self.engine, self.facts, held_bytes, gpu=self.gpu, nodes=self.machine.nodes)
        return max(usual, self.arguments.transient_bytes)

    def ceiling(self, context_tokens: int) -> float | None:
        """Return the most tokens a second that one sequence can get without speculation.

        Each token reads the active weights and the sequence's KV cache once. None where the machine's bandwidth is not
        known, or the model generates nothing.
        """
        if self.machine.bandwidth_bytes_per_s is None or not _GENERATING & set(self.recipe.capabilities):
            return None
        weights = self.facts.active_weight_bytes or self.facts.weight_bytes
        return self.machine.bandwidth_bytes_per_s / (weights + self.kv.size(context_tokens))

    def with_dtype(self, dtype: str) -> "Sizing":
        """Return the same with another type of KV cache.

        Raises:
            KVDtypeError: the engine has nothing like it.
        """
        picked = pick_dtype(self.engine, dtype)
        cache = kv_cache(self.facts, self.arguments, picked, self.machine.nodes)
        return replace(self, kv=cache, kv_dtype=picked)

    def with_utilization(self, utilization: float) -> "Sizing":
        """Return the same with another share of the memory."""
        return replace(self, utilization=utilization)

    def least_utilization(self, context_tokens: int, sequences: int) -> float:
        """Return the smallest share that holds so much, in whole percents."""
        need = self.facts.weight_bytes + self.overhead(context_tokens) + self.kv.size(context_tokens, sequences)
        return math.ceil(100 * need / self.machine.physical_bytes) / 100


def size_up(
    recipe: Recipe,
    engine: EngineName,
    machine: Machine,
    *,
    kv_dtype: str | None = None,
    utilization: float | None = None,
) -> Sizing:
    """Return the arithmetic of a recipe on an engine.

    Raises:
        PlanError: the recipe has no such engine, the engine can't be spread over the machine's nodes, or holds no share
            of the memory that could be changed.
        KVDtypeError: the engine has no such KV cache.
    """
    if engine not in recipe.engines:
        raise PlanError(f"{recipe.id} has no recipe for the engine {engine!r}; it has: {', '.join(recipe.engines)}")
    arguments = recipe.engines[engine]
    if machine.nodes > 1 and engine in ONE_NODE_ENGINES:
        raise PlanError(f"{engine} serves {recipe.id} from one machine; plan it for spark-128, not {machine.name}")
    share = arguments.memory_utilization
    if utilization is not None:
        if share is None:
            raise PlanError(
                f"{engine} takes for {recipe.id} what it needs, no share: leave --utilization out; context, sequences "
                "and the KV cache's dtype decide"
            )
        share = utilization
    dtype = pick_dtype(engine, kv_dtype or arguments.kv_dtype)
    gpu = arguments.device == "gpu" or (arguments.device == "any" and machine.gpu)
    cache = kv_cache(recipe.memory, arguments, dtype, machine.nodes)
    return Sizing(recipe, engine, machine, gpu, cache, dtype, share if gpu else None)
