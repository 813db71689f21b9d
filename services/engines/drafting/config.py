"""What a config.json says of a model's attention: which layers keep what for each token.

The names of fields are those of transformers and of the makers of hybrid models; where several makers say one thing by
different names, the first that is there counts.
"""

from collections.abc import Mapping
from typing import Any, Literal

from services.engines.drafting.facts import Draft, DraftError, number

Kind = Literal["full", "window", "state", "none"]

_LAYER_TYPES: dict[str, Kind] = {
    "full_attention": "full",
    "attention": "full",
    "hybrid": "full",
    "sliding_attention": "window",
    "chunked_attention": "window",
    "local_attention": "window",
    "linear_attention": "state",
    "mamba": "state",
    "mamba2": "state",
    "recurrent": "state",
    "conv": "state",
}
# Nemotron-H: M is Mamba, * attention; - and E are MLPs and experts.
_PATTERN: dict[str, Kind] = {"M": "state", "*": "full"}
# Their windows hold for all layers; others say which layers have one by layer_types or a pattern.
_ALL_WINDOWED = frozenset({"mistral", "mixtral", "phi3", "starcoder2"})
_ALTERNATING = frozenset({"gemma2"})

_MOST_LAYERS = 10_000
_STATE_BYTES = 4  # recurrent states are kept in float32
_CONV_BYTES = 2


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a config that describes the language model: multimodal ones nest it."""
    for name in ("text_config", "llm_config", "language_config", "thinker_config"):
        inner = config.get(name)
        if isinstance(inner, dict):
            return text_part(inner)
    return config


def read_attention(draft: Draft, text: Mapping[str, Any]) -> None:
    """Put a model's layers, heads and states into a draft."""
    draft.context_tokens = draft.need(
        number(text, "max_position_embeddings", "max_target_positions", "n_positions", "max_sequence_length"),
        "context_tokens", "config.json does not say for how many tokens the model was trained", 8192,
    )  # fmt: skip
    layers = draft.need(
        number(text, "num_hidden_layers", "n_layer", "num_layers", "decoder_layers"),
        "layers", "config.json does not say how many layers there are", 0,
    )  # fmt: skip
    if layers > _MOST_LAYERS:
        raise DraftError(f"config.json speaks of {layers:,} layers; download it again")
    heads = number(text, "num_attention_heads", "n_head", "decoder_attention_heads") or 0
    hidden = number(text, "hidden_size", "n_embd", "d_model") or 0
    kinds = layer_kinds(draft, text, layers)
    draft.memory |= {
        "layers": layers,
        "attention_layers": kinds.count("full"),
        "kv_heads": number(text, "num_key_value_heads", "num_kv_heads", "n_head_kv") or heads,
        "head_dim": number(text, "head_dim", "attention_head_dim") or (hidden // heads if heads else 0),
    }
    if "window" in kinds:
        window = number(text, "sliding_window", "attention_chunk_size")
        why = "config.json does not say how many tokens the window has"
        draft.memory |= {
            "window_layers": kinds.count("window"),
            "window_tokens": draft.need(window, "window_tokens", why, draft.context_tokens),
        }
    rank = number(text, "kv_lora_rank")
    if rank:
        draft.memory["latent_dim"] = rank + (number(text, "qk_rope_head_dim") or 0)
    if "state" in kinds:
        draft.memory["state_bytes_per_sequence"] = kinds.count("state") * _state_bytes(draft, text, hidden)


def layer_kinds(draft: Draft, text: Mapping[str, Any], layers: int) -> list[Kind]:
    """Return of each layer whether its cache grows with the context, up to a window, not at all, or isn't there."""
    listed = text.get("layer_types") or text.get("layers_block_type")
    if isinstance(listed, list) and len(listed) == layers:
        return [_LAYER_TYPES.get(str(name), "none") for name in listed]
    pattern = text.get("hybrid_override_pattern")
    if isinstance(pattern, str) and len(pattern) == layers:
        return [_PATTERN.get(letter, "none") for letter in pattern]
    period, offset = number(text, "attn_layer_period"), number(text, "attn_layer_offset") or 0
    if period:
        return ["full" if index % period == offset else "state" for index in range(layers)]
    interval = number(text, "full_attention_interval")
    if interval:
        return ["full" if (index + 1) % interval == 0 else "state" for index in range(layers)]
    return _windowed(draft, text, layers)


def _windowed(draft: Draft, text: Mapping[str, Any], layers: int) -> list[Kind]:
    window = number(text, "sliding_window")
    pattern = number(text, "sliding_window_pattern")
    family = str(text.get("model_type"))
    if not window or text.get("use_sliding_window") is False:
        return ["full"] * layers
    if pattern:
        return ["full" if (index + 1) % pattern == 0 else "window" for index in range(layers)]
    if family in _ALTERNATING:
        return ["window" if index % 2 == 0 else "full" for index in range(layers)]
    if family in _ALL_WINDOWED:
        return ["window"] * layers
    if text.get("use_sliding_window") is True:
        first = number(text, "max_window_layers") or 0
        return ["window" if index >= first else "full" for index in range(layers)]
    draft.doubt("attention_layers", f"a window of {window} tokens is named, but not which layers have it")
    return ["full"] * layers


def _state_bytes(draft: Draft, text: Mapping[str, Any], hidden: int) -> int:
    """Return what one layer with a recurrent state keeps for each sequence."""
    values, value_dim = number(text, "linear_num_value_heads"), number(text, "linear_value_head_dim")
    key_dim = number(text, "linear_key_head_dim") or 0
    if values and value_dim:  # gated delta networks
        keys = (number(text, "linear_num_key_heads") or 0) * key_dim
        conv = (2 * keys + values * value_dim) * (number(text, "linear_conv_kernel_dim") or 0)
        return values * value_dim * key_dim * _STATE_BYTES + conv * _CONV_BYTES
    size = number(text, "ssm_state_size", "mamba_d_state", "state_size")
    if size:  # Mamba
        heads, width = number(text, "mamba_num_heads", "mamba_n_heads"), number(text, "mamba_head_dim", "mamba_d_head")
        inner = heads * width if heads and width else (number(text, "mamba_expand", "expand") or 2) * hidden
        groups = number(text, "n_groups", "mamba_n_groups") or 0
        conv = (inner + 2 * groups * size) * (number(text, "conv_kernel", "mamba_d_conv", "conv_kernel_size") or 4)
        return inner * size * _STATE_BYTES + conv * _CONV_BYTES
    taps = number(text, "conv_L_cache")
    if taps:  # short convolutions
        return hidden * taps * _CONV_BYTES
    draft.doubt("state_bytes_per_sequence", "config.json does not say how large the recurrent state is")
    return 0
