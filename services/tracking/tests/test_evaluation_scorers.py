"""What answers are worth: each scorer on answers as models give them."""

import json

import pytest

from services.tracking.evaluation.scorers import ScorerError, Verdict, prepare
from services.tracking.evaluation.sets import read_set, shipped

CHOICES = {"choices": ["iron", "water", "oxygen", "salt"], "reference": "B"}
SCHEMA = {
    "schema": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    "reference": {"name": "Maria Rossi", "age": 34},
}


@pytest.mark.parametrize(
    ("kind", "question", "answer", "score", "format_failed"),
    [
        ("exact", {"reference": "Paris"}, " “paris”.\n", 1, False),
        ("exact", {"reference": "Paris"}, "It is Paris.", 0, False),
        ("contains", {"reference": ["two", "2"]}, "A bicycle has 2 wheels.", 1, False),
        ("contains", {"reference": ["two", "2"]}, "A car has 12 wheels and two-tone paint? No: twofold.", 1, False),
        ("contains", {"reference": ["two", "2"]}, "A twofold answer of 12.", 0, False),
        ("contains", {"reference": "no"}, "<think>no, wait: yes</think>Yes.", 0, False),
        ("contains", {"reference": "no"}, "<think>I never came to an end, no", 0, False),
        ("regex", {"reference": r"^\d{4}-\d{2}-\d{2}$"}, "2024-03-05", 1, False),
        ("regex", {"reference": r"^\d{4}-\d{2}-\d{2}$"}, "On 5 March.", 0, True),
        ("numeric", {"reference": 12}, "3 × 4 = 12.", 1, False),
        ("numeric", {"reference": "12"}, "The answer is 12 apples", 1, False),
        ("numeric", {"reference": 1234567}, "That makes 1,234,567.", 1, False),
        ("numeric", {"reference": -3}, "5 - 8 = -3", 1, False),
        ("numeric", {"reference": -3}, "5 − 8 = −3", 1, False),
        ("numeric", {"reference": 9}, "16-9", 1, False),
        ("numeric", {"reference": 3.5}, "It is 3.5", 1, False),
        ("numeric", {"reference": 100, "tolerance": 2}, "about 101.5", 1, False),
        ("numeric", {"reference": 100, "tolerance": 2}, "about 103", 0, False),
        ("numeric", {"reference": 5}, "five", 0, True),
        ("choice", CHOICES, "B", 1, False),
        ("choice", CHOICES, "b.", 1, False),
        ("choice", CHOICES, "(B) because it flows", 1, False),
        ("choice", CHOICES, "B. water", 1, False),
        ("choice", CHOICES, "Water", 1, False),
        ("choice", CHOICES, "It must be water, I think.", 1, False),
        ("choice", CHOICES, "A. iron\n\nThe correct answer is B.", 1, False),
        ("choice", CHOICES, "The answer is: **B**", 1, False),
        ("choice", CHOICES, "A. iron", 0, False),
        ("choice", CHOICES, "A liquid is what flows.", 0, True),
        ("choice", CHOICES, "I don't know.", 0, True),
        ("json_schema", SCHEMA, '{"name": "Maria Rossi", "age": 34}', 1, False),
        ("json_schema", SCHEMA, 'Here: ```json\n{"name": "maria rossi", "age": 34}\n```', 1, False),
        ("json_schema", SCHEMA, '{"name": "Maria Rossi", "age": 43}', 0.5, False),
        ("json_schema", SCHEMA, '{"name": "Maria Rossi"}', 0, True),
        ("json_schema", SCHEMA, '{"name": "Maria Rossi", "age": "34"}', 0, True),
        ("json_schema", SCHEMA, "Maria Rossi, 34", 0, True),
        ("json_schema", {"schema": SCHEMA["schema"]}, '{"name": "", "age": 1}', 1, False),
    ],
)
def test_an_answer_gets_what_it_is_worth(kind, question, answer, score, format_failed):
    assert prepare(kind, question)(answer) == Verdict(score, format_failed)


@pytest.mark.parametrize(
    ("kind", "question", "says"),
    [
        ("fuzzy", {}, "there is no scorer 'fuzzy'; there are exact, contains"),
        ("exact", {}, "`reference` must be a text"),
        ("contains", {"reference": []}, "`reference` must be a text"),
        ("regex", {"reference": "("}, "no regular expression"),
        ("numeric", {"reference": "five"}, "`reference` must be a number"),
        ("numeric", {"reference": True}, "`reference` must be a number"),
        ("numeric", {"reference": 1, "tolerance": -1}, "`tolerance` must be a number of 0 or more"),
        ("choice", {"reference": "A"}, "`choices` must list"),
        ("choice", CHOICES | {"reference": "E"}, "`reference` must be one of A, B, C, D"),
        ("json_schema", {}, "`schema` must be a JSON schema"),
        ("json_schema", {"schema": {"type": "objekt"}}, "is no JSON schema"),
        ("json_schema", SCHEMA | {"reference": []}, "`reference` must be an object"),
    ],
)
def test_a_question_that_its_scorer_cannot_use_is_refused(kind, question, says):
    with pytest.raises(ScorerError) as refused:
        prepare(kind, question)
    assert says in str(refused.value)


RIGHT_FORMS = {
    "line-1": "READY",
    "line-2": "- apple\n- pear\n- plum",
    "line-3": "2024-03-05",
    "line-4": "Yes.",
    "event-1": '{"place": "town hall", "day": 14, "month": "June"}',
    "list-1": '{"tools": ["hammer", "saw", "drill"]}',
    "unforced-4": '{"animal": "dog", "sound": "bark"}',
}
WRONG_FORMS = {"line-1": "ready", "line-2": "apple, pear, plum", "line-3": "5 March 2024", "line-4": "Yes, of course."}


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_in_shipped_sets_each_right_answer_counts_and_nonsense_does_not(path):
    for question in read_set(path).questions:
        reference = question.reference
        if question.id in RIGHT_FORMS:
            right = RIGHT_FORMS[question.id]
        elif question.scorer_kind == "json_schema":
            right = json.dumps(reference)
        else:
            right = reference[0] if isinstance(reference, list) else reference
        assert question.scorer(right).score == 1, question.id
        assert question.scorer(WRONG_FORMS.get(question.id, "Rhubarb.")).score == 0, question.id
