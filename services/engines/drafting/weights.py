"""A model's weights: counted from the headers of its safetensors files, or estimated from its dimensions."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from services.engines.drafting.facts import Draft, active_share, number
from services.engines.drafting.safetensors import Safetensors, Tensor

# Bytes a weight with its scales: NVFP4 has 4 bits and an FP8 scale for 16 weights, MXFP4 one for 32.
BYTES_PER_WEIGHT = {
    "NVFP4": 0.5625, "MXFP4": 0.53125, "AWQ": 0.53, "GPTQ": 0.53, "BNB4": 0.53, "FP8": 1.0, "INT8": 1.0, "BF16": 2.0,
    "F16": 2.0, "F32": 4.0,
}  # fmt: skip
# What quantizers write into config.json → the name above; the first that is found counts.
_QUANTIZERS = {
    "NVFP4": "NVFP4", "MXFP4": "MXFP4", "AWQ": "AWQ", "GPTQ": "GPTQ", "FP8": "FP8", "FLOAT-QUANTIZED": "FP8",
    "BITSANDBYTES": "BNB4", "INT-QUANTIZED": "INT8", "PACK-QUANTIZED": "GPTQ",
}  # fmt: skip
_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
_SCALES = ("_scale", "_scale_2", "_scales", ".scales", "_scale_inv", ".qzeros", ".g_idx", "_zero_point", "_shape")
_PACKED_BYTES = (".weight", "_blocks", ".weight_packed")
_PACKED_INTS = (".qweight", ".weight_packed")


def read_quantization(config: Mapping[str, Any], text: Mapping[str, Any]) -> str:
    """Return how the weights are stored, by the name that people know it by."""
    found = config.get("quantization_config") or text.get("quantization_config")
    if isinstance(found, dict):
        words = " ".join(str(found.get(key, "")) for key in ("quant_algo", "format", "quant_method")).upper()
        return next((name for word, name in _QUANTIZERS.items() if word in words), words.strip() or "unknown")
    dtype = next((part[key] for part in (text, config) for key in ("dtype", "torch_dtype") if part.get(key)), "")
    return _DTYPES.get(str(dtype).removeprefix("torch."), "BF16")


def experts(text: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many experts a layer has, and how many of them a token passes; 0 and 0 where there are none."""
    count = number(text, "n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts") or 0
    used = number(text, "num_experts_per_tok", "num_experts_per_token", "moe_topk", "top_k_experts") or 0
    return (count, used) if 0 < used < count else (0, 0)


def count_tensors(draft: Draft, text: Mapping[str, Any], weights: Safetensors) -> None:
    """Put the weights into a draft as the files have them."""
    count, used = experts(text)
    tied = not any(tensor.name.endswith("lm_head.weight") for tensor in weights.tensors)
    shares = [(tensor, active_share(tensor.name, count, used, tied=tied)) for tensor in weights.tensors]
    draft.parameters = max(1, sum(parameters(tensor) for tensor in weights.tensors))
    draft.memory["weight_bytes"] = max(1, weights.weight_bytes)
    active = int(sum(tensor.size_bytes * share for tensor, share in shares))
    if 0 < active < weights.weight_bytes:
        draft.memory["active_weight_bytes"] = active
    if count:
        draft.active_parameters = max(1, int(sum(parameters(tensor) * share for tensor, share in shares)))
        if not any(0 < share < 1 for _, share in shares):
            draft.doubt("active_weight_bytes", f"config.json speaks of {count} experts, but no tensor's name does")
    draft.memory["source"] = "config.json and the headers of the safetensors files"


def parameters(tensor: Tensor) -> int:
    """Return how many weights a tensor stands for: packed ones count one by one, scales not at all."""
    name = tensor.name
    if name.endswith(_SCALES):
        return 0
    if tensor.dtype == "U8" and name.endswith(_PACKED_BYTES):
        return 2 * tensor.elements
    if tensor.dtype == "I32" and name.endswith(_PACKED_INTS):
        return 8 * tensor.elements
    return 0 if tensor.dtype in ("U8", "I32", "I64", "U32", "U64", "BOOL") else tensor.elements


def estimate(draft: Draft, text: Mapping[str, Any]) -> None:
    """Put into a draft what the dimensions in config.json make of the weights."""
    matrices = list(_matrices(text, draft.memory))
    table = (number(text, "vocab_size") or 0) * (number(text, "hidden_size", "n_embd", "d_model") or 0)
    tables = table if text.get("tie_word_embeddings") else 2 * table
    inner = sum(size for size, _ in matrices)
    inner_active = sum(size * share for size, share in matrices)
    width = BYTES_PER_WEIGHT.get(draft.quantization, 2.0)
    table_width = max(2.0, width)  # quantizers leave embeddings and output as they are
    draft.parameters = max(1, inner + tables)
    draft.memory["weight_bytes"] = max(1, math.ceil(inner * width + tables * table_width))
    active = int(inner_active * width + table * table_width)
    draft.memory["active_weight_bytes"] = min(max(1, active), draft.memory["weight_bytes"])
    if experts(text)[0]:
        draft.active_parameters = max(1, int(inner_active + tables))
    draft.memory["source"] = "config.json; the weights are estimated from its dimensions"
    draft.doubt("weight_bytes", "estimated, for there are no safetensors files beside config.json: take their size")
    draft.doubt("parameters", "estimated from the dimensions in config.json")


def _matrices(text: Mapping[str, Any], memory: Mapping[str, Any]) -> Iterator[tuple[int, float]]:
    """Yield the weights of attention and feed-forward layers, each with the share that a token reads."""
    hidden = number(text, "hidden_size", "n_embd", "d_model") or 0
    layers = int(memory["layers"])
    query = (number(text, "num_attention_heads", "n_head") or 0) * int(memory["head_dim"])
    key_value = 2 * int(memory["kv_heads"]) * int(memory["head_dim"])
    attending = int(memory["attention_layers"]) + int(memory.get("window_layers", 0))
    yield attending * hidden * (2 * query + key_value), 1.0
    if "state_bytes_per_sequence" in memory:
        # Recurrent layers have about four square matrices: input, gate, state, output.
        yield (layers - attending) * 4 * hidden * hidden, 1.0
    count, used = experts(text)
    dense = number(text, "intermediate_size", "n_inner", "ffn_dim") or 4 * hidden
    if not count:
        yield layers * 3 * hidden * dense, 1.0
        return
    first = number(text, "first_k_dense_replace") or 0
    width = number(text, "moe_intermediate_size") or dense
    shared = (number(text, "n_shared_experts") or 0) * width + (number(text, "shared_expert_intermediate_size") or 0)
    yield first * 3 * hidden * dense, 1.0
    yield (layers - first) * 3 * hidden * width * count, used / count
    yield (layers - first) * 3 * hidden * shared, 1.0
