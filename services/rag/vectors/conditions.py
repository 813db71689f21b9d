"""Filters in the form of Qdrant's REST API, which its engine and its client both take: one meaning for all adapters.

Numbers are compared as ranges, so that 1 and 1.0 are the same value whether an attribute has an index or not; as
64-bit floats, in which whole numbers are exact up to 2^53. Texts and bools are matched; a list matches by any element.
"""

from typing import Any

from services.rag.vectors.filters import Compare, Every, Filter, FilterError, OneOf, Value

Conditions = dict[str, Any]
_NOTHING: Conditions = {"must": [{"has_id": []}]}
_COMPARABLE = "numbers alone can be compared by order"


def conditions(wanted: Filter) -> Conditions:
    """Return the filter as `{"must"|"should"|"must_not": […]}`.

    Raises:
        FilterError: an order comparison with what has no order here.
    """
    if isinstance(wanted, Compare):
        return _compare(wanted)
    if isinstance(wanted, OneOf):
        return _one_of(wanted)
    if isinstance(wanted, Every):
        return {"must": [conditions(part) for part in wanted.filters]}
    # Qdrant takes an empty `should` for no condition at all; none of nothing holds.
    return {"should": [conditions(part) for part in wanted.filters]} if wanted.filters else _NOTHING


def _compare(wanted: Compare) -> Conditions:
    if wanted.type == "eq":
        return {"must": [_equal(wanted.key, wanted.value)]}
    if wanted.type == "ne":
        return {"must_not": [_equal(wanted.key, wanted.value)]}
    if isinstance(wanted.value, (bool, str)):
        raise FilterError(f"the filter compares {wanted.key!r} with {wanted.value!r} by {wanted.type!r}: {_COMPARABLE}")
    return {"must": [{"key": wanted.key, "range": {wanted.type: float(wanted.value)}}]}


def _one_of(wanted: OneOf) -> Conditions:
    texts = [value for value in wanted.values if isinstance(value, str)]
    others = [_equal(wanted.key, value) for value in wanted.values if not isinstance(value, str)]
    either = [{"key": wanted.key, "match": {"any": texts}}, *others] if texts else others
    if wanted.type == "nin":
        return {"must_not": either}
    return {"should": either} if either else _NOTHING


def _equal(key: str, value: Value) -> Conditions:
    if isinstance(value, (bool, str)):
        return {"key": key, "match": {"value": value}}
    return {"key": key, "range": {"gte": float(value), "lte": float(value)}}
