"""Whole answers: what they carry, and the fields of a request that shape them."""

import json

from tests.conformance.checks.registry import check
from tests.conformance.subject import Subject


@check
async def listed(subject: Subject) -> None:
    """`GET /v1/models` lists the model under its id"""
    assert subject.place.model in [model.id async for model in await subject.client.models.list()]


@check
async def chat(subject: Subject) -> None:
    """a conversation is answered: role, content, finish reason, id, usage that adds up"""
    answer = await subject.client.chat.completions.create(**subject.ask(max_tokens=8))
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert answer.id
    assert answer.object == "chat.completion"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 0
    assert 0 < answer.usage.completion_tokens <= 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@check
async def completion(subject: Subject) -> None:
    """a text is continued (`/v1/completions`)"""
    answer = await subject.client.completions.create(
        model=subject.place.model, prompt="one, two, three,", max_tokens=6, temperature=0
    )
    assert answer.choices[0].text
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 6


@check
async def max_tokens(subject: Subject) -> None:
    """`max_tokens` and `max_completion_tokens` cut an answer, which says `length`"""
    for name in ("max_tokens", "max_completion_tokens"):
        fields = subject.ask("Tell a long story.", extra_body={"ignore_eos": True}, **{name: 5})
        answer = await subject.client.chat.completions.create(**fields)
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 5


@check
async def stop(subject: Subject) -> None:
    """`stop` ends an answer before the text that it names"""
    fields = subject.ask("Tell a long story.", max_tokens=24, extra_body={"ignore_eos": True})
    whole = (await subject.client.chat.completions.create(**fields)).choices[0].message.content
    assert whole
    word = whole.split()[4]
    answer = await subject.client.chat.completions.create(**fields, stop=[word, "nothing like it"])
    assert answer.choices[0].message.content == whole[: whole.index(word)]
    assert answer.choices[0].finish_reason == "stop"


@check
async def several(subject: Subject) -> None:
    """`n` gives so many answers, each with its index, whole and streamed"""
    fields = {**subject.ask(n=2, max_tokens=6, seed=1), "temperature": 0.9}
    answer = await subject.client.chat.completions.create(**fields)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert all(choice.message.content for choice in answer.choices)
    texts = {0: "", 1: ""}
    async for chunk in await subject.client.chat.completions.create(**fields, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert all(texts.values())


@check
async def seed(subject: Subject) -> None:
    """the same `seed` gives the same answer while nothing else runs"""
    fields = {**subject.ask("Invent a name.", max_tokens=12, seed=7), "temperature": 1}
    said = {(await subject.client.chat.completions.create(**fields)).choices[0].message.content for _ in range(3)}
    assert len(said) == 1


@check
async def temperature_0(subject: Subject) -> None:
    """at temperature 0 the same question gets the same answer"""
    said = {
        (await subject.client.chat.completions.create(**subject.ask(max_tokens=12))).choices[0].message.content
        for _ in range(3)
    }
    assert len(said) == 1


@check
async def logprobs(subject: Subject) -> None:
    """`logprobs` and `top_logprobs`: one entry a token, so many alternatives, whole and streamed"""
    fields = subject.ask(max_tokens=5, logprobs=True, top_logprobs=2, extra_body={"ignore_eos": True})
    answer = await subject.client.chat.completions.create(**fields)
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.content
    assert len(found.content) == 5
    streamed = []
    async for chunk in await subject.client.chat.completions.create(**fields, stream=True):
        for choice in chunk.choices:
            streamed += (choice.logprobs.content or []) if choice.logprobs else []
    assert [each.token for each in streamed] == [each.token for each in found.content]
    for token in (*found.content, *streamed):
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 2


@check
async def usage_of_ollama(subject: Subject) -> None:
    """Ollama's `/api/chat` streams the same answer, with its counts in the last line"""
    asked = subject.ask(max_tokens=8)
    whole = await subject.client.chat.completions.create(**asked)
    body = {
        "model": subject.place.model,
        "messages": asked["messages"],
        "options": {"temperature": 0, "num_predict": 8},
    }
    lines = [json.loads(line) for line in (await subject.http.post("/api/chat", json=body)).text.splitlines()]
    assert "".join(line["message"]["content"] for line in lines) == whole.choices[0].message.content
    assert whole.usage is not None
    assert lines[-1]["done"] is True
    assert lines[-1]["eval_count"] == whole.usage.completion_tokens
    assert lines[-1]["prompt_eval_count"] == whole.usage.prompt_tokens
