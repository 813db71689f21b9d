"""A transformer as an ONNX file with its tokenizer: texts to token numbers, token numbers to what the network says."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from services.embeddings.backends import BackendError, Vectors

Tokens = Sequence[int]
Numbers = npt.NDArray[np.int64]


class Encoding(Protocol):
    """What a network needs of one text, or of a pair of texts (`tokenizers.Encoding`)."""

    @property
    def ids(self) -> list[int]:
        """Return the token numbers, special ones included."""

    @property
    def type_ids(self) -> list[int]:
        """Return 1 for the tokens of a pair's second text where the model tells them apart, else 0."""


class OnnxNetwork:
    """A network of one output, `(batch, tokens, …)` or `(batch, …)`, run by ONNX Runtime on the CPU.

    Args:
        model: an ONNX file that takes `input_ids`, and `attention_mask` and `token_type_ids` where it has them.
        tokenizer: its `tokenizer.json`.
        threads: that compute one batch (0: all cores).

    Raises:
        BackendError: a file is missing or can't be read.
    """

    def __init__(self, model: Path, tokenizer: Path, threads: int = 0) -> None:
        for path in (model, tokenizer):
            if not path.is_file():
                raise BackendError(f"{path} is missing: put the model's files there, or correct its path")
        self.tokenizer = _open_tokenizer(tokenizer)
        self.session = _open_session(model, threads)
        self.inputs = frozenset(each.name for each in self.session.get_inputs())
        self._padding = (self.tokenizer.padding or {}).get("pad_id", 0)
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()

    def run(self, encodings: Sequence[Encoding]) -> npt.NDArray[np.float32]:
        """Return the network's first output for a batch, padded on the right to its longest member."""
        longest = max(len(each.ids) for each in encodings)
        numbers = np.full((len(encodings), longest), self._padding, dtype=np.int64)
        mask: Numbers = np.zeros_like(numbers)
        types: Numbers = np.zeros_like(numbers)
        for row, each in enumerate(encodings):
            size = len(each.ids)
            numbers[row, :size] = each.ids
            mask[row, :size] = 1
            types[row, :size] = each.type_ids
        fed = {"input_ids": numbers, "attention_mask": mask, "token_type_ids": types}
        found: Any = self.session.run(None, {name: value for name, value in fed.items() if name in self.inputs})[0]
        return np.asarray(found, dtype=np.float32)

    def close(self) -> None:
        """Give the session's memory back."""
        del self.session


def _open_tokenizer(path: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exceptions
        raise BackendError(f"{path} can't be read as a tokenizer ({error}): get the model's files again") from None


def _open_session(path: Path, threads: int) -> Any:
    # Else it reports to its maker over the network; it looks for this when it is loaded.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that wait for the next batch would else spin, and take the cores from the engine beside.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common class but this
        raise BackendError(f"{path} can't be loaded by ONNX Runtime ({error}): get the model's files again") from None


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Yield indexes in batches of similar length, of at most `batch_tokens` tokens each with padding.

    The longest come first: what can't be computed for want of memory fails at once. One that is longer than
    `batch_tokens` makes a batch by itself.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size


def normalised(vectors: npt.NDArray[Any]) -> Vectors:
    """Return the rows with norm 1 in float32; a row of zeros stays so."""
    found = np.asarray(vectors, dtype=np.float32)
    return np.asarray(found / np.maximum(np.linalg.norm(found, axis=-1, keepdims=True), 1e-12), dtype=np.float32)
