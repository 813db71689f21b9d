import json
from typing import Any

import msgspec
import pytest

from services.gateway import asked

_raw = msgspec.json.Decoder(dict[str, msgspec.Raw])


def fields(**values: Any) -> dict[str, Any]:
    return _raw.decode(json.dumps(values))


@pytest.mark.parametrize(
    ("values", "prompt"),
    [
        ({"messages": [{"role": "user", "content": "one"}]}, "one"),
        ({"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]}, "one"),
        ({"messages": [{"role": "user", "content": "one"}, {"role": "user", "content": "three"}]}, "three"),
        ({"messages": [{"role": "system", "content": "s"}]}, ""),
        ({"messages": [{"role": "user"}]}, ""),
        ({"messages": [{"role": "user", "content": None}]}, ""),
        ({"messages": [{"role": "user", "content": 7}]}, ""),
        ({"messages": []}, ""),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "look"},
                            {"type": "image_url", "image_url": {"url": "data:…"}},
                            {"type": "text", "text": "here"},
                        ],
                    }
                ]
            },
            "look\nhere",
        ),
        ({"prompt": "go on"}, "go on"),
        ({"prompt": ["one", "two"]}, "one\ntwo"),
        ({"prompt": [1, 2, 3]}, ""),
        ({"input": ["one", "two"]}, "one\ntwo"),
        ({"query": "which", "documents": ["a"]}, "which"),
        ({}, ""),
    ],
)
def test_the_prompt_is_what_the_user_said_last(values: dict[str, Any], prompt: str) -> None:
    assert asked.prompt_of(fields(**values)) == prompt


@pytest.mark.parametrize("letter", ["a", "ü", "語", "🙂"])
def test_texts_are_cut_in_bytes_between_characters(letter: str) -> None:
    found = asked.cut(letter * 50_000)
    assert asked.MOST_TEXT_BYTES - 4 < len(found.encode()) <= asked.MOST_TEXT_BYTES
    assert set(found) == {letter}
    assert asked.cut(letter * 9) == letter * 9


def test_what_is_nested_too_deeply_or_no_json_is_left_out() -> None:
    deep = b'[{"role":"user","content":' + b"[" * 5000 + b"]" * 5000 + b"}]"
    assert asked.prompt_of({"messages": deep}) == ""
    assert asked.prompt_of({"messages": b'[{"role"'}) == ""
    assert asked.user_of({"user": b"7"}) == ""
    assert asked.tools_offered({"tools": b"null"}) == 0


@pytest.mark.parametrize(
    ("values", "asks"),
    [
        ({}, False),
        ({"response_format": None}, False),
        ({"response_format": {"type": "text"}}, False),
        ({"response_format": {"type": "json_object"}}, True),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, True),
        ({"tool_choice": "auto"}, False),
        ({"tool_choice": "required"}, True),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, True),
    ],
)
def test_json_is_asked_for_by_a_format_or_a_forced_tool(values: dict[str, Any], asks: bool) -> None:
    assert asked.format_asked(fields(**values)) is asks


def test_users_tools_and_numbers_are_read() -> None:
    given = fields(user="ada", tools=[{}, {}], temperature=0.5, seed=-3, max_tokens=9, stop="7", stream=True, n=None)
    assert asked.user_of(given) == "ada"
    assert asked.tools_offered(given) == 2
    assert asked.numbers_of(given) == {"temperature": 0.5, "seed": -3, "max_tokens": 9}
    assert asked.numbers_of({"seed": b"1e999"}) == {}
    assert asked.user_of(fields(user="x" * 5000)) == "x" * 1024
