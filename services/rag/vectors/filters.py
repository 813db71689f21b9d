"""Filters on what points carry, in the form of OpenAI's vector store search.

    {"type": "eq" | "ne" | "gt" | "gte" | "lt" | "lte" | "in" | "nin", "key": …, "value": …}
    {"type": "and" | "or", "filters": […]}

Keys here are payload paths: `tenant`, `document_id`, `attributes.year`. What a client writes names attributes alone;
`of_attributes` puts the path in front, so that no client reaches `tenant`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Value = str | int | float | bool
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


class FilterError(ValueError):
    """A filter that no store can take; the message says why. It is the client's to correct."""


@dataclass(frozen=True)
class Compare:
    """One comparison; `ne` and `nin` also take points that lack the key."""

    key: str
    type: Literal["eq", "ne", "gt", "gte", "lt", "lte"]
    value: Value


@dataclass(frozen=True)
class OneOf:
    """The value at `key` is (or with `nin`: is not) one of these."""

    key: str
    values: tuple[Value, ...]
    type: Literal["in", "nin"] = "in"


@dataclass(frozen=True)
class Every:
    """All of these hold."""

    filters: tuple["Filter", ...]


@dataclass(frozen=True)
class Either:
    """At least one of these holds."""

    filters: tuple["Filter", ...]


Filter = Compare | OneOf | Every | Either


def eq(key: str, value: Value) -> Compare:
    """Return the filter that takes points with this value."""
    return Compare(key, "eq", value)


def every(*filters: Filter | None) -> Filter | None:
    """Return the filter that all of these make; None where there is none."""
    there = tuple(each for each in filters if each is not None)
    return there[0] if len(there) == 1 else Every(there) if there else None


def of_attributes(wanted: Filter) -> Filter:
    """Return a client's filter with its keys bound to the points' attributes.

    Attributes are flat: a key with a dot names one attribute, not a path.

    Raises:
        FilterError: a key that no attribute can have.
    """
    if isinstance(wanted, (Compare, OneOf)):
        return replace(wanted, key=attribute_path(wanted.key))
    parts: Sequence[Filter] = wanted.filters
    return replace(wanted, filters=tuple(of_attributes(part) for part in parts))


def attribute_path(key: str) -> str:
    """Return the payload path of an attribute, quoted where its name is not a plain word.

    Raises:
        FilterError: a key that is empty, or has a quotation mark or a backslash.
    """
    if _PLAIN_KEY.fullmatch(key):
        return f"attributes.{key}"
    if not key or '"' in key or "\\" in key:
        raise FilterError(
            f"{key!r} is not the name of an attribute: it is empty, or has a quotation mark or a backslash"
        )
    return f'attributes."{key}"'
