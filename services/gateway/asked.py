"""What a request asks for, read of its fields when it is over: for records and traces, never on the way.

Fields are JSON bytes that were checked as far as a request needs it, and no further: what can't be read is left out.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

MOST_TEXT_BYTES = 32_000
"""Of a prompt or an answer that is kept; above, it is cut."""
_MOST_NAME = 1024

T = TypeVar("T")
Fields = Mapping[str, Any]


class _Message(Struct):
    role: str = ""
    content: Raw | UnsetType = UNSET


class _Part(Struct):
    type: str = ""
    text: str | None = None


class _Format(Struct):
    type: str = "text"


_items = msgspec.json.Decoder(list[Raw])
_message = msgspec.json.Decoder(_Message)
_text = msgspec.json.Decoder(str | None)
_texts = msgspec.json.Decoder(str | list[Raw] | None)
_parts = msgspec.json.Decoder(str | list[_Part] | None)
_format = msgspec.json.Decoder(_Format | None)


def _read(decoder: "msgspec.json.Decoder[T]", raw: Any) -> T | None:
    if raw is None:
        return None
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _listed(raw: Any) -> list[Raw]:
    return _read(_items, raw) or []


def user_of(fields: Fields) -> str:
    """Return whom the client named; empty where it named nobody."""
    return (_read(_text, fields.get("user")) or "")[:_MOST_NAME]


def tools_offered(fields: Fields) -> int:
    """Return how many tools the model may call."""
    return len(_listed(fields.get("tools")))


def format_asked(fields: Fields) -> bool:
    """Return whether the answer, or the arguments of a call that is forced, must be JSON."""
    wanted = _read(_format, fields.get("response_format"))
    if wanted is not None and wanted.type != "text":
        return True
    choice = bytes(fields.get("tool_choice") or b"").lstrip()
    return choice.startswith(b"{") or choice == b'"required"'


def numbers_of(fields: Fields) -> dict[str, int | float]:
    """Return the fields that are numbers: sampling parameters and limits."""
    found: dict[str, int | float] = {}
    for name, raw in fields.items():
        view = memoryview(raw)
        if not len(view) or view[0] not in b"-0123456789":
            continue
        try:
            found[name] = msgspec.json.decode(raw)
        except (msgspec.DecodeError, ValueError):
            continue
    return found


def prompt_of(fields: Fields) -> str:
    """Return the last message of the user, or else the text that is to be continued, embedded or searched for."""
    if "messages" in fields:
        return cut(_last_of_user(fields["messages"]))
    for name in ("prompt", "input", "query"):
        if name in fields:
            return cut("\n".join(_plain_texts(fields[name])))
    return ""


def messages_of(fields: Fields) -> list[dict[str, Any]]:
    """Return the messages of a chat, each with its role, and its content as texts and nothing else."""
    read = (_read(_message, raw) for raw in _listed(fields.get("messages")))
    return [{"role": each.role, "content": cut(_content(each))} for each in read if each is not None]


def cut(text: str) -> str:
    """Return the beginning of a text that is longer than a record may be."""
    if len(text) * 4 <= MOST_TEXT_BYTES:
        return text
    data = text[:MOST_TEXT_BYTES].encode("utf-8", "replace")
    return data[:MOST_TEXT_BYTES].decode("utf-8", "ignore")


def _last_of_user(raw: Any) -> str:
    for item in reversed(_listed(raw)):
        message = _read(_message, item)
        if message is not None and message.role == "user":
            return _content(message)
    return ""


def _content(message: _Message) -> str:
    content = None if message.content is UNSET else _read(_parts, message.content)
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part.text for part in content if part.type == "text" and part.text)


def _plain_texts(raw: Any) -> Iterator[str]:
    """Yield texts until there are enough; tokens are none."""
    found = _read(_texts, raw)
    if isinstance(found, str):
        yield found
        return
    size = 0
    for item in found or ():
        text = _read(_text, item)
        if text is None:
            return
        yield text
        size += len(text)
        if size > MOST_TEXT_BYTES:
            return
