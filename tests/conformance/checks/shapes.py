"""Answers of a given shape: JSON schemas."""

import json

import pydantic

from tests.conformance.checks.registry import check
from tests.conformance.subject import Subject


class _Person(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    name: str = pydantic.Field(max_length=20)
    age: int = pydantic.Field(ge=0, le=200)
    is_student: bool


_PROMPT = "Ada Lovelace is 36 years old and no student. Answer in JSON."


@check
async def json_schema(subject: Subject) -> None:
    """`response_format` with a JSON schema: the answer keeps to it, as openai's `parse` checks"""
    fields = subject.ask(_PROMPT, max_tokens=120)
    answer = await subject.client.chat.completions.parse(**fields, response_format=_Person)
    assert isinstance(answer.choices[0].message.parsed, _Person)


@check
async def json_schema_stream(subject: Subject) -> None:
    """the same, streamed"""
    fields = subject.ask(_PROMPT, max_tokens=120)
    async with subject.client.chat.completions.stream(**fields, response_format=_Person) as stream:
        answer = await stream.get_final_completion()
    assert isinstance(answer.choices[0].message.parsed, _Person)


@check
async def json_object(subject: Subject) -> None:
    """`{"type": "json_object"}`: the answer is an object of JSON, as far as it goes"""
    answer = await subject.client.chat.completions.create(
        **subject.ask('Answer with {"ok": true}.', max_tokens=60, response_format={"type": "json_object"})
    )
    text = (answer.choices[0].message.content or "").strip()
    assert text.startswith("{")
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(text), dict)
