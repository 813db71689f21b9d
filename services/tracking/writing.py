"""Records into rows: what is kept of each, what of it goes into the sums, and what is not taken at all."""

import math
import sqlite3
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog

from services.kit.records import RequestRecord
from services.tracking.connecting import Identities
from services.tracking.masking import mask
from services.tracking.requests import COLUMNS, SampledText

NO_MODEL = "(none)"
"""Sums of requests that were refused before any backend: their model is whatever a caller has typed."""
DELETED_KEY = "(deleted)"
"""Sums of keys whose records were deleted on demand."""

_INSERT = (
    f"INSERT OR IGNORE INTO requests ({', '.join(COLUMNS)}, features) "  # noqa: S608 - our own names
    f"VALUES ({', '.join('?' * len(COLUMNS))}, ?)"
)
_ADD_COSTS = """
    INSERT INTO costs (day, key, model, requests, inner_requests, failed, prompt_tokens, completion_tokens, estimated,
                       seconds)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (day, key, model) DO UPDATE SET
        requests = requests + excluded.requests,
        inner_requests = inner_requests + excluded.inner_requests,
        failed = failed + excluded.failed,
        prompt_tokens = prompt_tokens + excluded.prompt_tokens,
        completion_tokens = completion_tokens + excluded.completion_tokens,
        estimated = estimated + excluded.estimated,
        seconds = seconds + excluded.seconds
"""
_ANY_EARLY = "SELECT EXISTS (SELECT 1 FROM feedback WHERE model = '' AND source = 'api')"
_MATCH = """
    UPDATE feedback SET model = ?, user = ?, request_id = ?, trace_id = ? WHERE seq IN (
        SELECT seq FROM feedback WHERE request_id = ? AND request_id != '' AND model = '' AND source = 'api'
        UNION SELECT seq FROM feedback WHERE trace_id = ? AND trace_id != '' AND model = '' AND source = 'api')
"""
_MAX_CHARACTERS = 300
_MAX_NUMBER = 2**53
_log = structlog.get_logger("tracking.store")


def failed(record: RequestRecord) -> bool:
    """Say whether a request failed: refused, or broken off in a stream whose status said 200. Who left did not fail."""
    return record.outcome == "failed" or (record.status >= 400 and record.outcome != "cancelled")


class Writing:
    """One transaction's records; used once."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        identities: Identities,
        measure: Callable[[RequestRecord], Mapping[str, Any]],
        *,
        store_text: bool,
    ) -> None:
        self.stored: list[RequestRecord] = []
        self.texts: list[SampledText] = []
        self.repeated = self.forgotten = self.invalid = 0
        self._connection = connection
        self._identities = identities
        self._measure = measure
        self._store_text = store_text
        self._costs: dict[tuple[str, str, str], list[float]] = {}
        (self._early,) = connection.execute(_ANY_EARLY).fetchone()
        self._gone = {(kind, name): at for kind, name, at in connection.execute("SELECT kind, name, at FROM forgotten")}

    def add(self, record: RequestRecord) -> None:
        """Store one record and note what it costs.

        Raises:
            sqlite3.Error, OSError
        """
        if not is_sane(record):
            self.invalid += 1
            return
        user = self._identities.user(record.user)
        if self._is_forgotten(record, user):
            # Who is forgotten has still used what was used.
            self.forgotten += 1
            self._note_cost(record, DELETED_KEY if self._gone.get(("key", record.key), 0) >= record.at else record.key)
            return
        done = self._connection.execute(_INSERT, (*self._row(record, user), self._features(record)))
        if not done.rowcount:
            self.repeated += 1
            return
        self.stored.append(record)
        self._note_cost(record, record.key)
        if self._early and record.hops == 0:
            # Feedback that was quicker than the record learns what it is about, and whose it is.
            about = (record.model[:_MAX_CHARACTERS], user, record.id, record.trace_id, record.id, record.trace_id)
            self._connection.execute(_MATCH, about)
        if record.sampled and (record.prompt or record.answer):
            self._keep_text(int(done.lastrowid or 0), record)

    def add_costs(self) -> None:
        """Add the noted costs to the sums."""
        self._connection.executemany(_ADD_COSTS, [(*where, *sums) for where, sums in self._costs.items()])

    def _is_forgotten(self, record: RequestRecord, user: str) -> bool:
        if not self._gone:
            return False
        names = [("key", record.key), ("records", record.key)]
        if user:
            names += [("user", user), ("user", f"{user}/{record.key}")]
        return any(self._gone.get(name, 0.0) >= record.at for name in names)

    def _row(self, record: RequestRecord, user: str) -> list[Any]:
        values = [getattr(record, name) for name in COLUMNS]
        values[COLUMNS.index("user")] = user
        return [value[:_MAX_CHARACTERS] if isinstance(value, str) else value for value in values]

    def _features(self, record: RequestRecord) -> str:
        if not record.sampled:
            return "{}"
        try:
            return msgspec.json.encode(self._measure(record)).decode()
        except Exception:  # one text that can't be measured must not hold all others up
            _log.exception("store.measure_failed")
            return "{}"

    def _keep_text(self, seq: int, record: RequestRecord) -> None:
        text = SampledText(seq, mask(record.prompt or ""), mask(record.answer or ""))
        self.texts.append(text)
        if self._store_text:
            self._connection.execute(
                "INSERT INTO texts (seq, at, prompt, answer) VALUES (?, ?, ?, ?)",
                (seq, record.at, text.prompt, text.answer),
            )

    def _note_cost(self, record: RequestRecord, key: str) -> None:
        """Add a record to the sums. Tokens and seconds of inner requests count once: where they are billed."""
        refused = record.status >= 400 and not record.backend
        where = (day_of(record.at), key[:_MAX_CHARACTERS], NO_MODEL if refused else record.model[:_MAX_CHARACTERS])
        billed = record.billed
        outer = record.hops == 0
        sums = self._costs.setdefault(where, [0.0] * 7)
        added = (
            int(outer),
            int(not outer),
            int(outer and failed(record)),
            record.prompt_tokens if billed else 0,
            record.completion_tokens if billed else 0,
            int(billed and record.usage_source == "estimate"),
            max(0.0, record.seconds - record.held_s) if billed else 0.0,
        )
        for place, value in enumerate(added):
            sums[place] += value


def is_sane(record: RequestRecord) -> bool:
    """Say whether the table can take the record: finite numbers that fit, text that is text."""
    floats = (record.at, record.seconds, record.held_s, record.first_token_s or 0.0)
    whole = (
        record.status,
        record.prompt_tokens,
        record.completion_tokens,
        record.hops,
        record.tool_calls,
        record.tools_offered,
    )
    return (
        bool(record.id)
        and all(math.isfinite(number) and 0 <= number < _MAX_NUMBER for number in floats)
        and all(0 <= number < _MAX_NUMBER for number in whole)
        and record.at < _LAST_SECOND
    )


_LAST_SECOND = datetime(9999, 12, 31, tzinfo=UTC).timestamp()


def day_of(at: float) -> str:
    """Return the day in UTC: `2026-11-21`."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")
