"""What goes between the service and a reading process: eight bytes of length, then MessagePack.

Typed, so that a process that a file has taken over can't make the service build anything but these.
"""

import struct

import msgspec

from services.rag.documents import Chunk
from services.rag.library import ChunkOptions
from services.rag.loading import Limits, LoadCode
from services.rag.reading.cutting import Cut

HEADER = struct.Struct(">Q")
NO_MEMORY = 77
"""What the process exits with when a file needs more memory than it may take."""


class Start(msgspec.Struct, tag=True):
    """To the process, once: the limits, and the tokenizer's file."""

    limits: Limits
    tokenizer: str | None


class Read(msgspec.Struct, tag=True):
    """To the process: a file to read."""

    path: str
    name: str
    options: ChunkOptions


class Vectors(msgspec.Struct, tag=True):
    """To the process: the answer to `Embed`; `(rows, …)` float32, row by row."""

    rows: int
    values: bytes


class Ready(msgspec.Struct, tag=True):
    """From the process: it has started."""


class Some(msgspec.Struct, tag=True):
    """From the process: some of the file's chunks; many come in several frames, so that none takes long to decode."""

    chunks: tuple[Chunk, ...]


class Done(msgspec.Struct, tag=True):
    """From the process: the file's facts, after its chunks."""

    cut: Cut


class Refused(msgspec.Struct, tag=True):
    """From the process: the file can't be read."""

    code: LoadCode
    message: str


class ToEmbed(msgspec.Struct, tag=True):
    """From the process: texts whose vectors it needs to go on."""

    texts: list[str]


Asked = Start | Read | Vectors
Answered = Ready | Some | Done | Refused | ToEmbed
