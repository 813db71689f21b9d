"""Read safetensors headers: which tensors a model has, of which types, in how many bytes.

Only headers are read, and every length in them is checked against the file before it is believed, so a broken or
hostile file ends in a sentence.
Source: https://github.com/huggingface/safetensors#format
"""

import json
import math
import re
import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

INDEX = "model.safetensors.index.json"
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_MAX_INDEX_BYTES = 100_000_000
_MAX_DIMENSIONS = 8
_PLAIN_NAME = re.compile(r"[\w][\w .()-]*\.safetensors")

_DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


class SafetensorsError(Exception):
    """The files can't be read; the message names the file, what is wrong and the next step."""


@dataclass(frozen=True)
class Tensor:
    """One tensor as it is stored: packed weights of 4 bits count as the bytes that hold them."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int

    @property
    def elements(self) -> int:
        """The number of stored values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Safetensors:
    """The tensors of a model, of one file or several.

    Args:
        size_bytes: of the files, with their headers.
    """

    files: tuple[Path, ...]
    size_bytes: int
    tensors: tuple[Tensor, ...] = field(repr=False)

    @property
    def weight_bytes(self) -> int:
        """The sum of all tensors."""
        return sum(tensor.size_bytes for tensor in self.tensors)

    @property
    def dtypes(self) -> dict[str, int]:
        """Stored type → bytes in it, the largest first."""
        sizes: dict[str, int] = {}
        for tensor in self.tensors:
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size_bytes
        return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def read_safetensors(path: Path) -> Safetensors:
    """Return the tensors of a file, or of a folder with one file or an index and its parts.

    Raises:
        SafetensorsError: nothing of the kind is there, a part is missing, a file is truncated or broken.
    """
    if not path.is_dir():
        return _joined([path])
    index = path / INDEX
    if index.is_file():
        return _of_index(index)
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise SafetensorsError(f"{path} has no .safetensors file; download the model's weights into it")
    return _joined(files)


def _of_index(index: Path) -> Safetensors:
    names = _weight_map(index)
    files = []
    for name in sorted(set(names.values())):
        if not _PLAIN_NAME.fullmatch(name):
            raise SafetensorsError(f"{index} names the part {name[:80]!r}, which is no file beside it; get it again")
        if not (index.parent / name).is_file():
            raise SafetensorsError(f"{index} names {name}, which is not there; download the missing part")
        files.append(index.parent / name)
    found = _joined(files)
    missing = names.keys() - {tensor.name for tensor in found.tensors}
    if missing:
        raise SafetensorsError(f"{index} names the tensor {min(missing)[:80]!r}, which no part has; download it again")
    return found


def _weight_map(index: Path) -> dict[str, str]:
    if index.stat().st_size > _MAX_INDEX_BYTES:
        raise SafetensorsError(f"{index} has more than {_MAX_INDEX_BYTES:,} bytes, too many for an index")
    document = _json(index, index.read_bytes())
    names = document.get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise SafetensorsError(f"{index} has no weight_map of names; download it again")
    return names


def _joined(files: Iterable[Path]) -> Safetensors:
    paths = tuple(files)
    tensors: dict[str, Tensor] = {}
    size = 0
    for path in paths:
        size += _size(path)
        for tensor in _read_header(path):
            if tensor.name in tensors:
                raise SafetensorsError(f"{path} has the tensor {tensor.name[:80]!r}, which another part has too")
            tensors[tensor.name] = tensor
    return Safetensors(paths, size, tuple(tensors.values()))


def _size(path: Path) -> int:
    try:
        found = path.stat()
    except OSError as error:
        raise SafetensorsError(f"{path} can't be read: {error.strerror or error}") from None
    if not stat.S_ISREG(found.st_mode):
        raise SafetensorsError(f"{path} is not a regular file; download the model to disk first")
    return found.st_size


def _read_header(path: Path) -> list[Tensor]:
    size = _size(path)
    try:
        with path.open("rb") as file:
            start = file.read(8)
            if len(start) < 8:
                raise SafetensorsError(f"{path} is truncated: it has {size} bytes; download it again")
            if start.startswith(b"version "):
                raise SafetensorsError(f"{path} is a Git LFS pointer: `git lfs pull` fetches the file itself")
            length = struct.unpack("<Q", start)[0]
            if length > _MAX_HEADER_BYTES:
                raise SafetensorsError(f"{path} is not a safetensors file: its header would have {length:,} bytes")
            if 8 + length > size:
                raise _truncated(path, size, 8 + length)
            header = _json(path, file.read(length))
    except OSError as error:
        raise SafetensorsError(f"{path} can't be read: {error.strerror or error}") from None
    return _tensors(path, header, size - 8 - length)


def _tensors(path: Path, header: dict[str, Any], data_bytes: int) -> list[Tensor]:
    """Return the tensors of a header, having checked that they fill the data without gap or overlap."""
    placed = [_place(path, name, entry) for name, entry in header.items() if name != "__metadata__"]
    end = 0
    for start, tensor in sorted(placed, key=lambda item: (item[0], item[0] + item[1].size_bytes)):
        if start != end:
            raise _broken(path, tensor.name, f"begins at {start:,}, where {end:,} is due")
        end = start + tensor.size_bytes
    if end > data_bytes:
        raise _truncated(path, data_bytes, end)
    if end < data_bytes:
        raise SafetensorsError(f"{path} has {data_bytes - end:,} bytes behind its last tensor; download it again")
    return [tensor for _, tensor in placed]


def _place(path: Path, name: str, entry: Any) -> tuple[int, Tensor]:
    """Return a tensor and where it begins in the data."""
    if not isinstance(entry, dict):
        raise _broken(path, name, "is no object")
    dtype = str(entry.get("dtype"))
    if dtype not in _DTYPE_BITS:
        raise _broken(path, name, f"has the type {dtype[:40]!r}, which this reader does not know")
    shape, offsets = _naturals(entry.get("shape")), _naturals(entry.get("data_offsets"))
    if shape is None or len(shape) > _MAX_DIMENSIONS:
        raise _broken(path, name, f"has the shape {str(entry.get('shape'))[:80]}")
    if offsets is None or len(offsets) != 2:
        raise _broken(path, name, f"has the offsets {str(entry.get('data_offsets'))[:80]}")
    size = math.ceil(math.prod(shape) * _DTYPE_BITS[dtype] / 8)
    if offsets[1] - offsets[0] != size:
        raise _broken(path, name, f"has {offsets[1] - offsets[0]:,} bytes, its shape and type make {size:,}")
    return offsets[0], Tensor(name, dtype, tuple(shape), size)


def _naturals(value: Any) -> list[int] | None:
    """Return a list of whole numbers that a file could speak of; None for anything else."""
    whole = isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)
    return value if whole else None


def _json(path: Path, data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise SafetensorsError(f"{path} is broken: what should be JSON is not; download it again") from None
    if not isinstance(document, dict):
        raise SafetensorsError(f"{path} is broken: its JSON is no object; download it again")
    return document


def _broken(path: Path, name: str, what: str) -> SafetensorsError:
    return SafetensorsError(f"{path} is broken: the tensor {name[:80]!r} {what}; download it again")


def _truncated(path: Path, size: int, needed: int) -> SafetensorsError:
    return SafetensorsError(
        f"{path} is truncated: it has {size:,} bytes where its header speaks of {needed:,}; download it again"
    )
