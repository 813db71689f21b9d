"""What is measured: the engines that run without a GPU, each at settings that calibrate and others that check.

The constants of services/engines/planning/overheads.py may be chosen by the first alone; the others are to test them.
"""

from dataclasses import dataclass, replace
from typing import Literal

from services.engines.planning.machines import Machine
from services.engines.planning.memory import ModelPlan, plan_model
from services.engines.recipes import EngineName, Recipe, load_recipes

Use = Literal["calibration", "check"]

GIB = 1 << 30
RECIPES: dict[str, str] = {"llamacpp": "smollm2-135m-instruct-q4_1", "vllm": "smollm2-135m-instruct-bf16"}
# The plan's sums of engines without a GPU do not depend on the machine; it only must be large enough.
_MACHINE = Machine("any", 64 * GIB, 64 * GIB, 0, None, 1)


@dataclass(frozen=True)
class Setting:
    """One engine, so configured.

    Args:
        context_tokens: of one sequence.
        pool_bytes: vLLM's KV cache, of all sequences together; None where an engine has no such option.
    """

    engine: EngineName
    context_tokens: int
    sequences: int
    pool_bytes: int | None = None
    use: Use = "check"

    @property
    def key(self) -> str:
        """A name for it, which no other setting has."""
        pool = "" if self.pool_bytes is None else f"/{self.pool_bytes // GIB}GiB"
        return f"{self.engine}/{self.context_tokens}x{self.sequences}{pool}"

    def recipe(self) -> Recipe:
        """Return the shipped recipe with this setting's pool."""
        recipe = next(each for each in load_recipes() if each.id == RECIPES[self.engine])
        if self.pool_bytes is None:
            return recipe
        arguments = recipe.engines[self.engine].model_copy(update={"kv_cache_bytes": self.pool_bytes})
        return recipe.model_copy(update={"engines": {**recipe.engines, self.engine: arguments}})

    def plan(self) -> ModelPlan:
        """Return what the memory plan says of it."""
        return plan_model(
            self.recipe(), self.engine, _MACHINE, context_tokens=self.context_tokens, sequences=self.sequences
        )


def _llamacpp(context_tokens: int, sequences: int) -> Setting:
    return Setting("llamacpp", context_tokens, sequences)


def _vllm(context_tokens: int, sequences: int, pool_gib: int) -> Setting:
    return Setting("vllm", context_tokens, sequences, pool_gib * GIB)


SETTINGS = (
    replace(_llamacpp(1024, 1), use="calibration"),
    _llamacpp(512, 1),
    _llamacpp(512, 8),
    _llamacpp(1024, 4),
    _llamacpp(2048, 1),
    _llamacpp(2048, 2),
    _llamacpp(4096, 4),
    replace(_vllm(512, 1, 1), use="calibration"),
    replace(_vllm(2048, 8, 1), use="calibration"),
    _vllm(512, 4, 1),
    _vllm(1024, 8, 1),
    _vllm(2048, 1, 2),
    _vllm(4096, 2, 1),
    _vllm(4096, 4, 2),
    _vllm(8192, 2, 2),
)
