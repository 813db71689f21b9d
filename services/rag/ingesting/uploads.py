"""Files of a multipart request, each streamed to disk as it comes: no file is ever whole in memory.

Source: https://www.rfc-editor.org/rfc/rfc7578
"""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from services.kit.asgi import BODY_IDLE_S, ClientLeft
from services.kit.errors import InvalidRequest, RequestTimeout

_FLUSH_BYTES = 1024 * 1024
_MAX_FIELD_BYTES = 256 * 1024
_MAX_PARTS = 100_000


@dataclass(frozen=True)
class Field:
    """A field that is no file."""

    name: str
    value: str


@dataclass(frozen=True)
class Upload:
    """A file that has come whole.

    Args:
        filename: as the client gave it; not to be trusted.
        path: where its content lies, for whoever takes it to move or remove; None where it was above the limit.
        size: of all that came of it.
    """

    field: str
    filename: str
    path: Path | None
    hash: str
    size: int


async def receive(request: Request, incoming: Path, max_bytes: int) -> AsyncIterator[Field | Upload]:
    """Yield the parts of a form as they end.

    A file above `max_bytes` is read to its end but not kept, so that those after it can still come.

    Raises:
        InvalidRequest: the body is no multipart form, or is cut off.
        RequestTimeout: nothing came for 60 s.
        ClientLeft
    """
    _, parameters = parse_options_header(request.headers.get("content-type", ""))
    boundary = parameters.get(b"boundary")
    if boundary is None:
        raise InvalidRequest("send the files as multipart/form-data, for example: curl -F 'files=@guide.md'")
    form = _Form(incoming, max_bytes)
    parser = MultipartParser(boundary, form.callbacks())  # type: ignore[arg-type]
    try:
        async for data in _chunks(request):
            try:
                parser.write(data)
            except FormParserError as error:
                raise InvalidRequest(f"the form is broken: {error}") from None
            for part in await form.flush():
                yield part
        if not form.is_complete:
            raise InvalidRequest("the form ends in the middle; send it again")
    finally:
        await asyncio.to_thread(form.discard)


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(BODY_IDLE_S):
                data = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise RequestTimeout(f"no byte of the files came for {BODY_IDLE_S:.0f} s; send them again") from None
        except ClientDisconnect:
            raise ClientLeft from None
        if data:
            yield data


class _Part:
    """One part: what of it has come and is not yet written."""

    def __init__(self, field: str, filename: str | None, incoming: Path, max_bytes: int) -> None:
        self.field = field
        self.filename = filename
        self.ended = False
        self.size = 0
        self._pending = bytearray()
        self._max_bytes = max_bytes if filename is not None else _MAX_FIELD_BYTES
        self._path = incoming / secrets.token_hex(16)
        self._hash = hashlib.sha256()
        self._file: FileIO | None = None

    def add(self, data: bytes) -> None:
        """Take bytes on the event loop; those above the limit are only counted."""
        self.size += len(data)
        if self.size <= self._max_bytes:
            self._pending += data

    @property
    def wants_flush(self) -> bool:
        """It has ended, or has much in memory."""
        return self.filename is not None and (self.ended or len(self._pending) >= _FLUSH_BYTES)

    @property
    def too_large(self) -> bool:
        """More came than is allowed."""
        return self.size > self._max_bytes

    def flush(self) -> None:
        """Write what has come. Blocks."""
        if self._file is None:
            self._file = FileIO(self._path, "xb")
        self._file.write(self._pending)
        self._hash.update(self._pending)
        self._pending.clear()
        if self.ended:
            self._file.close()
            if self.too_large:
                self._path.unlink()

    def discard(self) -> None:
        """Remove what was written. Blocks."""
        if self._file is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)

    def result(self) -> Field | Upload:
        """Return what it was."""
        if self.filename is None:
            if self.too_large:
                raise InvalidRequest(f"the field {self.field!r} has more than {_MAX_FIELD_BYTES:,} bytes")
            return Field(self.field, self._pending.decode(errors="replace"))
        return Upload(
            self.field, self.filename, None if self.too_large else self._path, self._hash.hexdigest(), self.size
        )


def _flush_all(parts: Sequence[_Part]) -> None:
    for part in parts:
        part.flush()


class _Form:
    """Turns the parser's calls into parts."""

    def __init__(self, incoming: Path, max_bytes: int) -> None:
        self.is_complete = False
        self._incoming = incoming
        self._max_bytes = max_bytes
        self._header = b""
        self._value = b""
        self._disposition = b""
        self._parts: list[_Part] = []
        self._count = 0

    def callbacks(self) -> dict[str, object]:
        """Return what the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._on_header,
            "on_header_value": self._on_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers,
            "on_part_data": self._on_data,
            "on_part_end": self._on_end,
            "on_end": self._on_complete,
        }

    async def flush(self) -> list[Field | Upload]:
        """Write what has come, beside the event loop; return the parts that have ended, in their order."""
        to_write = [part for part in self._parts if part.wants_flush]
        if to_write:
            await asyncio.to_thread(_flush_all, to_write)
        ended = [part for part in self._parts if part.ended]
        self._parts = [part for part in self._parts if not part.ended]
        return [part.result() for part in ended]

    def discard(self) -> None:
        """Remove what has not ended. Blocks."""
        for part in self._parts:
            part.discard()

    def _begin(self) -> None:
        self._disposition = b""
        self._count += 1
        if self._count > _MAX_PARTS:
            raise InvalidRequest(f"the form has more than {_MAX_PARTS:,} parts; send fewer files at a time")

    def _on_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _on_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise InvalidRequest('a part of the form has no name: Content-Disposition: form-data; name="files"')
        filename = options.get(b"filename")
        self._parts.append(
            _Part(
                options[b"name"].decode(errors="replace"),
                None if filename is None else filename.decode(errors="replace"),
                self._incoming,
                self._max_bytes,
            )
        )

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._parts[-1].add(data[start:end])

    def _on_end(self) -> None:
        self._parts[-1].ended = True

    def _on_complete(self) -> None:
        self.is_complete = True
