"""What an engine takes beside weights and KV cache: one constant each, with where it is from.

The constants for GPUs are from publications about the DGX Spark and were not measured here; those for CPUs were
measured with SmolLM2 135M on a machine without a GPU.
"""

from services.engines.llamacpp import PROMPT_CACHE_BYTES
from services.engines.recipes import RESERVING_ENGINES, MemoryFacts

_GIB = 1 << 30
_MB = 10**6

# --- on a GPU, for each node
# Activations at the longest batch, CUDA graphs, the CUDA context, Python. Calibration: Qwen3.6-35B-A3B NVFP4 in vLLM at
# utilization 0.75 has 22 GB of weights and a KV cache of 53.84 GiB; the rest of 0.75 × 121.69 GiB is about this.
VLLM_GPU = 15 * _GIB
# SGLang captures CUDA graphs for more batch sizes than vLLM and keeps as much for prefill; no publication gives its
# figure on a Spark, so it gets vLLM's.
SGLANG_GPU = 15 * _GIB
# TensorRT-LLM plans its activations and workspaces beforehand, and captures graphs as the others do; no publication
# gives a figure either.
TRTLLM_GPU = 15 * _GIB
# The CUDA context and compute buffers for 2,048-token batches; 4 to 6 GB are reported.
LLAMACPP_GPU = 5 * _GIB
# Ollama runs ggml's engine as llama.cpp does, beside a server in Go of some 100 MB.
OLLAMA_GPU = 5 * _GIB + 200 * _MB

# While vLLM loads a large model, 17 to 19 GiB more than the weights were seen for some ten seconds, before the KV cache
# is taken. A small one has less to copy: its weights once more, and what compiling takes.
GPU_LOAD_SPIKE = 19 * _GIB
SMALL_LOAD_SPIKE = 4 * _GIB

# --- on a CPU
# llama.cpp's process with Python and its libraries (measured: 70 to 75 MB, whatever the slots and the context).
LLAMACPP_CPU_BASE = 75 * _MB
# The prompts that it has answered, kept in case one goes on from there: nothing at its start, the limit that
# `sparkstack engine llamacpp` sets after some twenty thousand tokens, and never less again. So it counts in full.
LLAMACPP_PROMPT_CACHE = PROMPT_CACHE_BYTES
# Its compute buffers grow with the model's width and vocabulary, as the weights do.
LLAMACPP_CPU_PER_WEIGHT_BYTE = 0.05
# vLLM's API server, engine core and worker: three processes with torch and transformers. Calibration, with 1 GiB of KV
# cache: 3,190 MB at 1 × 512 tokens, 3,262 MB at 8 × 2,048.
VLLM_CPU_BASE = 1820 * _MB
VLLM_CPU_PER_BATCH_TOKEN = 47_000  # activations of a prefill batch
VLLM_CPU_BATCH_TOKENS = 2048
# Three processes with torch (tokenizer, scheduler, detokenizer).
SGLANG_CPU_BASE = 3000 * _MB
# A server in Go, and llama.cpp's engine in a process of its own.
OLLAMA_CPU_BASE = 250 * _MB

_GPU = {
    "vllm": VLLM_GPU,
    "sglang": SGLANG_GPU,
    "trtllm": TRTLLM_GPU,
    "llamacpp": LLAMACPP_GPU,
    "ollama": OLLAMA_GPU,
}


def gpu_overhead(engine: str, nodes: int = 1) -> int:
    """Return an engine's usual overhead on a GPU, of all nodes together."""
    return _GPU[engine] * nodes


def cpu_overhead(engine: str, facts: MemoryFacts, context_tokens: int) -> int:
    """Return an engine's usual overhead on a CPU.

    Args:
        context_tokens: of one sequence; a prefill batch is no longer than it.

    Raises:
        KeyError: the engine has none.
    """
    buffers = int(facts.weight_bytes * LLAMACPP_CPU_PER_WEIGHT_BYTE)
    batch = min(context_tokens, VLLM_CPU_BATCH_TOKENS) * VLLM_CPU_PER_BATCH_TOKEN
    return {
        "llamacpp": LLAMACPP_CPU_BASE + buffers + LLAMACPP_PROMPT_CACHE,
        "ollama": OLLAMA_CPU_BASE + buffers,
        "vllm": VLLM_CPU_BASE + batch,
        "sglang": SGLANG_CPU_BASE + batch,
    }[engine]


def load_transient(engine: str, facts: MemoryFacts, held_bytes: int, *, gpu: bool, nodes: int = 1) -> int:
    """Return the bytes above the settled use that an engine takes for seconds while it loads."""
    if not gpu or engine not in RESERVING_ENGINES:
        return 0
    spike = min(GPU_LOAD_SPIKE * nodes, facts.weight_bytes + SMALL_LOAD_SPIKE * nodes)
    return max(0, facts.weight_bytes + spike - held_bytes)
