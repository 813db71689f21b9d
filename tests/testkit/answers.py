"""What the fake model says: deterministic by seed and prompt, or what the prompt asks for.

In this order: a forced tool call; a tool that the last user message asks for; the rest of a message that begins
with `echo:`; an instance of the response format; a sentence with a tool's result; words.
"""

import hashlib
import json
import random
import re
from dataclasses import dataclass, field
from typing import Any

from tests.testkit.schema import InstanceMaker
from tests.testkit.tokens import apply_template, split_tokens, text_of
from tests.testkit.words import UNICODE_WORDS, WORDS

_REASONING_TOKENS = 8


class BadRequest(ValueError):
    """The request's body is not what the API takes; the message says what."""


@dataclass(slots=True)
class ToolCall:
    """One call, its arguments as JSON."""

    id: str
    name: str
    arguments: str


@dataclass(slots=True)
class Choice:
    """One answer of the model as tokens."""

    tokens: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    tool_calls: list[ToolCall] = field(default_factory=list)
    finish_reason: str = "stop"

    @property
    def text(self) -> str:
        """Return the content."""
        return "".join(self.tokens)

    def count_tokens(self) -> int:
        """Return what usage counts: content, reasoning, and the names and arguments of tool calls."""
        calls = sum(len(split_tokens(call.name)) + len(split_tokens(call.arguments)) for call in self.tool_calls)
        return len(self.tokens) + len(self.reasoning) + calls


@dataclass(frozen=True, slots=True)
class Limits:
    """How long an answer may be and where it stops."""

    max_tokens: int | None
    answer_tokens: int
    stop: tuple[str, ...]

    @classmethod
    def of(cls, body: dict[str, Any], answer_tokens: int) -> "Limits":
        """Read the limits of a request. `ignore_eos` makes an answer of words exactly `max_tokens` long."""
        given = (body.get(name) for name in ("max_completion_tokens", "max_tokens", "n_predict"))
        limit = next((number for number in given if number is not None), None)
        if limit is not None and (not isinstance(limit, int) or limit < -1):
            raise BadRequest(f"max_tokens must be a whole number, not {limit!r}")
        if limit == -1:
            limit = None
        stop = body.get("stop") or ()
        if body.get("ignore_eos") and limit is not None:
            answer_tokens = limit + 1  # so that it is cut, as real engines' answers are
        return cls(limit, answer_tokens, (stop,) if isinstance(stop, str) else tuple(stop))


def answer_chat(body: dict[str, Any], *, seed: int, answer_tokens: int) -> tuple[str, list[Choice]]:
    """Return the prompt and the choices of a chat request.

    Raises:
        BadRequest, TypeError, UnsupportedSchema: each a 400 with its message.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
        raise BadRequest("'messages' is required and must be a list of objects with at least one")
    prompt = apply_template(messages)
    limits = Limits.of(body, answer_tokens)
    choices = [_chat_choice(body, messages, _dice(seed, body, index, prompt), limits) for index in _choices(body)]
    return prompt, choices


def answer_completion(body: dict[str, Any], *, seed: int, answer_tokens: int) -> tuple[str, list[Choice]]:
    """Return the prompts, joined, and the choices of a completion request: n for each prompt.

    Raises:
        BadRequest: a 400 with its message.
    """
    prompts = body.get("prompt")
    prompts = [prompts] if isinstance(prompts, str) or _is_token_ids(prompts) else prompts
    if not isinstance(prompts, list) or not prompts:
        raise BadRequest("'prompt' is required: a string, a list of strings, or token numbers")
    texts = [prompt if isinstance(prompt, str) else f"tokens {prompt}" for prompt in prompts]
    limits = Limits.of(body, answer_tokens)
    choices = []
    for text in texts:
        for index in _choices(body):
            dice = _dice(seed, body, index, text)
            tokens = _echo(text) or _words(text, dice, limits.answer_tokens)
            choices.append(_cut(Choice(tokens), limits))
    return "\n".join(texts), choices


def _is_token_ids(prompt: Any) -> bool:
    return isinstance(prompt, list) and bool(prompt) and all(isinstance(each, int) for each in prompt)


def _choices(body: dict[str, Any]) -> range:
    count = body.get("n") or 1
    if not isinstance(count, int) or not 1 <= count <= 128:
        raise BadRequest(f"n must be a whole number from 1 to 128, not {count!r}")
    return range(count)


def _dice(seed: int, body: dict[str, Any], index: int, prompt: str) -> random.Random:
    key = f"{seed}|{body.get('seed')}|{index}|{prompt}".encode()
    return random.Random(hashlib.blake2b(key, digest_size=8).digest())


def _chat_choice(body: dict[str, Any], messages: list[dict[str, Any]], dice: random.Random, limits: Limits) -> Choice:
    asked = next((text_of(each.get("content")) for each in reversed(messages) if each.get("role") == "user"), "")
    after_tool = messages[-1].get("role") == "tool"
    tools = _tools_to_call(body, "" if after_tool else asked)
    if tools:
        maker = InstanceMaker(asked, dice)
        calls = [_tool_call(tool, maker, dice) for tool in tools]
        return Choice(tool_calls=calls, finish_reason="tool_calls", reasoning=_reasoning(body, dice))
    choice = Choice(reasoning=_reasoning(body, dice))
    structured = _structured(body, asked, dice)
    if not after_tool and (echo := _echo(asked)):
        choice.tokens = echo
    elif structured is not None:
        choice.tokens = split_tokens(structured)
    elif after_tool:
        choice.tokens = split_tokens(f"The tool answered: {text_of(messages[-1].get('content'))}")
    else:
        choice.tokens = _words(asked, dice, limits.answer_tokens)
    return _cut(choice, limits)


def _reasoning(body: dict[str, Any], dice: random.Random) -> list[str]:
    wanted = body.get("reasoning_effort") not in (None, "none")
    return _words("", dice, _REASONING_TOKENS) if wanted else []


def _echo(asked: str) -> list[str]:
    return split_tokens(asked.removeprefix("echo:").lstrip(" ")) if asked.startswith("echo:") else []


def _words(asked: str, dice: random.Random, count: int) -> list[str]:
    vocabulary = UNICODE_WORDS if "unicode" in asked.lower() else WORDS
    words = dice.choices(vocabulary, k=count)
    return words[:1] + [f" {word}" for word in words[1:]]


def _cut(choice: Choice, limits: Limits) -> Choice:
    """Apply `max_tokens`, reasoning included, then the stop texts."""
    if limits.max_tokens is not None:
        room = limits.max_tokens - len(choice.reasoning)
        if len(choice.tokens) > max(0, room):
            choice.tokens = choice.tokens[: max(0, room)]
            choice.reasoning = choice.reasoning[: limits.max_tokens]
            choice.finish_reason = "length"
    found = [position for stop in limits.stop if (position := choice.text.find(stop)) >= 0]
    if found:
        choice.tokens = split_tokens(choice.text[: min(found)])
        choice.finish_reason = "stop"
    return choice


def _structured(body: dict[str, Any], asked: str, dice: random.Random) -> str | None:
    wanted = body.get("response_format")
    if not wanted:
        return None
    maker = InstanceMaker(asked, dice)
    match wanted.get("type"):
        case "json_schema":
            schema = wanted.get("json_schema", {}).get("schema")
        case "json_object":
            schema = wanted.get("schema") or _object_of_words(maker.quoted_texts)
        case None | "text":
            return None
        case other:
            raise BadRequest(f"response_format.type must be text, json_object or json_schema, not {other!r}")
    if schema is None:
        raise BadRequest("response_format.json_schema.schema is required")
    return json.dumps(maker.make(schema), ensure_ascii=False)


def _object_of_words(quoted: list[str]) -> dict[str, Any]:
    """Return a schema with a string for each text in quotes: how people ask for keys in JSON mode."""
    names = list(dict.fromkeys(quoted)) or ["answer"]
    quoted.clear()
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}}


# --- tools ------------------------------------------------------------------------------------------------------


def _tools_to_call(body: dict[str, Any], asked: str) -> list[dict[str, Any]]:
    try:
        tools = {tool["function"]["name"]: tool["function"] for tool in body.get("tools") or ()}
    except (TypeError, KeyError):
        raise BadRequest("each of 'tools' must be {type: function, function: {name, parameters}}") from None
    wanted = body.get("tool_choice", "auto")
    if not tools or wanted == "none":
        return []
    if isinstance(wanted, dict):
        name = wanted.get("function", {}).get("name")
        if name not in tools:
            raise BadRequest(f"tool_choice names {name!r}, but tools has {', '.join(tools)}")
        return [tools[name]]
    called = [] if asked.startswith("echo:") else _mentioned(tools, asked)
    if wanted == "required" and not called:
        called = list(tools)[:1]
    if body.get("parallel_tool_calls") is False:
        called = called[:1]
    return [tools[name] for name in called]


def _mentioned(tools: dict[str, Any], asked: str) -> list[str]:
    """Return the tools that the message names, in its order; else the first by a word of its name or by "tool"."""
    lower = asked.lower()
    places = {name: re.search(rf"(?<!\w){re.escape(name.lower())}(?!\w)", lower) for name in tools}
    named = sorted((place.start(), name) for name, place in places.items() if place)
    if named:
        return [name for _, name in named]
    for name in tools:
        words = [word for word in re.split(r"[\W_]+", name.lower()) if len(word) >= 4]
        if any(re.search(rf"\b{re.escape(word)}\b", lower) for word in words):
            return [name]
    return list(tools)[:1] if re.search(r"\btools?\b", lower) else []


def _tool_call(tool: dict[str, Any], maker: InstanceMaker, dice: random.Random) -> ToolCall:
    schema = tool.get("parameters") or {"type": "object", "properties": {}}
    arguments = json.dumps(maker.make(schema), ensure_ascii=False)
    return ToolCall(f"call_{dice.getrandbits(64):016x}", tool["name"], arguments)
