"""OpenAI's wire types, as far as services read them. Unknown fields are passed on, never dropped.

Requests are checked by these types and then relayed as the bytes that came; answers and stream events are read
beside the relay for tokens, usage and errors.
Source: https://platform.openai.com/docs/api-reference
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

_Object = Annotated[Raw, Meta(extra_json_schema={"type": "object"})]
_TOKENS: list[Any] = [
    {"type": "array", "items": {"type": "integer"}, "minItems": 1},
    {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}, "minItems": 1},
]
_TEXT = [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
_SOME_TEXT = [{"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]
_Prompt = Annotated[Raw, Meta(extra_json_schema={"anyOf": [*_TEXT, *_TOKENS]})]
_Input = Annotated[Raw, Meta(extra_json_schema={"anyOf": [*_SOME_TEXT, *_TOKENS]})]
ModelName = Annotated[str, Meta(min_length=1, max_length=256, description="An id or alias of `GET /v1/models`.")]


class StreamOptions(Struct):
    """`include_usage`: send a last event with the tokens used."""

    include_usage: bool | None = None


class ChatCompletionRequest(Struct, kw_only=True):
    """A conversation to be continued. Fields that are not named here go to the engine as they are."""

    model: ModelName
    messages: Annotated[list[_Object], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=0)] | None = None
    temperature: Annotated[float, Meta(ge=0)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[_Object] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    user: str | None = None


class CompletionRequest(Struct, kw_only=True):
    """A text to be continued."""

    model: ModelName
    prompt: _Prompt
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    temperature: Annotated[float, Meta(ge=0)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    echo: bool | None = None
    logprobs: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    suffix: str | None = None
    user: str | None = None


class EmbeddingRequest(Struct, kw_only=True):
    """Texts (or token lists) to be embedded."""

    model: ModelName
    input: _Input
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    user: str | None = None


class RerankDocument(Struct):
    """A document; fields that are not named here go on as they are."""

    text: str


class RerankRequest(Struct, kw_only=True):
    """Documents to be put in order by how well they answer a query: the form that Cohere's and Jina's clients send.

    Source: https://docs.cohere.com/reference/rerank, https://jina.ai/reranker
    """

    model: ModelName
    query: Annotated[str, Meta(min_length=1)]
    documents: Annotated[list[str | RerankDocument], Meta(min_length=1)]
    top_n: Annotated[int, Meta(ge=1)] | None = None
    return_documents: bool | None = None


class Usage(Struct):
    """Tokens as the engine counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class Timings(Struct):
    """llama.cpp's own clock, in milliseconds; other engines send none."""

    prompt_ms: float = 0.0
    predicted_ms: float = 0.0


class ToolCallFunction(Struct):
    """The name comes whole in the first delta, the arguments in pieces of JSON text."""

    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(Struct):
    """A piece of a tool call; pieces with one `index` belong together."""

    index: int | UnsetType = UNSET
    id: str | None = None
    function: ToolCallFunction | None = None


class Delta(Struct):
    """What an event, or a whole message, adds to the answer."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class Choice(Struct):
    """One of `n` answers: a delta (chat stream), a message (chat) or a text (completions)."""

    delta: Delta | None = None
    message: Delta | None = None
    index: int | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Any = None


class Answer(Struct):
    """A stream event or a whole answer, as far as it is read: everything else is skipped, not copied."""

    choices: list[Choice] = []
    usage: Usage | None = None
    timings: Timings | None = None
    error: Raw | UnsetType = UNSET


class _Failure(Struct):
    """The one field that is read of an answer whose other fields have unexpected types."""

    error: Raw | UnsetType = UNSET


_answer = msgspec.json.Decoder(Answer)
_failure = msgspec.json.Decoder(_Failure)
_any_json = msgspec.json.Decoder(Raw)


def read_answer(data: bytes) -> Answer | None:
    """Return what an answer or event says; None when it is JSON but of another form.

    Raises:
        msgspec.DecodeError: when it is no JSON.
    """
    try:
        return _answer.decode(data)
    except msgspec.ValidationError:
        _any_json.decode(data)  # a wrong type stops the decoder; what follows it must be JSON all the same
    try:
        error = _failure.decode(data).error
    except msgspec.ValidationError:
        return None
    return None if error is UNSET else Answer(error=error)
