"""Records that are kept, whatever the disk does, and a sender that never waits."""

import asyncio
import signal
import sqlite3
import sys
import time

import pytest

from services.tracking.connecting import connect
from services.tracking.given import StoreOptions, StoreUnavailable
from services.tracking.requests import Vectors
from services.tracking.schema import MIGRATIONS
from services.tracking.store import Store
from services.tracking.tests.samples import AT, SmallDisk, batch, opened_store, record, stored, until
from tests.testkit.server import run_process


def count(store, table="requests"):
    return store.read(lambda connection: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def costs(store):
    rows = store.read(lambda connection: connection.execute("SELECT * FROM costs ORDER BY day, key, model").fetchall())
    return [dict(row) for row in rows]


def test_what_is_added_is_stored_and_summed(tmp_path):
    with opened_store(tmp_path) as store:
        stored(store, record(id="a", key="ada", first_token_s=0.5, held_s=0.5), record(id="b", key="ada", status=502))

        (row,) = costs(store)
        assert (row["requests"], row["failed"], row["prompt_tokens"], row["completion_tokens"]) == (2, 1, 200, 100)
        assert row["seconds"] == pytest.approx(3.5)
        assert count(store) == 2
        assert store.state == "ok"


def test_a_batch_that_is_sent_again_adds_nothing(tmp_path):
    with opened_store(tmp_path) as store:
        same = [record(), record()]
        stored(store, *same)
        stored(store, *same)

        assert count(store) == 2
        assert store.counts.repeated == 2
        assert costs(store)[0]["requests"] == 2


def test_one_id_may_be_that_of_several_requests(tmp_path):
    with opened_store(tmp_path) as store:
        stored(store, record(id="same", at=AT), record(id="same", at=AT + 0.001, hops=1))

        assert count(store) == 2


def test_inner_requests_are_not_billed_twice(tmp_path):
    outer = record(id="x", at=AT, model="rag/handbook", billed=False, seconds=3.0)
    inner = record(id="x", at=AT + 0.1, model="smollm2", hops=1, seconds=2.5)
    with opened_store(tmp_path) as store:
        stored(store, outer, inner)

        rows = {row["model"]: row for row in costs(store)}
        assert sum(row["prompt_tokens"] for row in rows.values()) == 100
        assert sum(row["seconds"] for row in rows.values()) == pytest.approx(2.5)
        assert (rows["rag/handbook"]["requests"], rows["rag/handbook"]["inner_requests"]) == (1, 0)
        assert (rows["smollm2"]["requests"], rows["smollm2"]["inner_requests"]) == (0, 1)


def test_made_up_model_names_do_not_grow_the_sums(tmp_path):
    made_up = [record(model=f"no-such-{number}", status=404, backend="", prompt_tokens=0) for number in range(50)]
    with opened_store(tmp_path) as store:
        stored(store, *made_up)

        assert [row["model"] for row in costs(store)] == ["(none)"]


def test_users_are_kept_as_digests_alone(tmp_path):
    with opened_store(tmp_path) as store:
        stored(store, record(user="ada@example.com"), record(user="ada@example.com"), record(user="grace"))

        users = store.read(lambda connection: [row[0] for row in connection.execute("SELECT user FROM requests")])
        assert users[0] == users[1] != users[2]
    assert b"ada@example" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_a_full_queue_drops_and_counts(tmp_path):
    store = Store(tmp_path, StoreOptions(queue_records=3))  # its writer is not started: nothing leaves the queue

    assert store.add(batch(record(), record())) == 0
    assert store.add(batch(record(), record(), dropped=7)) == 1
    assert store.add(batch(record())) == 1
    assert (store.counts.queue_full, store.counts.sender_dropped, store.waiting) == (2, 7, 3)


def test_adding_takes_no_time_while_the_disk_is_full_and_all_is_stored_when_there_is_room(tmp_path):
    disk = SmallDisk()
    with opened_store(tmp_path, StoreOptions(busy_s=0.05), opened=disk) as store:
        stored(store, record())
        store.stop()
    disk.room = 1
    with opened_store(tmp_path, StoreOptions(busy_s=0.05), opened=disk) as store:
        many = [record(id=f"{'x' * 200}-{number}") for number in range(500)]
        started = time.perf_counter()
        store.add(batch(*many))
        assert time.perf_counter() - started < 0.05
        until(lambda: "the disk is full" in store.state)
        assert store.waiting == 500
        with pytest.raises(StoreUnavailable, match="disk is full"):
            store.write(lambda connection: connection.execute("SELECT 1")).result(1)
        assert count(store) == 1

        disk.room = None
        until(lambda: store.state == "ok" and not store.waiting)
        assert count(store) == 501
        assert costs(store)[0]["requests"] == 501


def test_a_locked_file_is_waited_for_and_said(tmp_path):
    with opened_store(tmp_path, StoreOptions(busy_s=0.02)) as store:
        stored(store, record())
        other = sqlite3.connect(store.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        store.add(batch(record()))
        until(lambda: "locked by another process" in store.state)
        assert count(store) == 1

        other.execute("ROLLBACK")
        other.close()
        until(lambda: store.state == "ok" and not store.waiting)
        assert count(store) == 2


def test_a_damaged_file_is_said_and_left_as_it_is(tmp_path):
    (tmp_path / "records.db").write_bytes(b"this is no database" * 100)
    with opened_store(tmp_path) as store:
        store.add(batch(record()))
        until(lambda: "damaged" in store.state)
        assert store.waiting == 1
    assert (tmp_path / "records.db").read_bytes().startswith(b"this is no database")


def test_a_folder_that_cannot_be_made_is_said_and_the_service_goes_on(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with opened_store(tmp_path / "file" / "tracking") as store:
        until(lambda: store.counts.failures)
        assert "Not a directory" in store.state
        assert store.add(batch(record())) == 0


def test_tables_of_a_later_version_are_not_touched(tmp_path):
    connect(tmp_path / "records.db", 1.0).close()
    other = sqlite3.connect(tmp_path / "records.db")
    other.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    other.close()
    with opened_store(tmp_path) as store:
        until(lambda: store.counts.failures)
        assert "SPARKSTACK_STATE" in store.state


@pytest.mark.parametrize("fields", [{"prompt_tokens": 2**70}, {"at": -1.0}, {"seconds": float("inf")}, {"id": ""}])
def test_a_record_that_cannot_be_is_counted_and_the_others_are_stored(tmp_path, fields):
    with opened_store(tmp_path) as store:
        stored(store, record(), record(**fields), record())

        assert (count(store), store.counts.invalid) == (2, 1)


def test_a_value_that_the_file_refuses_costs_its_own_record_alone(tmp_path):
    with opened_store(tmp_path) as store:
        stored(store, *(record() for _ in range(5)), record(error="\ud800"), record())

        assert (count(store), store.counts.invalid, store.state) == (6, 1, "ok")


def test_what_waits_is_written_when_the_service_stops(tmp_path):
    store = Store(tmp_path)
    store.add(batch(*(record() for _ in range(3000))))
    store.start()
    store.stop(30.0)

    assert count(store) == 3000


def test_the_next_start_goes_on_where_the_last_one_ended(tmp_path):
    with opened_store(tmp_path) as store:
        stored(store, record(user="ada"))
        digest = store.identities.user("ada")
    with opened_store(tmp_path) as store:
        stored(store, record(user="ada"))

        assert count(store) == 2
        assert store.identities.user("ada") == digest


_WRITER = """
import itertools, sys
from pathlib import Path
from services.tracking.store import Store
from services.tracking.tests.samples import batch, record

store = Store(Path(sys.argv[1]))
store.start()
for number in itertools.count():
    while store.waiting > 5000:
        pass
    store.add(batch(*(record(key=f"k{number % 3}") for _ in range(100))))
    print(store.counts.stored, flush=True)
"""


async def test_a_killed_service_leaves_sums_that_fit_the_records(tmp_path):
    async with run_process([sys.executable, "-c", _WRITER, str(tmp_path)], ready=r"^[1-9]\d{3,}$") as child:
        child.send_signal(signal.SIGKILL)
        await child.wait()
    kept, summed = await asyncio.to_thread(_kept_and_summed, tmp_path)

    assert kept >= 1000
    assert summed == (kept, 50 * kept)


def _kept_and_summed(folder):
    with opened_store(folder) as store:
        until(lambda: store.state == "ok")
        rows = costs(store)
        return count(store), (sum(row["requests"] for row in rows), sum(row["completion_tokens"] for row in rows))


# --- samples


def measured(sample):
    return {"prompt_characters": len(sample.prompt or "")}


def test_samples_carry_their_features_and_no_text(tmp_path):
    with opened_store(tmp_path, measure=measured) as store:
        stored(store, record(), record(id="s", sampled=True, prompt="write to ada@example.com", answer="done"))

        (sample,) = store.sampled(0, 10)
        assert sample.record.id == "s"
        assert (sample.record.prompt, dict(sample.features)) == (None, {"prompt_characters": 24})
        assert store.sampled(sample.seq, 10) == []
        assert count(store, "texts") == 0
    assert b"ada@example" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_texts_are_given_out_once_and_masked(tmp_path):
    with opened_store(tmp_path) as store:
        stored(store, record(sampled=True, prompt="write to ada@example.com", answer="card 4111 1111 1111 1111"))

        (text,) = store.take_texts(10)
        assert (text.prompt, text.answer) == ("write to [EMAIL]", "card [CARD]")
        assert store.take_texts(10) == []


def test_texts_are_kept_masked_where_that_is_switched_on(tmp_path):
    with opened_store(tmp_path, StoreOptions(store_text=True)) as store:
        stored(store, record(sampled=True, prompt="write to ada@example.com", answer="done"))

        row = store.read(lambda connection: connection.execute("SELECT prompt, answer FROM texts").fetchone())
        assert tuple(row) == ("write to [EMAIL]", "done")


def test_vectors_and_features_are_added_later(tmp_path):
    with opened_store(tmp_path, measure=measured) as store:
        stored(store, record(sampled=True, prompt="hello"))
        seq = store.sampled(0, 1)[0].seq
        store.put_vectors([Vectors(seq, b"\x00\x00\x80\x3f"), Vectors(seq + 1000, b"gone")]).result(5)
        store.put_features({seq: {"language": "en"}}).result(5)

        (sample,) = store.sampled(0, 1)
        assert (sample.prompt_vector, sample.answer_vector) == (b"\x00\x00\x80\x3f", b"")
        assert dict(sample.features) == {"prompt_characters": 5, "language": "en"}
        assert count(store, "vectors") == 1


def test_a_text_that_cannot_be_measured_is_stored_without_features(tmp_path):
    def broken(_record):
        raise RuntimeError("no")

    with opened_store(tmp_path, measure=broken) as store:
        stored(store, record(sampled=True, prompt="hello"))

        assert dict(store.sampled(0, 1)[0].features) == {}


def test_a_task_of_its_own_mistake_stops_nothing(tmp_path):
    with opened_store(tmp_path) as store:
        with pytest.raises(sqlite3.OperationalError):
            store.write(lambda connection: connection.execute("SELECT nonsense FROM nowhere")).result(5)
        stored(store, record())

        assert store.state == "ok"
