"""What is known of each answer of lm-evaluation-harness beside its text. Imported by harness_child.py alone."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO


class Notes:
    """What is known of each answer beside its text, by the digest of its prompt; kept in a file of JSON lines.

    Args:
        tell: gets an event for each answer.
    """

    def __init__(self, path: Path, out: TextIO) -> None:
        self._path = path
        self._out = out
        self.rows: dict[str, dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                    self.rows[row["prompt"]] = row
                except (ValueError, KeyError, TypeError):
                    continue
            # A kill may have cut the last line off: the next one begins anew.
            with path.open("a", encoding="utf-8") as file:
                file.write("\n")
        self.kept = len(self.rows)
        self.answered = self.kept

    def tell(self, event: str, **more: Any) -> None:
        """Write an event."""
        self._out.write(json.dumps({"event": event, **more}) + "\n")
        self._out.flush()

    def add(self, prompt: str, document: Mapping[str, Any], seconds: float, error: str = "") -> None:
        """Keep what is known of an answer."""
        choices = document.get("choices") or [{}]
        usage = document.get("usage") or {}
        row: dict[str, Any] = {
            "prompt": sha256(prompt),
            "served": str(document.get("model") or ""),
            "finish_reason": str(choices[0].get("finish_reason") or ""),
            "prompt_tokens": usage.get("prompt_tokens"),
            "completion_tokens": usage.get("completion_tokens"),
            "seconds": round(seconds, 4),
            "error": error,
        }
        self.rows[row["prompt"]] = row
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.answered += 1
        self.tell("answered", answered=self.answered)

    def of(self, prompt: str) -> Mapping[str, Any]:
        """Return what is known of the answer to a prompt."""
        return self.rows.get(sha256(prompt), {})


def text_of(messages: Any) -> str:
    """Return the prompt of a request as the harness hands it on: a list of one."""
    return prompt_text(messages[0] if isinstance(messages, list | tuple) else messages)


def prompt_text(context: Any) -> str:
    """Return the text of a prompt: of a chat, its messages as JSON."""
    return str(getattr(context, "prompt", context))


def sha256(text: str) -> str:
    """Return a text's SHA-256 in hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
