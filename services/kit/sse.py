"""Server-sent events as bytes: split a stream into events without touching them, and read their data.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

import re

_BOUNDARY = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n|\r\n\n")
_LINE = re.compile(rb"\r\n|\n|\r")


class EventTooLarge(ValueError):
    """An event grew above the limit without an end: the sender does not speak SSE."""


class EventSplitter:
    """Cut a byte stream into whole events, each with its terminating blank line, byte for byte.

    The tail of an event that has not ended stays in `pending` until the rest comes.
    """

    def __init__(self, max_event_bytes: int = 16 * 1024 * 1024) -> None:
        self.pending = b""
        self._max_event_bytes = max_event_bytes

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the events that `chunk` completes.

        Raises:
            EventTooLarge: when an unfinished event is above the limit.
        """
        data = self.pending + chunk if self.pending else chunk
        # Nearly always: one event, whole, in one chunk.
        if data.endswith(b"\n\n") and data.find(b"\n\n") == len(data) - 2 and b"\r" not in data:
            self.pending = b""
            return [data]
        events = []
        start = 0
        # What was pending has no boundary but for the beginning of one: a large event is not searched again and again.
        for boundary in _BOUNDARY.finditer(data, max(0, len(self.pending) - 3)):
            events.append(data[start : boundary.end()])
            start = boundary.end()
        self.pending = data[start:]
        if len(self.pending) > self._max_event_bytes:
            raise EventTooLarge(f"an event of more than {self._max_event_bytes} bytes without an end")
        return events


def event_data(event: bytes) -> bytes | None:
    """Return the event's data, its lines joined by newlines; None where it has none (a comment)."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2:
        return event[6:-2]
    lines = [_field_value(line) for line in _LINE.split(event) if line.startswith(b"data")]
    data = [line for line in lines if line is not None]
    return b"\n".join(data) if data else None


def _field_value(line: bytes) -> bytes | None:
    if line == b"data":
        return b""
    if not line.startswith(b"data:"):
        return None
    return line[6:] if line[5:6] == b" " else line[5:]


def event_name(event: bytes) -> bytes:
    """Return the event's `event:` field, `message` where it has none."""
    for line in _LINE.split(event):
        if line.startswith(b"event:"):
            return line[6:].strip()
    return b"message"


def encode_event(data: bytes) -> bytes:
    """Return an event that carries `data` (one line)."""
    return b"data: " + data + b"\n\n"


KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
