"""What each load was predicted to take, and took: one line of JSON a load, appended to a file in the state folder."""

import contextlib
import json
import math
import os
import statistics
import threading
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from services.kit.files import write_private

_MEDIAN_OF = 5


@dataclass(frozen=True)
class Receipt:
    """One load.

    Args:
        started_at: seconds since 1970.
        predicted_bytes: what the plan said that it would hold when settled.
        settled_bytes: what it held when it was ready.
        outcome: `ready`, or why not in one word.
        reason: a sentence; empty where all was well.
    """

    model: str
    engine: str
    started_at: float
    predicted_bytes: int
    peak_bytes: int
    settled_bytes: int
    load_s: float
    outcome: str
    reason: str = ""


class Receipts:
    """The receipts of one state folder, the last `keep` of them. It reads and writes a file: not in the event loop.

    A line that can't be read (the host stopped while it was written) is no receipt.
    """

    def __init__(self, path: Path, keep: int = 1000) -> None:
        self._path = path
        self._keep = keep
        self._lock = threading.Lock()
        self._found: list[Receipt] | None = None

    def add(self, receipt: Receipt) -> None:
        """Write a receipt down; a disk that is full costs the line, not the load."""
        with self._lock:
            found = self._all()
            torn = self._ends_torn()
            found.append(receipt)
            with contextlib.suppress(OSError):
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                if len(found) > 2 * self._keep or torn:
                    del found[: -self._keep]
                    write_private(self._path, "".join(map(_line, found)))
                else:
                    descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                    with os.fdopen(descriptor, "a", encoding="utf-8") as file:
                        file.write(_line(receipt))

    def newest(self, count: int) -> list[Receipt]:
        """Return the last receipts, the newest first."""
        with self._lock:
            return self._all()[: -count - 1 : -1] if count > 0 else []

    def last(self, model: str, engine: str) -> Receipt | None:
        """Return the last receipt of a model on an engine."""
        return next((r for r in self.newest(2 * self._keep) if (r.model, r.engine) == (model, engine)), None)

    def load_s(self, model: str, engine: str) -> float | None:
        """Return the median time of its last loads that went well; None where there were none."""
        well = [
            receipt.load_s
            for receipt in self.newest(2 * self._keep)
            if (receipt.model, receipt.engine, receipt.outcome) == (model, engine, "ready")
        ]
        return statistics.median(well[:_MEDIAN_OF]) if well else None

    def _all(self) -> list[Receipt]:
        if self._found is None:
            try:
                lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
            except OSError:
                lines = []
            self._found = [receipt for line in lines if (receipt := _receipt(line)) is not None][-2 * self._keep :]
        return self._found

    def _ends_torn(self) -> bool:
        """Say whether the file ends in the middle of a line, to which the next one would be joined."""
        try:
            with self._path.open("rb") as file:
                if file.seek(0, os.SEEK_END) == 0:
                    return False
                file.seek(-1, os.SEEK_END)
                return file.read(1) != b"\n"
        except OSError:
            return False


def _line(receipt: Receipt) -> str:
    return json.dumps(asdict(receipt), ensure_ascii=False) + "\n"


def _receipt(line: str) -> Receipt | None:
    try:
        document = json.loads(line)
        return Receipt(**{name: _of_kind(document[name], kind) for name, kind in _KINDS.items()})
    except (ValueError, TypeError, KeyError):
        return None


def _of_kind(value: Any, kind: type) -> Any:
    if kind is str:
        if not isinstance(value, str):
            raise TypeError(value)
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(value)
    return kind(value)


_KINDS: dict[str, type] = {each.name: get_type_hints(Receipt)[each.name] for each in fields(Receipt)}
