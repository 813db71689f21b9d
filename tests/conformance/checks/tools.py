"""Tool calls, by the wire: what a model makes of them is its own affair."""

import json
from typing import Any

import openai
import pytest

from tests.conformance.checks.registry import check
from tests.conformance.subject import Subject

_TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of today.",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["C", "F"]}},
                "required": ["city", "unit"],
                "additionalProperties": False,
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "time_in",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 12}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    },
]
_NAMED: Any = {"type": "function", "function": {"name": "weather"}}
_PROMPT = 'What is the weather in "Paris", in "C"?'


def _check_call(name: str, arguments: str) -> None:
    found = json.loads(arguments)
    if name == "weather":
        assert found.keys() == {"city", "unit"}
        assert found["unit"] in ("C", "F")
    else:
        assert name == "time_in"
        assert found.keys() == {"city"}
    assert isinstance(found["city"], str)


@check
async def named_tool(subject: Subject) -> None:
    """a function named by `tool_choice` is called, with arguments that fit its schema"""
    answer = await subject.client.chat.completions.create(
        **subject.ask(_PROMPT, tools=_TOOLS, tool_choice=_NAMED, max_tokens=120)
    )
    (call,) = answer.choices[0].message.tool_calls or ()
    assert call.type == "function"
    assert call.id
    assert call.function.name == "weather"
    _check_call(call.function.name, call.function.arguments)
    assert not answer.choices[0].message.content


@check
async def required_tool(subject: Subject) -> None:
    """with `tool_choice: "required"` one of the tools is called, and the finish reason says so"""
    answer = await subject.client.chat.completions.create(
        **subject.ask(_PROMPT, tools=_TOOLS, tool_choice="required", max_tokens=120)
    )
    calls = answer.choices[0].message.tool_calls or []
    assert calls
    for call in calls:
        assert call.type == "function"
        _check_call(call.function.name, call.function.arguments)
    assert answer.choices[0].finish_reason == "tool_calls"


@check
async def tool_deltas(subject: Subject) -> None:
    """a call is streamed in pieces with an `index`, which openai's client puts together"""
    fields = subject.ask(_PROMPT, tools=_TOOLS, tool_choice=_NAMED, max_tokens=120)
    pieces = []
    async for chunk in await subject.client.chat.completions.create(**fields, stream=True):
        for choice in chunk.choices:
            pieces += choice.delta.tool_calls or []
    assert {piece.index for piece in pieces} == {0}
    assert pieces[0].id
    assert [piece.function.name for piece in pieces if piece.function and piece.function.name] == ["weather"]
    _check_call("weather", "".join(piece.function.arguments or "" for piece in pieces if piece.function))
    async with subject.client.chat.completions.stream(**fields) as stream:
        final = (await stream.get_final_completion()).choices[0].message
    (call,) = final.tool_calls or ()
    _check_call(call.function.name, call.function.arguments)


@check
async def free_tools(subject: Subject) -> None:
    """tools that the model may call or not: it sees them, and an answer or a call comes back"""
    answer = await subject.client.chat.completions.create(**subject.ask(_PROMPT, tools=_TOOLS, max_tokens=120))
    message = answer.choices[0].message
    assert message.tool_calls or message.content
    for call in message.tool_calls or ():
        assert call.type == "function"
        json.loads(call.function.arguments)


@check
async def no_silent_tools(subject: Subject) -> None:
    """tools that a model can't see are refused with 400 `unsupported_parameter`, never ignored"""
    if "free_tools" not in subject.place.lacks:
        await free_tools(subject)
        return
    with pytest.raises(openai.BadRequestError) as raised:
        await free_tools(subject)
    assert raised.value.code == "unsupported_parameter"
    assert raised.value.param == "tools"
