"""What is in the store is what was sent: once, in its last version, whatever happens in between."""

import asyncio
import contextlib

import pytest

from services.rag.ingesting.database import DatabaseInUse
from services.rag.library import ChunkOptions
from services.rag.ports import Caller
from services.rag.tests.bench import Bench
from services.rag.tests.fakes import FakeEmbedder, MemoryStore, WordReaders
from tests.testkit.server import eventually


def text(seed: int, words: int = 50) -> str:
    return " ".join(f"word{seed}x{number}" for number in range(words))


@contextlib.asynccontextmanager
async def running(folder, store=None, embedder=None, readers=None):
    bench = Bench(folder, store or MemoryStore(), embedder or FakeEmbedder(), readers or WordReaders())
    await bench.open()
    try:
        yield bench
    finally:
        await bench.close()


@pytest.fixture
async def bench(tmp_path):
    async with running(tmp_path) as bench:
        yield bench


async def test_what_is_sent_is_searchable_when_its_job_is_done(bench):
    record = await bench.collection()
    job, _ = await bench.send(record, {f"guide/{number}.md": text(number) for number in range(30)})

    done = await bench.done(record, job)

    assert (done.completed, done.failed, done.chunks, done.status) == (30, 0, 90, "completed")
    assert await bench.store.count(record.collection.id) == 90
    await bench.check_exact(record)
    assert (await bench.registry.collection("handbook")).revision >= 1
    assert [each.name for each in await bench.registry.searchable()] == ["handbook"]


async def test_batches_are_filled_across_documents(bench):
    record = await bench.collection()
    bench.embedder.gate.clear()
    job, _ = await bench.send(record, {f"{number}.md": text(number, 20) for number in range(40)})
    await eventually(lambda: len(bench.readers.read_names) == 40)
    bench.embedder.gate.set()

    await bench.done(record, job)

    sizes = [len(batch) for batch in bench.embedder.batches]
    assert sum(sizes) == 40
    assert len(sizes) <= 8, f"40 documents of one chunk in batches of 8: {sizes}"


async def test_the_same_content_again_does_nothing(bench):
    record = await bench.collection()
    files = {"a.md": text(1), "b.md": text(2)}
    await bench.done(record, (await bench.send(record, files))[0])
    before, revision = len(bench.embedder.batches), (await bench.registry.collection("handbook")).revision

    job, accepted = await bench.send(record, files)

    assert accepted.unchanged == 2
    assert (await bench.job(record, job)).unchanged == 2
    assert (await bench.job(record, job)).status == "completed"
    assert len(bench.embedder.batches) == before
    assert (await bench.registry.collection("handbook")).revision == revision


async def test_new_content_replaces_the_old_exactly(bench):
    record = await bench.collection()
    await bench.done(record, (await bench.send(record, {"a.md": text(1, 200), "b.md": text(2)}))[0])

    await bench.done(record, (await bench.send(record, {"a.md": text(3, 30)}))[0])

    await bench.check_exact(record)
    assert await bench.store.count(record.collection.id) == 2 + 3
    texts = [point.payload["text"] for point in bench.store.points[record.collection.id].values()]
    assert not [each for each in texts if "word1x" in each]


async def test_what_is_there_stays_where_nothing_is_to_be_replaced(bench):
    record = await bench.collection()
    await bench.done(record, (await bench.send(record, {"a.md": text(1)}))[0])

    job, _ = await bench.send(record, {"a.md": text(2), "b.md": text(3)}, replace=False)

    done = await bench.done(record, job)
    assert (done.unchanged, done.completed) == (1, 1)
    assert {row.name for row in await bench.rows(record)} == {"a.md", "b.md"}
    texts = " ".join(point.payload["text"] for point in bench.store.points[record.collection.id].values())
    assert "word2x" not in texts


async def test_other_attributes_are_on_every_point(bench):
    record = await bench.collection()
    await bench.done(record, (await bench.send(record, {"a.md": text(1)}, attributes={"year": 2024}))[0])

    await bench.done(record, (await bench.send(record, {"a.md": text(1)}, attributes={"year": 2025}))[0])

    points = bench.store.points[record.collection.id].values()
    assert {point.payload["attributes"]["year"] for point in points} == {2025}
    await bench.check_exact(record)


async def test_a_file_that_cannot_be_read_is_told_of_and_the_others_go_on(bench):
    record = await bench.collection()
    bench.embedder.refuses = "word4x"
    files = {"good.md": text(1), "bad.md": "!", "empty.md": " ", "long.md": text(4)}
    job, _ = await bench.send(record, files)

    done = await bench.done(record, job)

    assert {(error.name, error.code) for error in done.errors} == {
        ("bad.md", "damaged"),
        ("empty.md", "empty"),
        ("long.md", "refused"),
    }
    assert "save it again" in next(error.message for error in done.errors if error.name == "bad.md")
    assert done.completed == 1
    await bench.check_exact(record)


async def test_a_new_version_that_cannot_be_read_leaves_the_old_one(bench):
    record = await bench.collection()
    await bench.done(record, (await bench.send(record, {"a.md": text(1)}))[0])

    job, _ = await bench.send(record, {"a.md": "!"})

    done = await bench.done(record, job)
    assert done.failed == 1
    assert "stays searchable" in done.errors[0].message
    await bench.check_exact(record)
    assert await bench.store.count(record.collection.id) == 3


async def test_a_document_that_is_deleted_during_its_ingest_is_gone(bench):
    record = await bench.collection()
    bench.embedder.gate.clear()
    await bench.send(record, {f"{number}.md": text(number, 400) for number in range(4)})
    await eventually(lambda: bench.pipeline.busy_documents)
    first = (await bench.rows(record))[0]

    removing = asyncio.create_task(bench.desk.remove(record.collection, [first.id]))
    await eventually(lambda: bench.pipeline.written(record.collection.id, [first.id]) == 0)
    bench.embedder.gate.set()
    await removing

    assert first.name not in bench.store.documents(record.collection.id)
    await bench.idle()
    await bench.check_exact(record)
    assert first.name not in {row.name for row in await bench.rows(record)}
    assert not bench.content.path(first.hash).exists()


async def test_content_that_is_replaced_during_its_ingest_leaves_nothing(bench):
    record = await bench.collection()
    bench.embedder.gate.clear()
    first, _ = await bench.send(record, {"a.md": text(1, 500)})
    await eventually(lambda: bench.readers.read_names)
    second, _ = await bench.send(record, {"a.md": text(2, 30)})
    bench.embedder.gate.set()

    assert (await bench.done(record, second)).completed == 1
    assert (await bench.done(record, first)).status == "completed"
    await bench.idle()
    await bench.check_exact(record)
    assert await bench.store.count(record.collection.id) == 2


async def test_a_document_that_is_deleted_and_sent_again_is_there_once(bench):
    record = await bench.collection()
    await bench.done(record, (await bench.send(record, {"a.md": text(1)}))[0])
    row = (await bench.rows(record))[0]

    bench.store.down = "the store is away"
    removing = asyncio.create_task(bench.desk.remove(record.collection, [row.id]))
    await eventually(lambda: bench.pipeline.patience.waiting_for)
    job, _ = await bench.send(record, {"a.md": text(1)})
    bench.store.down = ""
    await removing
    await bench.done(record, job)

    await bench.idle()
    await bench.check_exact(record)
    assert await bench.store.count(record.collection.id) == 3


async def test_a_cancelled_job_leaves_what_was_there_before(bench):
    record = await bench.collection()
    await bench.done(record, (await bench.send(record, {"a.md": text(1)}))[0])
    bench.embedder.gate.clear()
    job, _ = await bench.send(record, {"a.md": text(2, 200), "b.md": text(3, 200)})
    await eventually(lambda: len(bench.readers.read_names) == 3)

    cancelled = await bench.desk.cancel_job(record.collection, Caller("ada"), job)
    bench.embedder.gate.set()

    assert cancelled.status == "cancelled"
    assert cancelled.stopped == 2
    await bench.idle()
    await bench.check_exact(record)
    assert bench.store.documents(record.collection.id).keys() == {"a.md"}
    assert {row.name: row.status for row in await bench.rows(record)} == {"a.md": "cancelled", "b.md": "cancelled"}


async def test_a_job_that_syncs_removes_what_is_no_longer_in_the_folder(bench):
    record = await bench.collection()
    files = {"docs/a.md": text(1), "docs/b.md": text(2), "other/c.md": text(3)}
    await bench.done(record, (await bench.send(record, files))[0])

    job, _ = await bench.send(record, {"docs/a.md": text(1)}, sync=True, prefix="docs/")

    assert (await bench.done(record, job)).deleted == 1
    await eventually(lambda: bench.store.documents(record.collection.id).keys() == {"docs/a.md", "other/c.md"})
    assert {row.name for row in await bench.rows(record)} == {"docs/a.md", "other/c.md"}


async def test_while_embeddings_are_down_the_job_waits_and_says_for_what(bench):
    record = await bench.collection()
    bench.embedder.down = "the embeddings service does not answer"
    job, _ = await bench.send(record, {"a.md": text(1)})

    await eventually(lambda: bench.pipeline.patience.waiting_for)
    assert bench.pipeline.patience.waiting_for == "the embeddings service does not answer"
    assert (await bench.job(record, job)).in_progress == 1
    bench.embedder.down = ""

    assert (await bench.done(record, job)).completed == 1
    assert bench.pipeline.patience.waiting_for == ""


async def test_while_the_store_is_down_nothing_is_lost(bench):
    record = await bench.collection()
    bench.store.down = "the store is away"
    job, _ = await bench.send(record, {f"{number}.md": text(number) for number in range(20)})
    await eventually(lambda: bench.pipeline.patience.waiting_for)
    bench.store.down = ""

    assert (await bench.done(record, job)).completed == 20
    await bench.check_exact(record)


async def test_a_restart_goes_on_where_the_last_process_stopped(tmp_path):
    store, embedder = MemoryStore(), FakeEmbedder()
    files = {f"{number}.md": text(number) for number in range(60)}
    async with running(tmp_path, store, embedder) as bench:
        record = await bench.collection()
        job, _ = await bench.send(record, files)
        await eventually(lambda: len(store.points[record.collection.id]) > 20)

    async with running(tmp_path, store, embedder) as bench:
        assert (await bench.done(record, job)).completed == 60
        await bench.check_exact(record)
        assert await store.count(record.collection.id) == 180


async def test_points_that_the_store_has_lost_are_made_again(tmp_path):
    async with running(tmp_path) as bench:
        record = await bench.collection()
        await bench.done(record, (await bench.send(record, {"a.md": text(1), "b.md": text(2)}))[0])

    async with running(tmp_path, MemoryStore()) as bench:
        await eventually(lambda: len(bench.store.points.get(record.collection.id, ())) == 6)
        await bench.idle()
        await bench.check_exact(record)


async def test_two_services_do_not_work_on_one_state(tmp_path):
    async with running(tmp_path) as bench:
        second = Bench(tmp_path, bench.store, bench.embedder, bench.readers)
        with pytest.raises(DatabaseInUse, match="SPARKSTACK_STATE"):
            await second.database.open()


async def test_a_collection_that_is_dropped_during_its_ingest_leaves_nothing(bench):
    record = await bench.collection()
    bench.embedder.gate.clear()
    await bench.send(record, {f"{number}.md": text(number, 300) for number in range(10)})
    await eventually(lambda: bench.pipeline.busy_documents >= 4)

    dropping = asyncio.create_task(bench.keeper.drop(record))
    await asyncio.sleep(0)
    bench.embedder.gate.set()
    await dropping

    assert bench.store.points == {}
    assert await bench.registry.collections() == []
    left = [path for path in bench.content.incoming.parent.rglob("*") if path.is_file()]
    assert left == []
    again = await bench.collection()
    assert again.collection.name == "handbook"


async def test_another_way_of_cutting_cuts_everything_anew(bench):
    record = await bench.collection()
    await bench.done(record, (await bench.send(record, {"a.md": text(1, 40), "b.md": text(2, 40)}))[0])
    changed = await bench.registry.change(record.collection.id, {"chunking": ChunkOptions("fixed", 10, 0)})
    job = await bench.desk.recut(changed, Caller("ada"))

    assert (await bench.done(record, job)).completed == 2
    assert await bench.store.count(record.collection.id) == 8
    await bench.check_exact(record)


async def test_in_a_private_collection_the_same_name_of_two_callers_is_two_documents(bench):
    ada, ben = Caller("ada"), Caller("ben")
    record = await bench.collection(visibility="private")
    await bench.done(record, (await bench.send(record, {"a.md": text(1)}, caller=ada))[0], ada)
    await bench.done(record, (await bench.send(record, {"a.md": text(2, 20)}, caller=ben))[0], ben)

    assert [row.chunks for row in await bench.rows(record, ada)] == [3]
    assert [row.chunks for row in await bench.rows(record, ben)] == [1]
    await bench.check_exact(record)
