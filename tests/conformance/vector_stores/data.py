"""The points of the suite: some hundred that are generated, and the sections of docs/*.md as they are."""

import random
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from services.rag.vectors import Point
from services.rag.vectors.bm25 import Bm25

DIMENSIONS = 48
DOCS = Path(__file__).parents[3] / "docs"
_WORDS = [f"term{number}" for number in range(400)]
_NAMES = uuid.UUID("9d1a1d2e-61d5-4f0b-8b0c-0f6c3f1f6a11")
BM25 = Bm25()


@dataclass(frozen=True)
class Text:
    """A point's text and what it carries."""

    name: str
    text: str
    payload: Mapping[str, Any]


def vector(text: str) -> Any:
    """Return `(DIMENSIONS,)` float32, L2-normalised, from the words' hashes: texts that share words are near."""
    total = np.zeros(DIMENSIONS)
    for word in re.findall(r"\w+", text.lower()) or [text]:
        dice = np.random.default_rng(abs(uuid.uuid5(_NAMES, word).int) % 2**63)
        total += dice.normal(size=DIMENSIONS)
    return (total / np.linalg.norm(total)).astype(np.float32)


def point(text: Text) -> Point:
    """Return the point of a text."""
    name = str(uuid.uuid5(_NAMES, text.name))
    return Point(name, vector(text.text), BM25.document(text.text), text.payload)


def _generated() -> list[Text]:
    dice = random.Random(7)
    texts = []
    for number in range(300):
        words = " ".join(dice.choices(_WORDS, k=dice.randint(5, 60)))
        attributes: dict[str, Any] = {"year": 2000 + number % 25, "score": number / 8, "draft": number % 3 == 0}
        if number % 2:
            attributes["team"] = dice.choice(["north", "south", "Øst"])
        if number % 5 == 0:
            attributes["tags"] = dice.sample(["a", "b", "c", "d"], k=2)
        if number % 7 == 0:
            attributes |= {"half.way": number % 4, "two words": "yes", "empty": None}
        texts.append(Text(f"generated {number}", words, _payload(number, attributes)))
    # Neither has a word that is looked for by terms.
    texts.append(Text("stop words", "the of and", _payload(301, {})))
    texts.append(Text("signs", "…", _payload(302, {"year": 2001.0})))
    return texts


def _payload(number: int, attributes: dict[str, Any]) -> dict[str, Any]:
    return {
        "tenant": f"tenant-{number % 4}",
        "document_id": f"document-{number // 10}",
        "version": f"v{number % 3}",
        "index": number,
        "attributes": attributes,
    }


def _sections() -> list[Text]:
    texts = []
    for path in sorted(DOCS.glob("*.md")):
        for number, section in enumerate(re.split(r"\n(?=#)|\n\n", path.read_text(encoding="utf-8"))):
            if len(section) > 60:
                carried = _payload(number, {"file": path.name, "length": len(section)})
                texts.append(Text(f"{path.name} {number}", section[:1500], carried | {"document_id": path.name}))
    return texts[:200]


@cache
def texts() -> tuple[Text, ...]:
    """Return all of them."""
    return (*_generated(), *_sections())


@cache
def points() -> tuple[Point, ...]:
    """Return the points of all texts."""
    return tuple(point(text) for text in texts())


QUESTIONS = (
    "term1 term7 term20 term399",
    "term5 term5 term6",
    "How much memory does the KV cache of an engine need?",
    "the gateway's streams and what a client gets when it leaves",
    "metrics",
)
