"""How a judge is asked, and how its reply is read."""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from services.tracking.evaluation.replies import read_json

_THOUGHTS = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Reply:
    """What a model said.

    Args:
        cut: it had come to its most tokens.
        trouble: why it said nothing, where this request alone was refused; empty otherwise.
    """

    text: str
    cut: bool = False
    trouble: str = ""


Ask = Callable[[str, Mapping[str, Any], int], Awaitable[Reply]]
"""Prompt, JSON schema that the reply is held to, and most tokens, to what the model says."""


class UnreadableReply(Exception):
    """There is no JSON object in a reply."""


def first_object(reply: Reply) -> dict[str, Any]:
    """Return the first JSON object in what a reply says, a reasoning model's thoughts left aside.

    Raises:
        UnreadableReply: with why.
    """
    if reply.trouble:
        raise UnreadableReply(reply.trouble)
    found = read_json(_THOUGHTS.sub("", reply.text))
    if found is None:
        said = reply.text if len(reply.text) <= 120 else f"{reply.text[:117]}…"
        raise UnreadableReply(f"no JSON object in {said!r}{' (cut off at its most tokens)' if reply.cut else ''}")
    return found


def shortened(text: str, most: int) -> str:
    """Return a text of at most so many characters: its beginning and its end, and how much is left out between."""
    text = text.strip()
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters left out …]\n{text[-half:]}"
