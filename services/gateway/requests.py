"""Read a generation request: checked by type, its values kept as the bytes that came."""

import re
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Raw, Struct

from services.kit.errors import InvalidRequest
from services.kit.openai import ChatCompletionRequest, CompletionRequest, EmbeddingRequest, RerankRequest

T = TypeVar("T", bound=Struct)
_PATH = re.compile(r" - at `\$\.?([^`]*)`")
_fields = msgspec.json.Decoder(dict[str, Raw])
_options = msgspec.json.Decoder(dict[str, Raw] | None)


@dataclass(slots=True)
class Parsed(Generic[T]):
    """A request: its checked fields, and all of them as JSON bytes."""

    known: T
    fields: dict[str, Any]
    body: bytes

    def encoded(self, upstream_id: str, *, ask_usage: bool) -> bytes:
        """Return the body for the engine: the engine's own model id, and usage asked for in streams.

        Every other field keeps its bytes; where nothing changes the whole body does.
        """
        if getattr(self.known, "model", "") == upstream_id and not ask_usage:
            return self.body
        changed = {**self.fields, "model": Raw(msgspec.json.encode(upstream_id))}
        if ask_usage:
            given = self.fields.get("stream_options")
            options = (_options.decode(given) if given is not None else None) or {}
            changed["stream_options"] = Raw(msgspec.json.encode({**options, "include_usage": True}))
        return msgspec.json.encode(changed)


class RequestReader(Generic[T]):
    """Reads the body of one endpoint."""

    def __init__(self, kind: type[T]) -> None:
        self._known = msgspec.json.Decoder(kind)

    def read(self, body: bytes) -> Parsed[T]:
        """Return the request.

        Raises:
            InvalidRequest: no JSON, no object, a missing or wrong field; `param` names it.
        """
        try:
            str(body, "utf-8")  # values that are skipped, not decoded, are not checked by the parser
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"the request body is not UTF-8: {error.reason} at byte {error.start}") from None
        return Parsed(_decode(self._known, body), _decode(_fields, body), body)


def _decode(decoder: "msgspec.json.Decoder[Any]", body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except msgspec.DecodeError as error:
        reason = "it is empty" if not body.strip() else str(error)
        raise InvalidRequest(f"the request body is no JSON: {reason}") from None
    except RecursionError:
        raise InvalidRequest("the request body is nested too deeply; flatten it") from None


def _invalid(message: str) -> InvalidRequest:
    found = _PATH.search(message)
    path = found.group(1) if found else ""
    text = _PATH.sub("", message)
    if not path and (missing := re.search(r"required field `(\w+)`", text)):
        path = missing.group(1)
    return InvalidRequest(f"{path}: {text}" if path else text, param=path or None)


chat_reader = RequestReader(ChatCompletionRequest)
completion_reader = RequestReader(CompletionRequest)
embedding_reader = RequestReader(EmbeddingRequest)
rerank_reader = RequestReader(RerankRequest)


def check_chat(request: ChatCompletionRequest) -> None:
    """Check what the types leave open.

    Raises:
        InvalidRequest: a message or tool that is no object.
    """
    for name, items in (("messages", request.messages), ("tools", request.tools or ())):
        for number, item in enumerate(items):
            if bytes(item)[:1] != b"{":
                raise InvalidRequest(f"{name}[{number}]: expected an object", param=f"{name}[{number}]")


def check_text_or_tokens(name: str, value: Raw) -> None:
    """Check that a `prompt` or `input` is a text, texts, tokens or lists of tokens, and not empty.

    Raises:
        InvalidRequest
    """
    decoded = _decode_text_or_tokens(value)
    if decoded is None:
        raise InvalidRequest(f"{name}: expected a text, or a list of texts, tokens or token lists", param=name)
    if name == "input" and not decoded:
        raise InvalidRequest(f"{name}: nothing to embed", param=name)


def _decode_text_or_tokens(value: Raw) -> Any:
    for kind in (str, list[str], list[int], list[list[int]]):
        try:
            return msgspec.json.decode(value, type=kind)
        except (msgspec.ValidationError, RecursionError):
            continue
    return None
