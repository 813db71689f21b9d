"""GenAI's attributes of spans, by the semantic conventions that docs/decisions/0010-genai-conventions.md pins.

They stand on the client span of whoever asks a model. Token counts are set once for each answer: where it is billed.
Prompts and answers are set only where `span.captures_content` says so, and cut. What carries an exchange to a model and
lives longer than a block (a relay) does it so:

    span = tracing.client_span(genai.name_of("chat", model), genai.request("chat", model, fields, provider=engine))
    headers.update(span.headers())        # the engine's or the service's own spans hang below this one
    try:
        ...
    finally:                              # also when the client has left
        if span.recording:
            span.set(genai.response(model_there, finish_reasons=["stop"], first_chunk_s=0.2))
            if billed: span.set(genai.usage(prompt_tokens, completion_tokens))
            if span.captures_content: span.set(genai.messages(asked, answer, "stop"))
            if failed: span.record_error(code)
        span.end()

and, for what lists of traces show of a whole trace, on the server span (`tracing.current()` at the door):
`if span.is_root and span.captures_content: span.set(genai.preview(question, answer))`.
Source: https://github.com/open-telemetry/semantic-conventions-genai
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from services.kit.tracing import Value

Operation = Literal["chat", "text_completion", "embeddings", "retrieval", "invoke_agent", "execute_tool"]
Role = Literal["RETRIEVER", "RERANKER", "EMBEDDING", "CHAIN", "AGENT", "TOOL", "GUARDRAIL"]

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_ID = "gen_ai.response.id"
FINISH_REASONS = "gen_ai.response.finish_reasons"
FIRST_CHUNK_S = "gen_ai.response.time_to_first_chunk"
STREAM = "gen_ai.request.stream"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
DATA_SOURCE = "gen_ai.data_source.id"
DIMENSIONS = "gen_ai.embeddings.dimension.count"
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
QUERY_TEXT = "gen_ai.retrieval.query.text"
ROLE = "openinference.span.kind"
"""What retrieval and reranking are called by those who show traces: GenAI's conventions have no word that they read."""

_REQUEST_FIELDS = {
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
    "n": "gen_ai.request.choice.count",
}
_MOST_CHARACTERS = 16_000


def name_of(operation: Operation, model: str) -> str:
    """Return the name of the span: `chat smollm2-135m`."""
    return f"{operation} {model}"


def request(
    operation: Operation, model: str, fields: Mapping[str, Any] | None = None, *, provider: str = "sparkstack"
) -> dict[str, Value]:
    """Return what is known when a model is asked.

    Args:
        fields: of the request's body; numbers among those that have a name in the conventions are taken.
        provider: who serves it: `sparkstack` for the stack's own services, an engine's name for an engine.
    """
    found: dict[str, Value] = {OPERATION: operation, PROVIDER: provider, REQUEST_MODEL: model}
    for name, attribute in _REQUEST_FIELDS.items():
        value = (fields or {}).get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[attribute] = value
    if (fields or {}).get("stream") is True:
        found[STREAM] = True
    return found


def response(
    model: str = "", *, finish_reasons: Iterable[str] = (), response_id: str = "", first_chunk_s: float | None = None
) -> dict[str, Value]:
    """Return what the answer says of itself; nothing of what is empty."""
    found: dict[str, Value] = {}
    if model:
        found[RESPONSE_MODEL] = model
    if reasons := list(finish_reasons):
        found[FINISH_REASONS] = reasons
    if response_id:
        found[RESPONSE_ID] = response_id
    if first_chunk_s is not None:
        found[FIRST_CHUNK_S] = first_chunk_s
    return found


def usage(prompt_tokens: int, completion_tokens: int = 0) -> dict[str, Value]:
    """Return the token counts. An embedding has no completion, and says so: sums are wrong where one is missing."""
    return {INPUT_TOKENS: prompt_tokens, OUTPUT_TOKENS: completion_tokens}


def messages(asked: Sequence[Mapping[str, Any]], answer: str, finish_reason: str = "stop") -> dict[str, Value]:
    """Return a chat's messages and its answer in the conventions' form, cut. Content: ask `span.captures_content`."""
    given = [{"role": str(each.get("role", "user")), "parts": _parts(each.get("content"))} for each in asked]
    said = [{"role": "assistant", "parts": _parts(answer), "finish_reason": finish_reason}]
    return {INPUT_MESSAGES: _json(given), OUTPUT_MESSAGES: _json(said)}


def preview(question: str, answer: str) -> dict[str, Value]:
    """Return what lists of traces show of a trace. For `span.is_root` alone; content: ask `span.captures_content`."""
    asked = {"messages": [{"role": "user", "content": question[:_MOST_CHARACTERS]}]}
    said = {"choices": [{"message": {"role": "assistant", "content": answer[:_MOST_CHARACTERS]}}]}
    return {
        "input.value": _json(asked),
        "input.mime_type": "application/json",
        "output.value": _json(said),
        "output.mime_type": "application/json",
    }


def _parts(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "content": content[:_MOST_CHARACTERS]}]
    if isinstance(content, Sequence):
        return [_part(each) for each in content if isinstance(each, Mapping)]
    return []


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    if part.get("type") == "text":
        return {"type": "text", "content": str(part.get("text", ""))[:_MOST_CHARACTERS]}
    return {"type": str(part.get("type", "unknown"))}  # an image's bytes are no use in a trace


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
