"""JSON and JSON Lines: each record as `path: value` lines."""

import json
from collections.abc import Iterator
from typing import Any

from services.rag.documents import Document
from services.rag.loading.collecting import Collector
from services.rag.loading.decoding import decode
from services.rag.loading.limits import LoadError
from services.rag.loading.names import suffix
from services.rag.loading.source import Source

_BLOCK_CHARACTERS = 1500


def load_json(source: Source) -> Document:
    """Return the records of a JSON file: the members of a list, the lines of JSON Lines, else the one value."""
    text, encoding = decode(source, markup=True)
    lines = suffix(source.name) in (".jsonl", ".ndjson")
    collector = Collector(source, "application/jsonl" if lines else "application/json")
    collector.describe({"encoding": encoding})
    group: list[str] = []
    size = 0
    for record in _records(source, text, lines):
        written = "\n".join(_lines_of(record))
        if group and size + len(written) > _BLOCK_CHARACTERS:
            collector.add("\n\n".join(group), "table")
            group, size = [], 0
        group.append(written)
        size += len(written)
    collector.add("\n\n".join(group), "table")
    return collector.document()


def _records(source: Source, text: str, lines: bool) -> Iterator[Any]:
    if lines:
        # Not splitlines: a string within may hold other line ends than this one.
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield _parse(source, line, f"line {number}: ")
        return
    value = _parse(source, text, "")
    if isinstance(value, list):
        yield from value
    else:
        yield value


def _parse(source: Source, text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise LoadError("damaged", f"{source.name!r} is nested too deep for JSON that is read") from error
    except ValueError as error:
        raise LoadError("damaged", f"{source.name!r} is no valid JSON: {where}{error}; correct it") from error


def _lines_of(record: Any) -> Iterator[str]:
    """Yield `path: value` for each value within, in the order of the file; without recursion."""
    waiting: list[tuple[str, Any]] = [("", record)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend((f"{path}.{key}" if path else str(key), inner) for key, inner in reversed(value.items()))
        elif isinstance(value, list) and any(isinstance(each, dict | list) for each in value):
            waiting.extend((f"{path}[{at}]", inner) for at, inner in reversed(list(enumerate(value))))
        else:
            words = ", ".join(map(_word, value)) if isinstance(value, list) else _word(value)
            yield f"{path}: {words}" if path else words


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
