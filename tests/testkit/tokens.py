"""The fake engine's tokenizer and chat template: simple rules that tests can repeat by hand.

A token is a piece of at most eight characters of a word, with the whitespace before it; whitespace at the end is
one more token. `"Hello big world "` has four, `"internationally"` two. Joined, the tokens are the text again, and
a prefix of them is tokenized the same way, so that usage, `/tokenize` and the deltas of a stream agree.
"""

import re
import zlib
from collections.abc import Sequence
from typing import Any

_TOKEN = re.compile(r"\s*\S{1,8}|\s+$")
VOCABULARY_SIZE = 50_000


def split_tokens(text: str) -> list[str]:
    """Return the tokens of a text."""
    return _TOKEN.findall(text)


def token_id(token: str) -> int:
    """Return a stable number of a token."""
    return zlib.crc32(token.encode()) % VOCABULARY_SIZE


def text_of(content: Any) -> str:
    """Return the text of a message's content; a part that is not text is named `<type>`."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(_part_text(part) for part in content)
    raise TypeError(f"content must be a string or a list of parts, not {type(content).__name__}")


def _part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and "type" in part:
        text = part.get("text")
        return text if isinstance(text, str) else f"<{part['type']}>"
    raise TypeError(f"a content part must be an object with a type, not {part!r}")


def apply_template(messages: Sequence[dict[str, Any]]) -> str:
    """Return the prompt of a chat in ChatML; tool calls are written as their names and arguments."""
    lines = []
    for message in messages:
        text = text_of(message.get("content"))
        for call in message.get("tool_calls") or ():
            function = call.get("function", {})
            text += f"<tool_call>{function.get('name')} {function.get('arguments')}</tool_call>"
        lines.append(f"<|im_start|>{message.get('role')}\n{text}<|im_end|>\n")
    return "".join(lines) + "<|im_start|>assistant\n"
