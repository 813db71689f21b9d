"""Models that are made in a moment: a tokenizer of whole words, and networks written as ONNX by hand.

An ONNX file is a protobuf message; of its fields those few are written that the networks here need, so that no
library for it has to be installed.
Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import BertProcessing

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_ORDINARY = (
    "tea",
    "coffee",
    "water",
    "steep",
    "minutes",
    "how",
    "long",
    "does",
    "green",
    "black",
    "boil",
    "moon",
    "sun",
)
WORDS = (*_SPECIAL, *_ORDINARY)


def write_tokenizer(folder: Path) -> Path:
    """Write `tokenizer.json` of `WORDS`, with the special tokens of BERT, and return its path."""
    numbers = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = BertProcessing(("[SEP]", numbers["[SEP]"]), ("[CLS]", numbers["[CLS]"]))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def write_cross_encoder(folder: Path, *, labels: int = 1) -> Path:
    """Write a cross-encoder whose logit is how many words the two texts share, less one, and return the folder.

    With more than one label it is a classifier, which is no reranker.
    """
    write_tokenizer(folder)
    table = np.eye(len(WORDS), dtype=np.float32)
    table[: len(_SPECIAL)] = 0  # special tokens have no meaning
    nodes = [
        _node("Gather", ["table", "input_ids"], ["words"]),
        _node("Cast", ["token_type_ids"], ["second_flat"], to=1),
        _node("Unsqueeze", ["second_flat", "last"], ["second"]),
        _node("Sub", ["one", "second"], ["first"]),
        _node("Mul", ["words", "first"], ["query_words"]),
        _node("Mul", ["words", "second"], ["document_words"]),
        _node("ReduceSum", ["query_words", "tokens"], ["query"], keepdims=0),
        _node("ReduceSum", ["document_words", "tokens"], ["document"], keepdims=0),
        _node("Mul", ["query", "document"], ["both"]),
        _node("ReduceSum", ["both", "tokens"], ["shared"], keepdims=1),
        _node("Sub", ["shared", "one"], ["score"]),
        _node("Concat", ["score"] * labels, ["logits"], axis=1),
    ]
    constants = {
        "table": table,
        "one": np.ones(1, dtype=np.float32),
        "last": np.array([-1], dtype=np.int64),
        "tokens": np.array([1], dtype=np.int64),
    }
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    (folder / "model.onnx").write_bytes(_model(nodes, constants, inputs, "logits"))
    return folder


def _model(nodes: Sequence[bytes], constants: Mapping[str, np.ndarray], inputs: Sequence[str], output: str) -> bytes:
    graph = b"".join(_field(1, node) for node in nodes) + _field(2, b"tiny")
    graph += b"".join(_field(5, _tensor(name, value)) for name, value in constants.items())
    graph += b"".join(_field(11, _value(name, 7)) for name in inputs)
    graph += _field(12, _value(output, 1))
    return _number(1, 8) + _field(7, graph) + _field(8, _field(1, b"") + _number(2, 13))


def _node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **numbers: int) -> bytes:
    node = b"".join(_field(1, each.encode()) for each in inputs) + b"".join(
        _field(2, each.encode()) for each in outputs
    )
    attributes = (_field(1, name.encode()) + _number(3, value) + _number(20, 2) for name, value in numbers.items())
    return node + _field(4, kind.encode()) + b"".join(_field(5, each) for each in attributes)


def _tensor(name: str, value: np.ndarray) -> bytes:
    kind = {"float32": 1, "int64": 7}[value.dtype.name]
    shape = b"".join(_number(1, size) for size in value.shape)
    return shape + _number(2, kind) + _field(8, name.encode()) + _field(9, value.tobytes())


def _value(name: str, kind: int) -> bytes:
    """Return an input or output of two dimensions, both of any size."""
    shape = _field(1, _field(2, b"rows")) + _field(1, _field(2, b"columns"))
    return _field(1, name.encode()) + _field(2, _field(1, _number(1, kind) + _field(2, shape)))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # negative numbers are written as of 64 bits
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return struct.pack(f"{len(parts) + 1}B", *parts, value)
