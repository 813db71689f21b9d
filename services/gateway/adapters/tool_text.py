"""Read a tool call that a model writes as plain JSON, `{"name": …, "arguments": {…}}`, while it is being written."""

import re

import msgspec

_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\S)')


class CallReader:
    """One call; `name` is None until it has been read."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.complete = False
        """The arguments have ended, as JSON does."""
        self._head = ""
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def feed(self, text: str) -> str:
        """Return what a piece of the text adds to the arguments' JSON; nothing while the name is being written."""
        if self.name is None:
            self._head += text
            match = _HEAD.match(self._head)
            if match is None:
                return ""
            self.name = msgspec.json.decode(match[1], type=str)
            text = self._head[match.end() :]
        end = 0
        while end < len(text) and not self.complete:
            self._step(text[end])
            end += 1
        return text[:end]

    def _step(self, character: str) -> None:
        if self._in_string:
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = True
            elif character == '"':
                self._in_string = False
        elif character == '"':
            self._in_string = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
            self.complete = self._depth == 0
