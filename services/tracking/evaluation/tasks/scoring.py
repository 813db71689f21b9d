"""What the tasks of this folder need beyond the harness's own metrics. It is loaded by the harness, by path."""

import re
from collections.abc import Mapping, Sequence
from typing import Any


def named(document: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Return whether an answer has one of the references in it, as whole words."""
    answer = plain(results[0])
    found = any(re.search(rf"(?<!\w){re.escape(plain(text))}(?!\w)", answer) for text in document["reference"])
    return {"acc": float(found)}


def plain(text: str) -> str:
    """Return a text without case, with single spaces."""
    return " ".join(text.casefold().split())
