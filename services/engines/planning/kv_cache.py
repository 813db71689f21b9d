"""What the keys and values of earlier tokens take: the part of an engine's memory that grows with what is asked."""

from dataclasses import dataclass

from services.engines.recipes import EngineArguments, MemoryFacts

# Bytes of one stored value. The block formats carry a 16-bit scale for each 32 values (ggml's block_q8_0, block_q4_0).
DTYPE_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "fp8": 1.0, "q8_0": 34 / 32, "q4_0": 18 / 32}

_VLLM_DTYPES = ("f16", "bf16", "fp8")
_GGML_DTYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")
ENGINE_DTYPES: dict[str, tuple[str, ...]] = {
    "llamacpp": _GGML_DTYPES,
    "ollama": _GGML_DTYPES,
    "vllm": _VLLM_DTYPES,
    "sglang": _VLLM_DTYPES,
    "trtllm": _VLLM_DTYPES,
}
# Who asks for 8 bits means these where the engine has another 8-bit format.
EIGHT_BITS = {"llamacpp": "q8_0", "ollama": "q8_0", "vllm": "fp8", "sglang": "fp8", "trtllm": "fp8"}


class KVDtypeError(Exception):
    """The engine has no KV cache of this type; the message says what it has."""


@dataclass(frozen=True)
class KVCache:
    """How the KV cache of one model grows.

    Args:
        bytes_per_token: of the layers that see the whole context.
        window_bytes_per_token: of the layers that see the last `window_tokens` alone.
        state_bytes: of state-space and linear-attention layers, for each sequence.
    """

    bytes_per_token: float
    window_bytes_per_token: float = 0.0
    window_tokens: int = 0
    state_bytes: float = 0.0

    def size(self, context_tokens: int, sequences: int = 1) -> int:
        """Return the bytes for so many sequences of this context; for one, what each generated token reads."""
        windowed = min(context_tokens, self.window_tokens)
        one = context_tokens * self.bytes_per_token + windowed * self.window_bytes_per_token + self.state_bytes
        return round(sequences * one)


def pick_dtype(engine: str, asked: str) -> str:
    """Return the dtype with which an engine stores keys and values where `asked` is wanted.

    Raises:
        KVDtypeError: it has nothing like it.
    """
    known = ENGINE_DTYPES[engine]
    if asked in known:
        return asked
    if asked in EIGHT_BITS.values():
        return EIGHT_BITS[engine]
    also = "" if asked in DTYPE_BYTES else f" (all there are: {', '.join(DTYPE_BYTES)})"
    raise KVDtypeError(f"{engine} has no {asked!r} KV cache; it has: {', '.join(known)}{also}")


def kv_cache(facts: MemoryFacts, arguments: EngineArguments, dtype: str, nodes: int = 1) -> KVCache:
    """Return how the cache grows.

    Args:
        nodes: that share the model by tensor parallelism. They divide the heads; what can't be divided (fewer heads
            than nodes, MLA's one latent) each keeps whole.
    """
    width = DTYPE_BYTES[dtype]
    copies = nodes if facts.latent_dim or facts.kv_heads < nodes else 1
    values = facts.latent_dim or 2 * facts.kv_heads * facts.head_dim
    window = facts.window_layers * values * width * copies
    if arguments.kv_bytes_per_token is not None:
        # Measured with the recipe's dtype, all layers together; another dtype changes it in proportion.
        measured = arguments.kv_bytes_per_token * width / DTYPE_BYTES[arguments.kv_dtype]
        return KVCache(measured * copies, state_bytes=facts.state_bytes_per_sequence)
    return KVCache(
        facts.attention_layers * values * width * copies, window, facts.window_tokens, facts.state_bytes_per_sequence
    )
