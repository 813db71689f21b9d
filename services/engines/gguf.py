"""Read a GGUF file's header: what the model is, and whether the file is whole.

Only the header is touched (the file is mapped, not read), and every length in it is checked against the file
before it is believed, so a broken or hostile file ends in a sentence.
Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import mmap
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

MAGIC = b"GGUF"
_MAX_ENTRIES = 1_000_000  # metadata entries or tensors; the largest models have some thousands
_MAX_DEPTH = 4  # arrays in arrays
_DEFAULT_ALIGNMENT = 32

_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9

# general.file_type → the name that people know a quantization by (enum llama_ftype).
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K",
    19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL",
    26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16",
    36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4", 39: "NVFP4", 40: "Q1_0",
}  # fmt: skip

# Tensor type → (elements a block, bytes a block) (enum ggml_type). A type that is newer than this table is
# checked by its offset alone.
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    34: (256, 55), 35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18),
}  # fmt: skip

_LOOKALIKES = (
    (b"version https://git-lfs", "it is a Git LFS pointer: `git lfs pull` fetches the file itself"),
    (b"PK\x03\x04", "it is a PyTorch or zip file; llama.cpp's convert_hf_to_gguf.py makes GGUF files"),
    (b"<!DOCTYPE", "it is a web page: the download link led to a page, not to the file"),
    (b"<html", "it is a web page: the download link led to a page, not to the file"),
    (b"ggjt", "it is in llama.cpp's format before GGUF; get a newer file of the model"),
    (b"lmgg", "it is in llama.cpp's format before GGUF; get a newer file of the model"),
)


class GgufError(Exception):
    """The file can't be served; the message names the file, what is wrong and the next step."""


class GgufTensor(NamedTuple):
    """One tensor: its dimensions in ggml's order (a matrix's input before its output), and the bytes it takes."""

    name: str
    shape: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file's header.

    Args:
        metadata: the header's scalars and strings; of arrays (vocabularies, mostly) only the length is kept.
        parameters: the sum of all tensors' elements.
    """

    path: Path
    size_bytes: int
    version: int
    tensor_count: int
    parameters: int
    metadata: dict[str, Any] = field(repr=False)
    tensors: tuple[GgufTensor, ...] = field(default=(), repr=False)

    @property
    def weight_bytes(self) -> int:
        """The sum of all tensors."""
        return sum(tensor.size_bytes for tensor in self.tensors)

    @property
    def architecture(self) -> str:
        """`general.architecture`: llama, qwen3, bert, …"""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def name(self) -> str:
        """The model's own name, the file's where it has none."""
        return str(self.metadata.get("general.name") or self.path.stem)

    @property
    def context_length(self) -> int | None:
        """The longest context that the model was trained for, in tokens."""
        value = self.metadata.get(f"{self.architecture}.context_length")
        return value if isinstance(value, int) and value > 0 else None

    @property
    def quantization(self) -> str | None:
        """Q4_K_M, F16, …; None where the file doesn't say, or says something newer than this reader."""
        value = self.metadata.get("general.file_type")
        # Bit 1024 marks a type that the converter guessed.
        return _FILE_TYPES.get(value & ~1024) if isinstance(value, int) else None

    @property
    def licence(self) -> str | None:
        """`general.license`, as the file has it."""
        value = self.metadata.get("general.license")
        return value if isinstance(value, str) and value else None

    @property
    def chat_template(self) -> str:
        """The Jinja template that makes a prompt of messages; empty where the file has none."""
        value = self.metadata.get("tokenizer.chat_template", "")
        return value if isinstance(value, str) else ""


def read_gguf(path: Path) -> GgufFile:
    """Return the header of a GGUF file, having checked that the file is whole.

    Raises:
        GgufError: no such file, a folder, not GGUF, a version that nobody reads, one part of several,
            truncated.
    """
    size = _size(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _check_magic(path, data[:24])
            return _Reader(path, data, size).read()
    except PermissionError:
        raise GgufError(f"{path} can't be read: permission denied (chmod u+r, or run as its owner)") from None
    except OSError as error:
        raise GgufError(f"{path} can't be read: {error.strerror or error}") from None


def _size(path: Path) -> int:
    try:
        found = path.stat()
    except FileNotFoundError:
        raise GgufError(f"there is no file {path}; check the path (it is relative to {Path.cwd()})") from None
    except OSError as error:
        raise GgufError(f"{path} can't be read: {error.strerror or error}") from None
    if stat.S_ISDIR(found.st_mode):
        inside = sorted(item.name for item in path.glob("*.gguf"))
        hint = f"; name one of its files: {', '.join(inside[:5])}" if inside else " without a .gguf file in it"
        raise GgufError(f"{path} is a folder{hint}")
    if not stat.S_ISREG(found.st_mode):
        raise GgufError(f"{path} is not a regular file; download the model to disk first")
    if found.st_size == 0:
        raise GgufError(f"{path} is empty; download it again")
    return found.st_size


def _check_magic(path: Path, start: bytes) -> None:
    if start.startswith(MAGIC):
        return
    for prefix, explanation in _LOOKALIKES:
        if start.startswith(prefix):
            raise GgufError(f"{path} is not a GGUF model: {explanation}")
    raise GgufError(f"{path} is not a GGUF model: it starts with {start[:4]!r}, a GGUF file with b'GGUF'")


class _TruncatedError(Exception):
    """The header speaks of bytes behind the end of the file."""

    def __init__(self, needed: int) -> None:
        self.needed = needed


class _Reader:
    """A cursor over the mapped file; each read is checked against the file's end first."""

    def __init__(self, path: Path, data: mmap.mmap, size: int) -> None:
        self._path = path
        self._data = data
        self._size = size
        self._at = len(MAGIC)

    def read(self) -> GgufFile:
        try:
            return self._read()
        except _TruncatedError as error:
            raise GgufError(
                f"{self._path} is truncated: it has {self._size:,} bytes, its header speaks of at least "
                f"{error.needed:,}; download it again"
            ) from None

    def _read(self) -> GgufFile:
        version = int(self._scalar("<I"))
        if version not in (2, 3):
            raise self._broken(
                "it is big-endian; get the little-endian file"
                if version & 0xFFFF == 0
                else f"it is GGUF version {version}, llama.cpp reads 2 and 3; get a newer file of the model"
            )
        tensor_count = self._count("tensors")
        entries = self._count("metadata entries")
        metadata = {self._string(): self._value(self._scalar("<I")) for _ in range(entries)}
        parts = metadata.get("split.count")
        if isinstance(parts, int) and parts > 1:
            raise self._broken(
                f"it is one of {parts} parts; merge them (llama-gguf-split --merge FIRST-PART OUT.gguf) "
                "and name the merged file"
            )
        tensors = self._tensors(tensor_count, metadata)
        parameters = sum(math.prod(tensor.shape) for tensor in tensors)
        return GgufFile(self._path, self._size, version, tensor_count, parameters, metadata, tensors)

    def _tensors(self, count: int, metadata: dict[str, Any]) -> tuple[GgufTensor, ...]:
        """Return the tensors, having checked that every one lies within the file."""
        infos = list(self._tensor_infos(count))
        alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise self._broken(f"general.alignment is {alignment!r}; get another file of the model")
        start = math.ceil(self._at / alignment) * alignment
        end = max((start + offset + max(1, tensor.size_bytes) for offset, tensor in infos), default=0)
        if end > self._size:
            raise _TruncatedError(end)
        # What is of a type that this reader doesn't know reaches to the next tensor.
        bounds = sorted({*(offset for offset, _ in infos), self._size - start})
        ends = dict(pairwise(bounds))
        return tuple(
            tensor if tensor.size_bytes else tensor._replace(size_bytes=ends[offset] - offset)
            for offset, tensor in infos
        )

    def _tensor_infos(self, count: int) -> Iterator[tuple[int, GgufTensor]]:
        """Yield each tensor with its offset in the data section; 0 bytes where its type is unknown."""
        for _ in range(count):
            name = self._string()
            dimensions = self._scalar("<I")
            if dimensions > 8:
                raise self._broken(f"a tensor has {dimensions} dimensions; download it again")
            shape = tuple(self._scalar("<Q") for _ in range(dimensions))
            block = _BLOCKS.get(self._scalar("<I"))
            offset = self._scalar("<Q")
            size = math.ceil(math.prod(shape) / block[0]) * block[1] if block else 0
            yield offset, GgufTensor(name, shape, size)

    def _count(self, what: str) -> int:
        count = int(self._scalar("<Q"))
        if count > _MAX_ENTRIES:
            raise self._broken(f"its header claims {count:,} {what}; download it again")
        return count

    def _scalar(self, layout: str) -> Any:
        at = self._advance(struct.calcsize(layout))
        return struct.unpack_from(layout, self._data, at)[0]

    def _string(self) -> str:
        length = self._scalar("<Q")
        at = self._advance(length)
        return self._data[at : at + length].decode("utf-8", errors="replace")

    def _value(self, kind: int, depth: int = 0) -> Any:
        layout = _SCALARS.get(kind)
        if layout is not None:
            return self._scalar(layout)
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY or depth == _MAX_DEPTH:
            raise self._broken(f"its header holds a value of type {kind}; get another file of the model")
        return self._skip_array(depth)

    def _skip_array(self, depth: int) -> int:
        kind, length = self._scalar("<I"), self._scalar("<Q")
        layout = _SCALARS.get(kind)
        if layout is not None:
            self._advance(struct.calcsize(layout) * length)
        elif kind == _STRING:
            self._skip_strings(length)
        else:
            for _ in range(length):
                self._value(kind, depth + 1)
        return int(length)

    def _skip_strings(self, count: int) -> None:
        # A loop of its own: vocabularies have a hundred thousand entries, and each start passes here.
        unpack, data, at, size = struct.Struct("<Q").unpack_from, self._data, self._at, self._size
        for _ in range(count):
            if at + 8 > size:
                raise _TruncatedError(at + 8)
            at += 8 + unpack(data, at)[0]
        if at > size:
            raise _TruncatedError(at)
        self._at = at

    def _advance(self, length: int) -> int:
        """Return where the next `length` bytes are, and step over them."""
        at = self._at
        if at + length > self._size:
            raise _TruncatedError(at + length)
        self._at = at + length
        return at

    def _broken(self, what: str) -> GgufError:
        return GgufError(f"{self._path} can't be served: {what}")
