"""Filters: each kind, nested, on keys that are missing, and what no store can take."""

import pytest

from services.rag.vectors.filters import (
    Compare,
    Either,
    Every,
    Filter,
    FilterError,
    OneOf,
    attribute_path,
    eq,
    of_attributes,
)
from tests.conformance.vector_stores.conftest import Filled
from tests.conformance.vector_stores.data import points
from tests.conformance.vector_stores.reference import takes

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]
CASES: dict[str, Filter] = {
    "text": eq("attributes.team", "north"),
    "text beyond ASCII": eq("attributes.team", "Øst"),
    "whole number": eq("attributes.year", 2001),
    "whole number as float": eq("attributes.year", 2001.0),
    "float": eq("attributes.score", 1.25),
    "number without an index": eq("index", 40),
    "true": eq("attributes.draft", True),
    "false": eq("attributes.draft", False),
    "one is not true": eq("attributes.draft", 1),
    "true is not one": eq("index", True),
    "text of digits is no number": eq("attributes.year", "2001"),
    "element of a list": eq("attributes.tags", "b"),
    "key with a dot": eq(attribute_path("half.way"), 0),
    "key with a blank": eq(attribute_path("two words"), "yes"),
    "ne takes what lacks the key": Compare("attributes.team", "ne", "north"),
    "ne of a number": Compare("attributes.year", "ne", 2001),
    "ne of a bool": Compare("attributes.draft", "ne", True),
    "ne in a list": Compare("attributes.tags", "ne", "a"),
    "gt": Compare("attributes.year", "gt", 2020),
    "gte": Compare("attributes.score", "gte", 30.5),
    "lt": Compare("attributes.score", "lt", 0.5),
    "lte": Compare("index", "lte", 3),
    "in texts": OneOf("attributes.team", ("north", "Øst")),
    "in numbers": OneOf("attributes.year", (2001, 2003.0, 1900)),
    "in bools": OneOf("attributes.draft", (True,)),
    "in a mixture": OneOf("attributes.year", ("2001", 2002, True)),
    "in nothing": OneOf("attributes.team", ()),
    "nin takes what lacks the key": OneOf("attributes.team", ("north", "south"), "nin"),
    "nin numbers": OneOf("attributes.year", (2001, 2002), "nin"),
    "nin nothing": OneOf("attributes.team", (), "nin"),
    "every": Every((eq("tenant", "tenant-1"), eq("attributes.draft", True), Compare("index", "lt", 100))),
    "every of nothing": Every(()),
    "either": Either((eq("attributes.team", "south"), Compare("attributes.year", "gt", 2023))),
    "either of nothing": Either(()),
    "nested": Every(
        (
            Either((eq("tenant", "tenant-0"), eq("tenant", "tenant-3"))),
            Either(
                (Every((eq("attributes.draft", False), Compare("attributes.year", "lt", 2005))), eq("version", "v2"))
            ),
            OneOf("attributes.team", ("south",), "nin"),
        )
    ),
    "a key that nobody has": eq("attributes.nothing", "x"),
    "not a key that nobody has": Compare("attributes.nothing", "ne", "x"),
    "a client's": of_attributes(Every((Compare("year", "gte", 2010), OneOf("team", ("north",))))),
    "a client can't reach the tenant": of_attributes(eq("tenant", "tenant-1")),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_filter_takes_what_it_says(filled: Filled, case: str) -> None:
    wanted = {each.id for each in points() if takes(CASES[case], each.payload)}
    found = await filled.store.fetch(filled.collection, CASES[case])
    assert {hit.id for hit in found} == wanted
    assert len(found) == len(wanted)
    assert await filled.store.count(filled.collection, CASES[case]) == len(wanted)


async def test_the_cases_tell_points_apart() -> None:
    sizes = {case: sum(takes(where, each.payload) for each in points()) for case, where in CASES.items()}
    none = {case for case, size in sizes.items() if size == 0}
    assert none == {
        "one is not true",
        "true is not one",
        "text of digits is no number",
        "in nothing",
        "either of nothing",
        "a key that nobody has",
        "a client can't reach the tenant",
    }


@pytest.mark.parametrize("value", ["2020", True])
async def test_an_order_of_texts_is_refused_as_the_clients_mistake(filled: Filled, value: str | bool) -> None:
    with pytest.raises(FilterError, match="numbers alone"):
        await filled.store.count(filled.collection, Compare("attributes.year", "gt", value))


@pytest.mark.parametrize("key", ["", 'a"b', "a\\b"])
async def test_a_key_that_would_leave_the_attributes_is_refused(key: str) -> None:
    with pytest.raises(FilterError, match="attribute"):
        of_attributes(eq(key, 1))


async def test_fetch_keeps_to_its_limit_and_gives_vectors_when_asked(filled: Filled) -> None:
    found = await filled.store.fetch(filled.collection, eq("tenant", "tenant-1"), limit=5, with_vectors=True)
    wanted = {each.id: each.dense for each in points()}
    assert len(found) == 5
    for hit in found:
        assert hit.score == 0
        assert hit.vector is not None
        assert hit.vector == pytest.approx(wanted[hit.id], abs=1e-6)
