"""Lists in pages, as OpenAI's are: `after` and `before` name an element, `order` is that of making."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from services.kit.errors import InvalidRequest

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """A part of a list."""

    data: list[T]
    has_more: bool


@dataclass(frozen=True)
class Cursor:
    """Which part of a list is wanted.

    Args:
        after: id of the last element of the page before; empty: from the beginning.
        before: id of the first element of the page after.
    """

    limit: int = 20
    order: Literal["asc", "desc"] = "desc"
    after: str = ""
    before: str = ""


def read_page(
    connection: sqlite3.Connection, table: str, where: str, values: Sequence[Any], cursor: Cursor
) -> Page[sqlite3.Row]:
    """Return a page of a table's rows; table and condition are this service's own words.

    Raises:
        InvalidRequest: a cursor names nothing of the list.
    """
    conditions, bound = [where], list(values)
    ascending = cursor.order == "asc"
    for name, identifier, newer in (("after", cursor.after, ascending), ("before", cursor.before, not ascending)):
        if identifier:
            row = connection.execute(
                f"SELECT seq FROM {table} WHERE ({where}) AND id = ?",  # noqa: S608
                [*values, identifier],
            ).fetchone()
            if row is None:
                raise InvalidRequest(
                    f"{name}={identifier!r} is not in this list; take an id of its elements", param=name
                )
            conditions.append(f"seq {'>' if newer else '<'} ?")
            bound.append(row["seq"])
    # The page before an element is the one that ends there: its rows are looked for from there backwards.
    backwards = bool(cursor.before) and not cursor.after
    direction = "ASC" if ascending != backwards else "DESC"
    condition = " AND ".join(f"({each})" for each in conditions)
    rows = connection.execute(
        f"SELECT * FROM {table} WHERE {condition} ORDER BY seq {direction} LIMIT ?",  # noqa: S608
        [*bound, cursor.limit + 1],
    ).fetchall()
    page = rows[: cursor.limit]
    return Page(page[::-1] if backwards else page, len(rows) > cursor.limit)
