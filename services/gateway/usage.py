"""Count the tokens of an exchange where the engine did not: streams that were left, engines without usage."""

from typing import Any

import msgspec

from services.gateway.adapters.openai_compatible import OpenAICompatible
from services.gateway.exchange import Exchange
from services.kit.openai import Usage

_BYTES_A_TOKEN = 4
"""A common rule of thumb for English text; used only where no tokenizer answers, and marked as an estimate."""

_PROMPTS = ("messages", "prompt", "input", "documents")
"""Where a request has its text; a query beside documents is short."""


async def count_usage(exchange: Exchange, api: OpenAICompatible) -> None:
    """Set the exchange's usage by the engine's tokenizer, or by an estimate where it has none."""
    generated = "".join(exchange.text)
    prompt = await _prompt_text(exchange, api)
    prompt_tokens = await api.count_tokens(exchange.upstream_id, prompt) if prompt else 0
    if prompt_tokens is None:
        estimate_usage(exchange)
        return
    completion_tokens = await api.count_tokens(exchange.upstream_id, generated) if generated else 0
    if completion_tokens is None:
        completion_tokens = exchange.deltas
        exchange.usage_source = "estimate"
    else:
        exchange.usage_source = "tokenizer"
    exchange.usage = Usage(prompt_tokens, completion_tokens, prompt_tokens + completion_tokens)


def estimate_usage(exchange: Exchange) -> None:
    """Set the usage to a byte-based guess of the prompt and the number of deltas, marked as an estimate."""
    prompt_tokens = max(1, len(_plain_prompt(exchange).encode()) // _BYTES_A_TOKEN)
    exchange.usage = Usage(prompt_tokens, exchange.deltas, prompt_tokens + exchange.deltas)
    exchange.usage_source = "estimate"


def usage_document(exchange: Exchange) -> dict[str, Any]:
    """Return the usage as OpenAI's clients read it; an estimate says so."""
    usage = exchange.usage or Usage()
    document: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
    if exchange.usage_source == "estimate":
        document["estimated"] = True
    return document


async def _prompt_text(exchange: Exchange, api: OpenAICompatible) -> str:
    messages = exchange.fields.get("messages")
    if messages is not None:
        templated = await api.apply_template(exchange.upstream_id, msgspec.Raw(messages))
        if templated is not None:
            return templated
    return _plain_prompt(exchange)


def _plain_prompt(exchange: Exchange) -> str:
    fields = exchange.fields
    raw = next((fields[name] for name in _PROMPTS if name in fields), b'""')
    try:
        return "\n".join(_texts(msgspec.json.decode(raw)))
    except (msgspec.DecodeError, RecursionError):
        # The request was only passed on; read whole, it may be nested too deeply or have a number out of range.
        return bytes(raw).decode()


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    if isinstance(value, dict):
        return [text for key in ("content", "text") for text in _texts(value.get(key))]
    return []
