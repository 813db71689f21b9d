"""A model's memory facts from the header of its GGUF file.

Arrays of metadata aren't kept by the reader, and needn't be: which layers attend, and how wide their keys are, stands
in the tensors' names and shapes.
Source: llama.cpp, src/llama-arch.cpp (names), src/llama-model.cpp (windows, states)
"""

import re

from services.engines.drafting.facts import Draft, active_share
from services.engines.gguf import GgufFile, GgufTensor

_LAYER = re.compile(r"blk\.(\d+)\.(.+)")
# llama.cpp itself knows which layers of these have a window: every n-th sees the whole context.
_FULL_EVERY = {"gemma2": 2, "gpt-oss": 2, "cohere2": 4, "llama4": 4, "exaone4": 4, "gemma3n": 5, "gemma3": 6}
_STATE_BYTES = 4
_RECURRENT = ("ssm_", "time_mix_", "shortconv")


def fill_from_gguf(draft: Draft, file: GgufFile) -> None:
    """Put into a draft what a GGUF file's header says."""
    draft.family = file.architecture or "unknown"
    draft.quantization = file.quantization or "unknown"
    if file.quantization is None:
        draft.doubt("quantization", "the file does not say it")
    draft.licence = file.licence or ""
    draft.context_tokens = draft.need(
        file.context_length, "context_tokens", "the file does not say for how many tokens the model was trained", 8192
    )
    draft.parameters = max(1, file.parameters)
    _weights(draft, file)
    _attention(draft, file)
    draft.memory["source"] = "the GGUF file's header"


def _weights(draft: Draft, file: GgufFile) -> None:
    count, used = _number(file, "expert_count"), _number(file, "expert_used_count")
    if not 0 < used < count:
        count = used = 0
    tied = not any(tensor.name == "output.weight" for tensor in file.tensors)
    shares = [(tensor, active_share(tensor.name, count, used, tied=tied)) for tensor in file.tensors]
    draft.memory["weight_bytes"] = max(1, file.weight_bytes)
    active = int(sum(tensor.size_bytes * share for tensor, share in shares))
    if 0 < active < file.weight_bytes:
        draft.memory["active_weight_bytes"] = active
    if count:
        draft.active_parameters = max(1, int(sum(_elements(tensor) * share for tensor, share in shares)))


def _attention(draft: Draft, file: GgufFile) -> None:
    by_layer = _tensors_by_layer(file)
    layers = max(_number(file, "block_count"), len(by_layer))
    attending = [index for index, names in by_layer.items() if any(name.startswith("attn_k") for name in names)]
    fused = [index for index, names in by_layer.items() if "attn_qkv.weight" in names and index not in attending]
    recurrent = [index for index, names in by_layer.items() if any(name.startswith(_RECURRENT) for name in names)]
    full = [index for index in attending + fused if index not in recurrent]
    heads, hidden = _number(file, "attention.head_count"), _number(file, "embedding_length")
    head_dim = _number(file, "attention.key_length") or (hidden // heads if heads else 0)
    widths = [names["attn_k.weight"].shape[-1] for names in by_layer.values() if "attn_k.weight" in names]
    kv_heads = max(widths) // head_dim if widths and head_dim else _number(file, "attention.head_count_kv") or heads
    if len(set(widths)) > 1:
        draft.doubt("kv_heads", "not all layers have as many; these are the most")
    draft.memory |= {"layers": layers, "attention_layers": len(full), "kv_heads": kv_heads, "head_dim": head_dim}
    _window(draft, file, len(full))
    rank = _number(file, "attention.kv_lora_rank")
    if rank:
        draft.memory["latent_dim"] = rank + _number(file, "rope.dimension_count")
    if recurrent:
        draft.memory["state_bytes_per_sequence"] = len(recurrent) * _state_bytes(draft, file)


def _window(draft: Draft, file: GgufFile, attending: int) -> None:
    window = _number(file, "attention.sliding_window")
    if not window:
        return
    every = _FULL_EVERY.get(file.architecture)
    if every is None:
        draft.doubt("attention_layers", f"a window of {window} tokens is named, but not which layers have it")
        return
    full = attending // every
    draft.memory |= {"attention_layers": full, "window_layers": attending - full, "window_tokens": window}


def _state_bytes(draft: Draft, file: GgufFile) -> int:
    """Return what one recurrent layer keeps for each sequence."""
    inner, size = _number(file, "ssm.inner_size"), _number(file, "ssm.state_size")
    if not inner or not size:
        draft.doubt("state_bytes_per_sequence", "the file does not say how large the recurrent state is")
        return 0
    conv = (inner + 2 * _number(file, "ssm.group_count") * size) * max(0, _number(file, "ssm.conv_kernel") - 1)
    return (inner * size + conv) * _STATE_BYTES


def _tensors_by_layer(file: GgufFile) -> dict[int, dict[str, GgufTensor]]:
    found: dict[int, dict[str, GgufTensor]] = {}
    for tensor in file.tensors:
        match = _LAYER.fullmatch(tensor.name)
        if match:
            found.setdefault(int(match[1]), {})[match[2]] = tensor
    return found


def _number(file: GgufFile, name: str) -> int:
    value = file.metadata.get(f"{file.architecture}.{name}")
    return value if type(value) is int and 0 <= value < 1 << 40 else 0


def _elements(tensor: GgufTensor) -> int:
    product = 1
    for length in tensor.shape:
        product *= length
    return product
