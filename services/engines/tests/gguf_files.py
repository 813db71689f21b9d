"""GGUF files made in the test: a header with any metadata and tensors, and as many bytes of weights as wanted."""

import struct
from pathlib import Path

DEFAULT_METADATA = {
    "general.architecture": "llama",
    "general.name": "Tiny",
    "general.file_type": 2,
    "general.license": "mit",
    "llama.context_length": 2048,
    "tokenizer.ggml.tokens": ["a", "b", "c"],
    "tokenizer.ggml.scores": [0.5, 0.25, 0.125],
    "tokenizer.chat_template": "{{ messages }}",
}
F32, Q4_0 = 0, 2
ALIGNMENT = 32


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def value(item):
    """A type number and the encoded value."""
    if isinstance(item, bool):
        return 7, struct.pack("<?", item)
    if isinstance(item, int):
        return 4, struct.pack("<I", item)
    if isinstance(item, float):
        return 6, struct.pack("<f", item)
    if isinstance(item, str):
        return 8, string(item)
    kind = value(item[0])[0]
    return 9, struct.pack("<IQ", kind, len(item)) + b"".join(value(inner)[1] for inner in item)


def header(metadata=DEFAULT_METADATA, tensors=((F32, (4, 2)), (Q4_0, (32, 3))), version=3):
    """The bytes up to the weights, and how many bytes of weights the tensors speak of.

    A tensor is (type, dimensions) or (type, dimensions, name).
    """
    sizes = {F32: lambda count: count * 4, Q4_0: lambda count: count // 32 * 18}
    data = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, item in metadata.items():
        kind, encoded = value(item)
        data += string(key) + struct.pack("<I", kind) + encoded
    offset = 0
    for number, (kind, shape, *name) in enumerate(tensors):
        data += string(name[0] if name else f"tensor.{number}") + struct.pack("<I", len(shape))
        data += b"".join(struct.pack("<Q", length) for length in shape) + struct.pack("<IQ", kind, offset)
        count = 1
        for length in shape:
            count *= length
        end = offset + sizes.get(kind, lambda count: count)(count)
        offset = -(-end // ALIGNMENT) * ALIGNMENT
    padding = -len(data) % ALIGNMENT
    return data + bytes(padding), end if tensors else 0


def write(path: Path, metadata=DEFAULT_METADATA, **kwargs):
    """Write a whole file; returns its path."""
    head, weights = header(metadata, **kwargs)
    path.write_bytes(head + bytes(weights))
    return path
