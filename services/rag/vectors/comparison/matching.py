"""Filters looked at one payload at a time, for databases that have none of their own."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from services.rag.vectors.filters import Compare, Either, Every, Filter, OneOf

_NAMES = re.compile(r'"[^"]*"|[^.]+')
_ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {
    "gt": lambda one, other: one > other,
    "gte": lambda one, other: one >= other,
    "lt": lambda one, other: one < other,
    "lte": lambda one, other: one <= other,
}


def takes(wanted: Filter, payload: Any) -> bool:
    """Say whether a filter takes a point with this payload."""
    if isinstance(wanted, Every):
        return all(takes(part, payload) for part in wanted.filters)
    if isinstance(wanted, Either):
        return any(takes(part, payload) for part in wanted.filters)
    found = at_path(wanted.key, payload)
    values = found if isinstance(found, list) else [found]
    if isinstance(wanted, OneOf):
        return any(_same(value, each) for value in values for each in wanted.values) == (wanted.type == "in")
    return _compare(wanted, values)


def _compare(wanted: Compare, values: list[Any]) -> bool:
    if wanted.type in ("eq", "ne"):
        return any(_same(value, wanted.value) for value in values) == (wanted.type == "eq")
    return any(_number(value) and _ORDERS[wanted.type](value, wanted.value) for value in values)


def at_path(key: str, payload: Any) -> Any:
    """Return what stands at a payload path, None where nothing does."""
    for name in _NAMES.findall(key):
        if not isinstance(payload, dict):
            return None
        payload = payload.get(name.strip('"'))
    return payload


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) if _number(one) and _number(other) else type(one) is type(other) and one == other
