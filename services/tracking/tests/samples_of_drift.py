"""Sampled requests as the store gives them, of which some can be made to drift."""

import numpy as np

from services.tracking.drift.features import measure
from services.tracking.requests import SampledRequest
from services.tracking.tests.samples import AT, record

DIMENSIONS = 16
QUESTIONS = ("How do I make the dump of a database?", "What is the limit of columns that a table can have?")
ANSWER = "It is done by the program that stands in the manual, with the options that are listed there. "


def vector(dice, shift=0.0):
    found = dice.normal(size=DIMENSIONS)
    found[0] += shift
    return (found / np.linalg.norm(found)).astype("<f4").tobytes()


def sampled(dice, count, *, first=1, shift=0.0, vectors=True, **fields):
    """Requests whose numbers vary; `fields` may be values or functions of the dice."""
    found = []
    for place in range(count):
        seq = first + place
        given = {name: value(dice) if callable(value) else value for name, value in fields.items()}
        made = record(
            **{
                "at": AT + seq,
                "sampled": True,
                "prompt": QUESTIONS[int(dice.integers(2))] + " please" * int(dice.integers(0, 8)),
                "answer": ANSWER * int(dice.integers(1, 5)),
                "seconds": float(dice.lognormal(0, 0.3)),
                "first_token_s": float(dice.lognormal(-2, 0.3)),
                "finish_reason": "stop",
                **given,
            }
        )
        pair = (vector(dice, shift), vector(dice, shift)) if vectors else (b"", b"")
        found.append(SampledRequest(seq, made, measure(made), *pair))
    return found
