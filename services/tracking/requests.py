"""A stored request: what is kept of a record, and what other parts read of it."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from services.kit.records import RequestRecord

COLUMNS = (
    "id",
    "at",
    "key",
    "user",
    "model",
    "operation",
    "backend",
    "engine",
    "trace_id",
    "stream",
    "status",
    "outcome",
    "error",
    "finish_reason",
    "seconds",
    "held_s",
    "first_token_s",
    "prompt_tokens",
    "completion_tokens",
    "usage_source",
    "billed",
    "hops",
    "tool_calls",
    "tools_offered",
    "format_asked",
    "sampled",
)
_FLAGS = ("stream", "billed", "format_asked", "sampled")


@dataclass(frozen=True)
class SampledRequest:
    """A sampled request as it is stored.

    Args:
        seq: its number; grows with each request that is stored.
        record: without texts; `user` is a digest.
        features: by name, as `measure` has returned them, and what was added later.
        prompt_vector: float32, little-endian, L2-normalised; empty where it has none.
        answer_vector: the same of the answer.
        score: mean of its feedback, -1 to 1; None where nobody gave any.
    """

    seq: int
    record: RequestRecord
    features: Mapping[str, Any] = field(default_factory=dict)
    prompt_vector: bytes = b""
    answer_vector: bytes = b""
    score: float | None = None


@dataclass(frozen=True)
class SampledText:
    """The masked texts of a sampled request, on their way through memory; they are not on disk."""

    seq: int
    prompt: str
    answer: str


@dataclass(frozen=True)
class Vectors:
    """Embeddings of a sampled request: float32, little-endian, L2-normalised; empty where a text has none."""

    seq: int
    prompt: bytes = b""
    answer: bytes = b""


def record_of(row: sqlite3.Row) -> RequestRecord:
    """Return a row of the table as the record that it was, without texts."""
    values = {name: row[name] for name in COLUMNS}
    values.update({name: bool(values[name]) for name in _FLAGS})
    return RequestRecord(**values)


def sampled_of(row: sqlite3.Row) -> SampledRequest:
    """Return a joined row as a sampled request."""
    return SampledRequest(
        seq=row["seq"],
        record=record_of(row),
        features=msgspec.json.decode(row["features"]),
        prompt_vector=row["prompt_vector"] or b"",
        answer_vector=row["answer_vector"] or b"",
        score=row["score"],
    )
