"""Records as the gateway sends them, and a store on a disk that fills up."""

import contextlib
import itertools
import time

from services.kit.records import RecordBatch, RequestRecord
from services.tracking.connecting import connect
from services.tracking.store import Store

_numbers = itertools.count(1)
AT = 1_795_000_000.0
"""2026-11-18 in UTC."""


def record(**fields):
    values = {
        "id": f"req-{next(_numbers)}",
        "at": AT,
        "key": "default",
        "model": "smollm2",
        "operation": "chat",
        "stream": False,
        "status": 200,
        "seconds": 2.0,
        "backend": "engines",
        "prompt_tokens": 100,
        "completion_tokens": 50,
    }
    return RequestRecord(**{**values, **fields})


def batch(*records, dropped=0):
    return RecordBatch(records=list(records), dropped=dropped)


def until(condition, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.002)


@contextlib.contextmanager
def opened_store(folder, *args, **kwargs):
    store = Store(folder, *args, **kwargs)
    store.start()
    try:
        yield store
    finally:
        store.stop()


def stored(store, *records, **kwargs):
    store.add(batch(*records, **kwargs))
    until(lambda: not store.waiting)


class SmallDisk:
    """Opens the file with room for some pages more than it has; `room` is how many, None: enough."""

    def __init__(self, room=None):
        self.room = room

    def __call__(self, path, busy_s):
        connection = connect(path, busy_s)
        if self.room is not None:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages + self.room}")
        return connection
