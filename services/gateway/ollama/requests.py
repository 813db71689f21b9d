"""Ollama's requests and what they become in OpenAI's wire format."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from services.kit.errors import InvalidRequest, UnsupportedParameter

Model = Annotated[str, Meta(min_length=1, max_length=256)]

_SAME_NAME = (
    "temperature", "top_p", "top_k", "min_p", "typical_p", "seed", "stop", "presence_penalty", "frequency_penalty",
    "repeat_penalty", "repeat_last_n", "mirostat", "mirostat_tau", "mirostat_eta",
)  # fmt: skip
"""Options that llama.cpp and others read under Ollama's own names. The rest (num_ctx, num_gpu, …) is about how a
model is loaded, which its recipe decides."""


class OllamaToolFunction(Struct):
    """A call with its arguments as an object, not as OpenAI's JSON text."""

    name: str
    arguments: dict[str, Any] = {}


class OllamaToolCall(Struct):
    """A tool call in an assistant's message."""

    function: OllamaToolFunction
    id: str | None = None


class OllamaMessage(Struct, kw_only=True):
    """A message; images are base64 without a `data:` prefix."""

    role: str
    content: str | None = ""
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[OllamaToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class ChatRequest(Struct, kw_only=True):
    """`POST /api/chat`; no messages: only makes sure that the model is there."""

    model: Model
    messages: list[OllamaMessage] | None = None
    tools: list[dict[str, Any]] | None = None
    format: str | dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    stream: bool | None = True
    think: bool | str | None = None
    keep_alive: float | str | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None


class GenerateRequest(Struct, kw_only=True):
    """`POST /api/generate`; an empty prompt only makes sure that the model is there."""

    model: Model
    prompt: str | None = ""
    suffix: str | None = None
    images: list[str] | None = None
    format: str | dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    system: str | None = None
    template: str | None = None
    raw: bool | None = None
    stream: bool | None = True
    think: bool | str | None = None
    keep_alive: float | str | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None


class EmbedRequest(Struct, kw_only=True):
    """`POST /api/embed`; an empty input only makes sure that the model is there."""

    model: Model
    input: str | list[str] = ""
    truncate: bool | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    options: dict[str, Any] | None = None
    keep_alive: float | str | None = None


class LegacyEmbedRequest(Struct, kw_only=True):
    """`POST /api/embeddings`, which older clients use; an empty prompt only makes sure that the model is there."""

    model: Model
    prompt: str = ""
    options: dict[str, Any] | None = None
    keep_alive: float | str | None = None


class ShowRequest(Struct, kw_only=True):
    """`POST /api/show`; older clients send `name`."""

    model: str = ""
    name: str = ""
    verbose: bool | None = None


class PullRequest(Struct, kw_only=True):
    """`POST /api/pull`; older clients send `name`."""

    model: str = ""
    name: str = ""
    insecure: bool | None = None
    stream: bool | None = True


class DeleteRequest(Struct, kw_only=True):
    """`DELETE /api/delete`; older clients send `name`."""

    model: str = ""
    name: str = ""


def named(request: ShowRequest | PullRequest | DeleteRequest) -> str:
    """Return which model is meant.

    Raises:
        InvalidRequest: none.
    """
    name = request.model or request.name
    if not name:
        raise InvalidRequest("model: which one? GET /api/tags lists them", param="model")
    return name


def chat_body(request: ChatRequest) -> dict[str, Any]:
    """Return the chat completion that a chat asks for."""
    messages = _messages(request.messages or [])
    return {**_common(request), "messages": messages, **({"tools": request.tools} if request.tools else {})}


def generate_body(request: GenerateRequest) -> tuple[str, dict[str, Any]]:
    """Return path and body: a chat of one turn, or a plain completion for `raw` and `suffix`.

    Raises:
        UnsupportedParameter: a `template` of the caller's own; send `raw` with the text ready instead.
    """
    if request.template:
        raise UnsupportedParameter(
            "template: the engine's own template is used; send raw=true with the whole text", param="template"
        )
    prompt = request.prompt or ""
    if request.raw or request.suffix is not None:
        body = {**_common(request), "prompt": prompt}
        if request.logprobs:  # here it is the number of alternatives
            body["logprobs"] = max(body.pop("top_logprobs"), 1)
        if request.suffix is not None:
            body["suffix"] = request.suffix
        return "/v1/completions", body
    messages = [OllamaMessage(role="user", content=prompt, images=request.images)]
    if request.system:
        messages.insert(0, OllamaMessage(role="system", content=request.system))
    return "/v1/chat/completions", {**_common(request), "messages": _messages(messages)}


def embed_body(request: EmbedRequest) -> dict[str, Any]:
    """Return the embeddings request that an embed asks for."""
    body: dict[str, Any] = {"input": request.input, "encoding_format": "float"}
    if request.dimensions is not None:
        body["dimensions"] = request.dimensions
    return body


def _common(request: ChatRequest | GenerateRequest) -> dict[str, Any]:
    options = request.options or {}
    body = {name: options[name] for name in _SAME_NAME if options.get(name) is not None}
    limit = options.get("num_predict")
    if isinstance(limit, int) and limit >= 0:  # -1 is without a limit, -2 until the context is full
        body["max_tokens"] = limit
    if request.format:
        body["response_format"] = _response_format(request.format)
    if request.think is not None:
        body["chat_template_kwargs"] = {"enable_thinking": bool(request.think)}
        if isinstance(request.think, str):
            body["reasoning_effort"] = request.think
    if request.logprobs:
        body["logprobs"] = True
        body["top_logprobs"] = request.top_logprobs or 0
    stream = request.stream is not False
    body["stream"] = stream
    if stream:
        body["stream_options"] = {"include_usage": True}
    return body


def _response_format(wanted: str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(wanted, dict):
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": wanted, "strict": True}}
    if wanted == "json":
        return {"type": "json_object"}
    raise InvalidRequest(f"format: {wanted!r} is neither 'json' nor a JSON schema", param="format")


def _messages(messages: list[OllamaMessage]) -> list[dict[str, Any]]:
    """Translate messages; OpenAI's tool messages name the call that they answer, Ollama's only the tool."""
    out: list[dict[str, Any]] = []
    open_calls: list[tuple[str, str]] = []
    for turn, message in enumerate(messages):
        document: dict[str, Any] = {"role": message.role, "content": _content(message)}
        if message.tool_calls:
            calls = [_call(call, f"call_{turn}_{number}") for number, call in enumerate(message.tool_calls)]
            open_calls = [(call["function"]["name"], call["id"]) for call in calls]
            document["tool_calls"] = calls
        if message.thinking:
            document["reasoning_content"] = message.thinking
        if message.role == "tool":
            document["tool_call_id"] = message.tool_call_id or _answered(message.tool_name, open_calls)
        out.append(document)
    return out


def _content(message: OllamaMessage) -> str | list[dict[str, Any]]:
    text = message.content or ""
    if not message.images:
        return text
    images = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in message.images]
    return [{"type": "text", "text": text}, *images]


def _data_url(image: str) -> str:
    if image.startswith("data:"):
        return image
    kind = "jpeg" if image.startswith("/9j/") else "webp" if image.startswith("UklGR") else "png"
    return f"data:image/{kind};base64,{image}"


def _call(call: OllamaToolCall, call_id: str) -> dict[str, Any]:
    arguments = msgspec.json.encode(call.function.arguments).decode()
    return {
        "id": call.id or call_id,
        "type": "function",
        "function": {"name": call.function.name, "arguments": arguments},
    }


def _answered(tool: str | None, open_calls: list[tuple[str, str]]) -> str:
    """Take the call that a tool's message answers: the first open one of its name, else the first."""
    for number, (name, _) in enumerate(open_calls):
        if tool is None or name == tool:
            return open_calls.pop(number)[1]
    return open_calls.pop(0)[1] if open_calls else "call_unknown"
