"""Safetensors files made in the test, byte by byte, without the library or torch."""

import json
import struct
from pathlib import Path

BITS = {"BF16": 16, "F16": 16, "F32": 32, "F8_E4M3": 8, "U8": 8, "I32": 32, "BOOL": 8}


def encode(tensors, *, metadata=True):
    """The bytes of a file; `tensors` is {name: (dtype, shape)}."""
    header, end = {"__metadata__": {"format": "pt"}} if metadata else {}, 0
    for name, (dtype, shape) in tensors.items():
        count = 1
        for length in shape:
            count *= length
        size = count * BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + bytes(end)


def write(path: Path, tensors, **kwargs):
    """Write one file; returns its path."""
    path.write_bytes(encode(tensors, **kwargs))
    return path


def write_parts(folder: Path, *parts):
    """Write a model in parts with its index; returns the folder."""
    names = {}
    for number, tensors in enumerate(parts, 1):
        name = f"model-{number:05}-of-{len(parts):05}.safetensors"
        write(folder / name, tensors)
        names |= dict.fromkeys(tensors, name)
    index = {"metadata": {"total_size": 1}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def llama(layers=2, hidden=64, kv=32, inner=128, vocabulary=512, dtype="BF16", tied=False):
    """The tensors of a small Llama."""
    tensors = {"model.embed_tokens.weight": (dtype, (vocabulary, hidden)), "model.norm.weight": (dtype, (hidden,))}
    for layer in range(layers):
        at = f"model.layers.{layer}"
        tensors |= {
            f"{at}.self_attn.q_proj.weight": (dtype, (hidden, hidden)),
            f"{at}.self_attn.k_proj.weight": (dtype, (kv, hidden)),
            f"{at}.self_attn.v_proj.weight": (dtype, (kv, hidden)),
            f"{at}.self_attn.o_proj.weight": (dtype, (hidden, hidden)),
            f"{at}.mlp.gate_proj.weight": (dtype, (inner, hidden)),
            f"{at}.mlp.up_proj.weight": (dtype, (inner, hidden)),
            f"{at}.mlp.down_proj.weight": (dtype, (hidden, inner)),
        }
    return tensors if tied else tensors | {"lm_head.weight": (dtype, (vocabulary, hidden))}
