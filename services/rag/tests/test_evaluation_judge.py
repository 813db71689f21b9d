"""The judge: what it asks for, and replies of models that do not keep to it."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from services.rag.evaluating.judge import VerdictError, judge, read_json

PASSAGES = ["VACUUM reclaims storage.", "ANALYZE collects statistics."]


class Judge:
    """Replies in turn; keeps prompts and schemas."""

    def __init__(self, *replies: str) -> None:
        self.replies = list(replies)
        self.asked: list[tuple[str, Mapping[str, Any]]] = []

    async def __call__(self, prompt: str, schema: Mapping[str, Any], max_tokens: int) -> str:
        self.asked.append((prompt, schema))
        return self.replies.pop(0)


async def test_faithfulness_is_the_share_of_statements_that_the_passages_bear_out() -> None:
    model = Judge(
        '{"statements": ["VACUUM frees room.", "It is free of charge."]}', '{"verdicts": [true, false]}', '{"grade": 1}'
    )
    verdict = await judge(model, "What does VACUUM do?", "It frees room, free of charge.", PASSAGES)
    assert (verdict.faithfulness, verdict.relevance, verdict.statements) == (0.5, 0.5, 2)
    assert verdict.unsupported == ("It is free of charge.",)
    assert not verdict.trouble


async def test_the_verdicts_are_asked_of_the_passages_with_one_place_for_each_statement() -> None:
    model = Judge('{"statements": ["a", "b", "c"]}', '{"verdicts": [true, true, true]}', '{"grade": 2}')
    await judge(model, "?", "a b c", PASSAGES)
    prompt, schema = model.asked[1]
    assert "[2] ANALYZE collects statistics." in prompt
    assert "3. c" in prompt
    assert schema["properties"]["verdicts"]["minItems"] == schema["properties"]["verdicts"]["maxItems"] == 3


async def test_verdicts_that_are_too_few_make_the_answer_not_judged() -> None:
    verdict = await judge(Judge('{"statements": ["a", "b"]}', '{"verdicts": [true]}', '{"grade": 2}'), "?", "a", [])
    assert (verdict.faithfulness, verdict.relevance) == (None, 1.0)
    assert "2 verdicts wanted" in verdict.trouble


async def test_an_answer_that_states_nothing_has_no_faithfulness() -> None:
    verdict = await judge(Judge('{"statements": []}', '{"grade": 0}'), "?", "Hello!", PASSAGES)
    assert (verdict.faithfulness, verdict.relevance) == (None, 0.0)
    assert "states nothing" in verdict.trouble


async def test_a_grade_outside_the_scale_is_no_grade() -> None:
    verdict = await judge(Judge('{"statements": ["a"]}', '{"verdicts": [true]}', '{"grade": 7}'), "?", "a", PASSAGES)
    assert (verdict.faithfulness, verdict.relevance) == (1.0, None)


async def test_verdicts_in_words_and_in_objects_are_read() -> None:
    words = json.dumps({"verdicts": ["yes", {"supported": True}, "no", "unsupported"]})
    verdict = await judge(Judge('{"statements": ["a", "b", "c", "d"]}', words, '{"grade": "2"}'), "?", "a", PASSAGES)
    assert verdict.faithfulness == 0.5
    assert verdict.relevance == 1.0


@pytest.mark.parametrize(
    "reply",
    [
        '```json\n{"grade": 2}\n```',
        '<think>{"grade": 0} or so</think>{"grade": 2}',
        'Sure! Here it is: {"grade": 2}. Anything else?',
        '{broken {"grade": 2}',
    ],
)
def test_json_is_found_wherever_a_model_puts_it(reply: str) -> None:
    assert read_json(reply) == {"grade": 2}


@pytest.mark.parametrize("reply", ["", "I can't say.", "[1, 2]", '{"grade": '])
def test_a_reply_without_json_is_said_to_be_one(reply: str) -> None:
    with pytest.raises(VerdictError, match="no JSON"):
        read_json(reply)
