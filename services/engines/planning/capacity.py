"""How large a model one Spark or two can train or serve, from first principles, beside what a course on it says.

The course's six figures are public claims; each row here says what a parameter takes, what comes on top, and how many
parameters fit then. Models have the shape of Llama 3: hidden = 128 × layers, 8 KV heads of 128, MLPs of 3.5 × hidden.
"""

from dataclasses import dataclass
from typing import Literal

from services.engines.drafting.weights import BYTES_PER_WEIGHT
from services.engines.planning.machines import GIB, Machine, machine
from services.engines.planning.overheads import LLAMACPP_GPU, VLLM_GPU
from services.engines.recipes import MemoryFacts

# --- the shape of a model (Llama 3.1: 8B has 32 layers of 4,096, 70B 80 of 8,192, 405B 126 of 16,384)
_HIDDEN_PER_LAYER = 128
_WEIGHTS_PER_HIDDEN_SQUARED = 13  # of a layer: attention 2.5, MLP 3 × 3.5
_MLP_WIDTH = 3.5
_KV_WIDTH = 8 * 128
_VOCABULARY = 128_256

# --- training: one sequence of this length a step, activations recomputed from one checkpoint a layer
TRAINING_TOKENS = 4096
# Of the layer that is recomputed, a token and hidden value (Korthikanti et al. 2022, table 2, with flash attention).
_LAYER_ACTIVATION_BYTES = 34
_LOGIT_BYTES = 8  # float32 logits and their gradient
_FRAMEWORK_BYTES = 3 * GIB  # the CUDA context, workspaces and what the allocator can't use; an estimate
_LORA_RANK = 16
# A trained weight in mixed precision with Adam: 2 and 2 bytes of weight and gradient, and 12 in float32: the weight
# and two moments (Rajbhandari et al. 2020, "ZeRO", section 3.1).
_MIXED_PRECISION_BYTES = 16.0
_BF16_THROUGHOUT_BYTES = 8.0
# NF4 with its scales quantized once more: 4 bits and 0.127 (Dettmers et al. 2023, "QLoRA", section 3).
_NF4_BYTES = (4 + 0.127) / 8

# --- serving: so many tokens of all requests together
SERVING_TOKENS = 32_768

# --- what the course says of a Llama of 70B with weights in 4 bits and an FP8 cache
COURSE_TOKEN_BYTES = 650_000
COURSE_WEIGHTS_GB, COURSE_ROOM_GB = 35, 93

Kind = Literal["full", "qlora", "serve"]


@dataclass(frozen=True)
class Case:
    """One way to train or serve.

    Args:
        bytes_per_parameter: of the layers' weights with all that each needs.
        table_bytes: a weight of the embeddings and the output matrix, which quantizers leave alone.
        kv_bytes: a value of the KV cache; 0 where there is none.
        overhead_bytes: of the engine or the framework, on each node.
    """

    what: str
    kind: Kind
    bytes_per_parameter: float
    table_bytes: float
    overhead_bytes: int
    kv_bytes: float = 0.0
    machine_name: str = "spark-128"

    def parts(self, parameters: float) -> dict[str, float]:
        """Return what a model of so many parameters takes, in bytes, the host's reserve included."""
        place = machine(self.machine_name)
        layers, hidden = shape(parameters)
        tables = min(parameters, 2 * _VOCABULARY * hidden)
        found = {
            "layers": (parameters - tables) * self.bytes_per_parameter,
            "embeddings and output": tables * self.table_bytes,
        }
        if self.kind == "serve":
            found["KV cache"] = SERVING_TOKENS * 2 * layers * _KV_WIDTH * self.kv_bytes
        else:
            found |= _training(layers, hidden)
        if self.kind == "qlora":
            found["adapters"] = _adapters(layers, hidden) * _MIXED_PRECISION_BYTES
            found["one matrix unpacked"] = _MLP_WIDTH * hidden**2 * 2
        found["engine" if self.kind == "serve" else "framework"] = self.overhead_bytes * place.nodes
        found["host reserve"] = place.reserve_bytes
        return found

    def total(self, parameters: float) -> float:
        """Return the sum of all parts, in bytes."""
        return sum(self.parts(parameters).values())

    @property
    def machine(self) -> Machine:
        """Where it runs."""
        return machine(self.machine_name)

    def largest(self) -> int:
        """Return the most parameters that fit, to a hundred million."""
        step, low, high = 10**8, 0, 10**5
        while high - low > 1:
            middle = (low + high) // 2
            fits = self.total(middle * step) <= self.machine.total_bytes
            low, high = (middle, high) if fits else (low, middle)
        return low * step


@dataclass(frozen=True)
class Claim:
    """A row of the course's table, in billions of parameters and in GB, and the ways to look at it."""

    scenario: str
    parameters: tuple[int, int]
    memory: str
    cases: tuple[Case, ...]
    why: str

    @property
    def verdict(self) -> str:
        """Whether the course's range holds our first figure."""
        ours = self.cases[0].largest() / 1e9
        low, high = self.parameters
        if ours < 0.95 * low:
            return "less"
        return "more" if ours > 1.05 * high else "the same"


def shape(parameters: float) -> tuple[float, float]:
    """Return layers and hidden size of a model with so many parameters; whole numbers don't matter here."""
    layers = (max(parameters, 1) / (_WEIGHTS_PER_HIDDEN_SQUARED * _HIDDEN_PER_LAYER**2)) ** (1 / 3)
    return layers, _HIDDEN_PER_LAYER * layers


def course_remarks(facts: MemoryFacts, bytes_per_token: int) -> list[str]:
    """Return what the course says of a Llama of 70B and why it is so; [] for other models and wider caches."""
    dimensions = (facts.attention_layers, facts.kv_heads, facts.head_dim)
    if dimensions != (80, 8, 128) or bytes_per_token != 2 * 80 * 8 * 128:
        return []
    tokens = COURSE_ROOM_GB * 10**9 // COURSE_TOKEN_BYTES // 1000
    claim = (
        f"A course on the Spark says 64K to 128K tokens, and 140K at most, for 70B in 4 bits: {COURSE_ROOM_GB} GB "
        f"beside {COURSE_WEIGHTS_GB} GB of weights hold {tokens}K tokens of 0.65 MB"
    )
    truth = (
        f"0.65 MB is float32: in FP8 a token takes 2 × 80 layers × 8 heads × 128 = {bytes_per_token:,} bytes. The "
        f"weights take {facts.weight_bytes / 1e9:.1f} GB with scales and 16-bit embeddings, and engine and reserve "
        "count too: the range holds all the same, as docs/memory-plan.md shows"
    )
    return [claim, truth]


def _training(layers: float, hidden: float) -> dict[str, float]:
    return {
        "checkpoints": TRAINING_TOKENS * hidden * 2 * layers,
        "one layer's activations": TRAINING_TOKENS * hidden * _LAYER_ACTIVATION_BYTES,
        "logits": TRAINING_TOKENS * _VOCABULARY * _LOGIT_BYTES,
    }


def _adapters(layers: float, hidden: float) -> float:
    """Return the weights of LoRA on every matrix: rank × (inputs + outputs) each."""
    attention = 2 * 2 * hidden + 2 * (hidden + _KV_WIDTH)
    mlp = 3 * (hidden + _MLP_WIDTH * hidden)
    return _LORA_RANK * layers * (attention + mlp)


def _full(what: str, width: float) -> Case:
    return Case(what, "full", width, width, _FRAMEWORK_BYTES)


def _serve(what: str, width: float, overhead_bytes: int, kv_bytes: float, machine_name: str = "spark-128") -> Case:
    return Case(what, "serve", width, 2.0, overhead_bytes, kv_bytes, machine_name)


_FP4 = BYTES_PER_WEIGHT["NVFP4"]

CLAIMS = (
    Claim(
        "Full fine-tuning (FP16)", (12, 16), "100–128 GB",
        (
            _full("BF16 throughout: weight, gradient, two Adam moments", _BF16_THROUGHOUT_BYTES),
            _full("mixed precision: float32 master weights and moments", _MIXED_PRECISION_BYTES),
        ),
        "The course's figure needs Adam's moments in 16 bits (or 8) and no float32 copy of the weights: 8 bytes a "
        "parameter. The usual mixed precision takes 16, and half as large a model.",
    ),
    Claim(
        "QLoRA fine-tuning", (100, 120), "50–70 GB",
        (Case("NF4, LoRA of rank 16 on every matrix", "qlora", _NF4_BYTES, 2.0, _FRAMEWORK_BYTES),),
        "The course's 50–70 GB are the 4-bit weights alone, and there it stops. Added here are checkpoints, logits and "
        "adapters of one sequence of 4,096 tokens, and the rest of the memory is used. What limits this in practice is "
        "time: 8 × parameters × tokens at 100 TFLOPS is half a minute a step for 100B.",
    ),
    Claim(
        "FP16 inference", (50, 55), "110–120 GB",
        (_serve("llama.cpp", 2.0, LLAMACPP_GPU, 2.0), _serve("vLLM", 2.0, VLLM_GPU, 2.0)),
        "Right for an engine that takes little beside the weights; vLLM's CUDA graphs and activations cost five "
        "billion parameters.",
    ),
    Claim(
        "FP8 inference", (90, 100), "90–100 GB",
        (_serve("vLLM", 1.0, VLLM_GPU, 1.0), _serve("llama.cpp", 1.0, LLAMACPP_GPU, 1.0)),
        "Right. Embeddings and output stay in 16 bits, which costs some billions.",
    ),
    Claim(
        "NVFP4 inference", (200, 200), "~100 GB",
        (_serve("vLLM", _FP4, VLLM_GPU, 1.0), _serve("an engine that takes 5 GiB", _FP4, LLAMACPP_GPU, 1.0)),
        "200B in 100 GB is 4 bits a weight. NVFP4 has an FP8 scale for each 16 weights, so a weight takes 4.5 bits: "
        "200B are 112.5 GB before embeddings, engine, KV cache and reserve.",
    ),
    Claim(
        "Two Sparks, FP4", (405, 405), "~200 GB",
        (
            _serve("vLLM, tensor parallel", _FP4, VLLM_GPU, 1.0, "dual-spark"),
            _serve("an engine that takes 5 GiB on each", _FP4, LLAMACPP_GPU, 1.0, "dual-spark"),
        ),
        "The same 4 bits: in NVFP4 405B are 228 GB of the 261 that CUDA sees of both, and each Spark holds an engine "
        "and keeps its reserve too.",
    ),
)  # fmt: skip
