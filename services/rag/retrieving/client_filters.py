"""Filters as clients write them, read and bounded."""

from typing import Any, get_args

from services.kit.errors import InvalidRequest
from services.rag.vectors.filters import Compare, Either, Every, Filter, FilterError, OneOf, Value, attribute_path

_MOST = 64
_DEEPEST = 6
_COMPARISONS = ("eq", "ne", "gt", "gte", "lt", "lte")


def parse_filter(document: Any, param: str = "filters") -> Filter:
    """Return a client's filter; its keys name attributes of documents.

    Raises:
        InvalidRequest: it has another form, or is too large; `param` is the field that the error names.
    """
    return _Reader(param).read(document, 1)


class _Reader:
    def __init__(self, param: str) -> None:
        self._param = param
        self._count = 0

    def read(self, document: Any, depth: int) -> Filter:
        self._count += 1
        if self._count > _MOST or depth > _DEEPEST:
            raise self._wrong(f"has over {_MOST} parts or is nested over {_DEEPEST} deep; ask for less")
        if not isinstance(document, dict):
            raise self._wrong(f"must be an object with a type, not {document!r}")
        kind = document.get("type")
        if kind in ("and", "or"):
            parts = document.get("filters")
            if not isinstance(parts, list) or not parts:
                raise self._wrong(f"of type {kind} needs `filters`, a list with at least one")
            read = tuple(self.read(part, depth + 1) for part in parts)
            return Every(read) if kind == "and" else Either(read)
        key = document.get("key")
        if not isinstance(key, str) or not key or len(key) > 64:
            raise self._wrong(f"needs `key`, an attribute's name of at most 64 characters, not {key!r}")
        try:
            attribute_path(key)
        except FilterError as error:
            raise self._wrong(f"has the key {key!r}: {error}") from None
        value = document.get("value")
        if kind in ("in", "nin"):
            if not isinstance(value, list) or not value or len(value) > 256:
                raise self._wrong(f"of type {kind} needs `value`, a list of 1 to 256, not {value!r}")
            return OneOf(key, tuple(self._value(each) for each in value), kind)
        if kind in _COMPARISONS:
            if kind not in ("eq", "ne") and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise self._wrong(f"of type {kind} compares with a number, not {value!r}")
            return Compare(key, kind, self._value(value))
        raise self._wrong(f"has the type {kind!r}; there are {', '.join(_COMPARISONS)}, in, nin, and, or")

    def _value(self, value: Any) -> Value:
        if not isinstance(value, get_args(Value)):
            raise self._wrong(f"compares with texts, numbers and booleans, not {value!r}")
        found: Value = value
        return found

    def _wrong(self, rest: str) -> InvalidRequest:
        return InvalidRequest(f"{self._param}: a filter {rest}", param=self._param)
