"""Sums of what was used, by key, model or day, with what it cost."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from services.tracking.energy import Account
from services.tracking.tariff import Tariff, Use

By = Literal["key", "model", "day"]
_SUMS = (
    "requests",
    "inner_requests",
    "failed",
    "prompt_tokens",
    "completion_tokens",
    "estimated",
    "seconds",
    "joules",
)


@dataclass
class Sum:
    """What was used, under one name.

    Args:
        requests: that came from outside; `inner_requests` were made by the stack's own services on the way.
        failed: of the requests from outside, those that were refused or broken off; not those whose client left.
        estimated: requests whose tokens are an estimate.
        seconds: of answering, without waiting for a model to load.
        money: None where there is no price for any of it.
    """

    name: str
    requests: int = 0
    inner_requests: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: int = 0
    seconds: float = 0.0
    joules: float = 0.0
    money: float | None = None

    def add(self, row: sqlite3.Row, money: float | None) -> None:
        """Add a day's row."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + row[name])
        if money is not None:
            self.money = (self.money or 0.0) + money

    def document(self, *, metered: bool) -> dict[str, Any]:
        """Return it for JSON; energy is null where nothing measures it."""
        values: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        values["seconds"] = round(values["seconds"], 3)
        values["joules"] = round(values["joules"], 1) if metered or values["joules"] else None
        values["money"] = round(values["money"], 6) if values["money"] is not None else None
        return values


def sums(
    connection: sqlite3.Connection, tariff: Tariff, by: By, first: str, last: str, key: str | None = None
) -> tuple[list[Sum], Sum, list[str]]:
    """Return the sums, the whole of them, and the models that have no price.

    Args:
        first: day from which, `2026-11-21`; empty: from the beginning.
        last: the last day that counts; empty: until now.
        key: of one key alone.
    """
    rows = connection.execute(
        "SELECT * FROM costs WHERE day >= ? AND (? = '' OR day <= ?) AND (? IS NULL OR key = ?) ORDER BY day",
        (first, last, last, key, key),
    )
    found: dict[str, Sum] = {}
    whole = Sum("total")
    unpriced = set()
    for row in rows:
        use = Use(**{each.name: row[each.name] for each in fields(Use)})
        money = tariff.money(row["day"], row["model"], use)
        if money is None:
            unpriced.add(row["model"])
        name = row[by]
        found.setdefault(name, Sum(name)).add(row, money)
        whole.add(row, money)
    listed = list(found.values())
    if by != "day":
        listed.sort(key=lambda each: (-(each.prompt_tokens + each.completion_tokens), each.name))
    return listed, whole, sorted(unpriced) if tariff.periods else []


def add_joules(connection: sqlite3.Connection, shared: Mapping[Account, float]) -> None:
    """Add energy to the sums of its day, key and model."""
    connection.executemany(
        "INSERT INTO costs (day, key, model, joules) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (day, key, model) DO UPDATE SET joules = joules + excluded.joules",
        [(*account, joules) for account, joules in shared.items()],
    )
