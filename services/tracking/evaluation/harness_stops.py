"""What ends a run of lm-evaluation-harness, and what a single question survives. Imported by harness_child.py alone."""

import json
import time
from collections.abc import Mapping

from services.tracking.evaluation.harness_notes import Notes

PATIENCE_S = 900.0
"""How long a model is waited for that loads, or a queue that is full."""
_LONGEST_WAIT_S = 30.0


class Stop(BaseException):
    """There is no sense in going on; the message is for the user."""

    def __init__(self, message: str, *, can_go_on: bool = False) -> None:
        super().__init__(message)
        self.can_go_on = can_go_on


def waits(status: int, headers: Mapping[str, str], message: str, give_up: float, notes: Notes) -> float | None:
    """Return how long to wait before the request is sent again; None where this one question has no answer.

    Raises:
        Stop: no request will be answered.
    """
    if status in (401, 403):
        raise Stop(f"the gateway refuses the key ({message}); give the right one by --key or SPARKSTACK_API_KEY")
    if status == 404:
        raise Stop(message)
    if status in (429, 503) and time.monotonic() < give_up:
        try:
            asked = float(headers.get("retry-after", 1))
        except ValueError:
            asked = 1.0
        return min(max(asked, 0.1), _LONGEST_WAIT_S)
    if status >= 500 or status == 429:
        raise Stop(message, can_go_on=notes.answered > 0)
    return None


def dead(url: str, notes: Notes, error: Exception) -> Stop:
    """Return what ends a run when the gateway is gone."""
    words = "stopped answering" if notes.answered else "doesn't answer"
    return Stop(f"{url} {words} ({type(error).__name__}); see `sparkstack status`", can_go_on=True)


def said_by(status: int, text: str) -> str:
    """Return a refusal in the server's own words."""
    try:
        return f"{status}: {json.loads(text)['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return f"{status}: {text[:200]}" if text else f"status {status}"
