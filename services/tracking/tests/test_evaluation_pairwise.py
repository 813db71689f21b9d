"""Pairs are judged in both orders, and what the judge gets wrong is counted."""

import json

import pytest

from services.tracking.evaluation.asking import Reply, UnreadableReply, first_object, shortened
from services.tracking.evaluation.judgements import pairwise_counts, pairwise_figures, win_rate_range
from services.tracking.evaluation.pairwise import Judged, Pairing, Verdict, combine, judge_pair, prompt_for, schema

PAIR = Pairing("q1", "Name a colour.", "red, as it is asked for", "I would rather not")


def judge_who(says):
    """Return a judge that is shown the two answers in their order, and says `says(first, second)`."""
    asked = []

    async def ask(prompt, schema, max_tokens):
        asked.append((prompt, schema, max_tokens))
        first = prompt.split("<answer_1>\n")[1].split("\n</answer_1>")[0]
        second = prompt.split("<answer_2>\n")[1].split("\n</answer_2>")[0]
        said = says(first, second)
        return said if isinstance(said, Reply) else Reply(json.dumps({"reason": "so", "better": said}))

    ask.asked = asked
    return ask


@pytest.mark.parametrize(
    ("says", "outcome", "bias"),
    [
        (lambda first, second: "1" if "red" in first else "2", "a", ""),
        (lambda first, second: "2" if "red" in first else "1", "b", ""),
        (lambda first, second: "tie", "tie", ""),
        (lambda first, second: "1", "tie", "first"),
        (lambda first, second: "2", "tie", "second"),
        (lambda first, second: "1" if "red" in first else "tie", "tie", "wavered"),
        (lambda first, second: "tie" if "red" in first else "2", "tie", "wavered"),
    ],
)
async def test_a_verdict_counts_that_stays_when_the_places_change(says, outcome, bias):
    judged = await judge_pair(judge_who(says), PAIR, reasons=True)
    assert (judged.outcome, judged.basis, judged.bias) == (outcome, "judged", bias)
    assert [verdict.reason for verdict in judged.verdicts] == ["so", "so"]
    assert (judged.length_a, judged.length_b) == (23, 18)


async def test_both_orders_are_asked_and_each_is_held_to_the_schema():
    ask = judge_who(lambda first, second: "1")
    await judge_pair(ask, PAIR, reasons=False)
    (one, form, most), (other, _, _) = ask.asked
    assert one.index("red,") < one.index("rather not")
    assert other.index("rather not") < other.index("red,")
    assert form["properties"] == {"better": {"type": "string", "enum": ["1", "2", "tie"]}}
    assert form["required"] == ["better"]
    assert form["additionalProperties"] is False
    assert most == 40
    assert list(schema(reasons=True)["properties"]) == ["reason", "better"]


@pytest.mark.parametrize(
    ("reply", "trouble"),
    [
        (Reply("I like the first one."), "no JSON object in 'I like the first one.'"),
        (Reply('{"reason": "it is', cut=True), "(cut off at its most tokens)"),
        (Reply('{"better": "both"}'), "\"better\" is 'both', not one of 1, 2, tie"),
        (Reply("{}"), '"better" is None'),
        (Reply("", trouble="the request failed: 400: too long"), "the request failed: 400: too long"),
    ],
)
async def test_a_verdict_that_cannot_be_read_makes_the_pair_invalid_and_says_why(reply, trouble):
    judged = await judge_pair(judge_who(lambda first, second: reply if "red" in first else "1"), PAIR, reasons=True)
    assert judged.outcome == "invalid"
    assert trouble in judged.verdicts[0].trouble
    assert judged.verdicts[1].choice == "first"


async def test_the_same_words_tie_and_a_failed_request_loses_without_asking():
    async def nobody(prompt, schema, max_tokens):
        raise AssertionError("nobody is to be asked")

    async def settle(a, b):
        judged = await judge_pair(nobody, Pairing("q", "Why?", a, b), reasons=True)
        return judged.outcome, judged.basis

    assert await settle("the same", "the same\n") == ("tie", "identical")
    assert await settle("an answer", None) == ("a", "unanswered")
    assert await settle(None, "an answer") == ("b", "unanswered")
    assert await settle(None, None) == ("tie", "unanswered")


def test_an_invalid_order_is_never_made_up_from_the_other():
    assert combine(Verdict("first"), Verdict(None)) == ("invalid", "")
    assert combine(Verdict(None), Verdict("tie")) == ("invalid", "")


def test_a_prompt_shows_the_reference_only_where_there_is_one_and_long_answers_by_both_ends():
    assert "<reference>" not in prompt_for(PAIR, swapped=False, reasons=True)
    long = Pairing("q", "Why?", "begins" + "x" * 20_000 + "ends", "", "42")
    prompt = prompt_for(long, swapped=True, reasons=True)
    assert "<reference>\n42\n</reference>" in prompt
    assert "begins" in prompt
    assert "ends" in prompt
    assert "12,010 characters left out" in prompt
    assert "<answer_1>\n(empty)\n</answer_1>" in prompt
    assert shortened("  short ", 10) == "short"


def test_a_reply_is_read_out_of_thoughts_and_fences():
    thought = '<think>maybe {"better": "2"}</think>\n```json\n{"better": "1"}\n```'
    assert first_object(Reply(thought)) == {"better": "1"}
    with pytest.raises(UnreadableReply):
        first_object(Reply('<think>I am still at {"better": "2"}'))


def judged(outcome, basis="judged", bias="", lengths=(10, 10), choices=("first", "second")):
    verdicts = tuple(Verdict(choice) for choice in choices) if basis == "judged" else ()
    return Judged("q", outcome, basis, bias, verdicts, *lengths)


def test_counts_leave_nothing_out_and_the_win_rate_has_a_range_for_what_is_unreadable():
    rows = [
        judged("a"),
        judged("a"),
        judged("b", choices=("second", "first")),
        judged("tie", bias="first", choices=("first", "first")),
        judged("tie", "identical"),
        judged("b", "unanswered"),
        judged("invalid", choices=(None, "first")),
        judged("invalid", choices=(None, None)),
    ]
    counts = pairwise_counts(rows)
    assert counts["a"] + counts["b"] + counts["tie"] + counts["invalid"] == counts["pairs"] == 8
    assert counts["asked"] + counts["identical"] + counts["unanswered"] == 8
    assert (counts["first"], counts["first_place"], counts["second_place"]) == (1, 6, 3)
    figures, length = pairwise_figures(rows)
    assert figures["win_rate"].mean == pytest.approx((2 + 2 / 2) / 6)
    assert figures["win_rate"].n == length.n == 6
    assert win_rate_range(counts) == (3 / 8, 5 / 8)
    assert pairwise_figures([judged("invalid", choices=(None, None))]) == ({}, None)
