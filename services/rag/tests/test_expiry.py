"""What expires goes by itself: collections that nobody uses, and files."""

import time

import pytest

from services.kit.errors import InvalidRequest
from services.rag.ingesting.desk import check_live
from services.rag.ingesting.files import Files
from services.rag.ingesting.keeping import Keeper
from services.rag.ports import Caller
from services.rag.tests.bench import Bench
from services.rag.tests.fakes import FakeEmbedder, MemoryStore, WordReaders
from tests.testkit.server import eventually


@pytest.fixture
async def bench(tmp_path):
    bench = Bench(tmp_path, MemoryStore(), FakeEmbedder(), WordReaders())
    await bench.open()
    yield bench
    await bench.close()


def keeper_at(bench, days):
    return Keeper(
        registry=bench.registry,
        database=bench.database,
        content=bench.content,
        store=bench.store,
        pipeline=bench.pipeline,
        now=lambda: time.time() + days * 86_400,
    )


async def test_a_collection_that_nobody_used_expires_with_its_documents(bench):
    record = await bench.collection()
    await bench.registry.change(record.collection.id, {"expires_days": 2})
    await bench.done(record, (await bench.send(record, {"a.md": "some words"}))[0])

    await keeper_at(bench, 1).sweep()
    assert (await bench.registry.record("handbook")).state == "live"
    await keeper_at(bench, 3).sweep()

    expired = await bench.registry.record("handbook")
    assert expired.state == "expired"
    with pytest.raises(InvalidRequest, match="expired"):
        check_live(expired)
    await eventually(lambda: bench.store.points[record.collection.id] == {})
    await bench.idle()
    assert await bench.rows(record) == []


async def test_a_file_that_expires_goes_with_its_content(bench):
    files = Files(bench.database, bench.content, bench.desk)
    received = bench.received("a.md", "some words", {})
    kept = await files.add(
        Caller("ada"),
        filename="a.md",
        purpose="assistants",
        uploaded=received.uploaded,
        content=received.hash,
        size=received.bytes,
        expires_s=3600,
    )
    assert files.path(kept).exists()

    await keeper_at(bench, 1).sweep()

    assert not files.path(kept).exists()
