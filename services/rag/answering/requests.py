"""What a chat request asks for, read and checked: fields that an answer from documents can't honour are refused."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from services.kit.errors import InvalidRequest, UnsupportedParameter
from services.rag.retrieving.client_filters import parse_filter
from services.rag.retrieving.rewriting import Turn
from services.rag.vectors.filters import Filter

PREFIX = "rag/"
_PASSED_ON = (
    "temperature top_p seed stop presence_penalty frequency_penalty logit_bias user reasoning_effort top_k min_p "
    "repeat_penalty repetition_penalty chat_template_kwargs"
)
_MARKER = re.compile(r" ?\[\d{1,3}\]")


class RagOptions(BaseModel):
    """The body's `rag`: how this one answer is retrieved."""

    model_config = ConfigDict(extra="forbid")

    preset: str | None = Field(None, description="name of a preset; null: the collection's, else the service's")
    filters: Any = Field(None, description="on attributes, in the form of OpenAI's vector store search")
    limit: int | None = Field(None, ge=1, le=50, description="passages; null: what the preset gives")
    retrieve_only: bool = Field(False, description="give the passages; no model is asked")
    trace: bool = Field(False, description="show each step of the retrieval with its milliseconds")


class _StreamOptions(BaseModel):
    include_usage: bool | None = None


class ChatBody(BaseModel):
    """A chat completion's body, as far as it is read; `n`, tools and formats are looked at to refuse them."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(min_length=1, max_length=256)
    messages: list[dict[str, Any]] = Field(min_length=1, max_length=1000)
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    seed: int | None = None
    n: int | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    modalities: list[str] | None = None
    rag: RagOptions | None = None


@dataclass(frozen=True)
class Question:
    """A checked request.

    Args:
        history: earlier turns, the oldest first.
        instructions: the client's own system messages.
        options: fields that go to the model as they are.
    """

    collection: str
    text: str
    history: tuple[Turn, ...]
    instructions: str
    stream: bool
    include_usage: bool
    max_tokens: int | None
    options: Mapping[str, Any]
    rag: RagOptions
    filter: Filter | None = None
    earlier: tuple[Mapping[str, str], ...] = field(default=())


def read_question(body: ChatBody) -> Question:
    """Return what a body asks for.

    Raises:
        InvalidRequest, UnsupportedParameter: `param` names the field.
    """
    _refuse(body)
    messages = [(str(each.get("role")), _text(each, at)) for at, each in enumerate(body.messages)]
    instructions = "\n".join(text for role, text in messages if role in ("system", "developer") and text)
    talk = [(role, text) for role, text in messages if role in ("user", "assistant")]
    if not talk or talk[-1][0] != "user":
        raise InvalidRequest("the last message must be the user's question", param="messages")
    rag = body.rag or RagOptions.model_construct()
    given = body.model_dump(exclude_none=True)
    return Question(
        collection=body.model.removeprefix(PREFIX),
        text=talk[-1][1].strip(),
        history=_turns(talk[:-1]),
        instructions=instructions,
        stream=bool(body.stream),
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
        max_tokens=body.max_completion_tokens or body.max_tokens,
        options={name: given[name] for name in _PASSED_ON.split() if name in given},
        rag=rag,
        filter=None if rag.filters is None else parse_filter(rag.filters, "rag.filters"),
        earlier=tuple({"role": role, "content": without_markers(text)} for role, text in talk[:-1] if text),
    )


def without_markers(text: str) -> str:
    """Return an earlier answer without its citations: their numbers mean other passages now."""
    return _MARKER.sub("", text)


def _refuse(body: ChatBody) -> None:
    wanted = {
        "n": body.n not in (None, 1),
        "tools": bool(body.tools),
        "functions": bool(body.functions),
        "logprobs": bool(body.logprobs),
        "response_format": (body.response_format or {}).get("type", "text") != "text",
        "modalities": body.modalities not in (None, ["text"]),
    }
    for name, refused in wanted.items():
        if refused:
            raise UnsupportedParameter(
                f"{name} can't be honoured by an answer from documents, which is one text with citations; leave it out",
                param=name,
            )


def _text(message: Mapping[str, Any], at: int) -> str:
    content, where = message.get("content"), f"messages.{at}.content"
    if message.get("role") not in ("system", "developer", "user", "assistant"):
        raise InvalidRequest(
            f"messages.{at}.role is {message.get('role')!r}; system, developer, user and assistant can be used here",
            param="messages",
        )
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise InvalidRequest(f"{where} must be a text or a list of text parts", param="messages")
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise UnsupportedParameter(
                f"{where} has a part that is not text; questions here are text", param="messages"
            )
        texts.append(part["text"])
    return "\n".join(texts)


def _turns(talk: list[tuple[str, str]]) -> tuple[Turn, ...]:
    turns: list[Turn] = []
    for role, text in talk:
        if role == "user":
            turns.append(Turn(text))
        elif turns:
            turns[-1] = Turn(turns[-1].question, without_markers(f"{turns[-1].answer}\n{text}".strip()))
    return tuple(turns)


def parse_body(document: Any) -> ChatBody:
    """Return a decoded body's fields.

    Raises:
        InvalidRequest: naming the first wrong field.
    """
    try:
        return ChatBody.model_validate(document)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidRequest(f"{where or 'the body'}: {first['msg']}", param=where or None) from None
