"""The engine in a process of its own: what a kill leaves, who may have the folder, what damage and copies do."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from services.rag.vectors import CollectionSpec, Point, SparseVector, VectorQuery, VectorStoreError
from services.rag.vectors.edge import EdgeVectorStore
from services.rag.vectors.filters import eq
from tests.conformance.vector_stores.writing_until_killed import BATCH, batch

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
DIMENSIONS = 32


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EdgeVectorStore]:
    found = EdgeVectorStore(tmp_path / "vectors", exact_bytes=10_000)
    yield found
    await found.close()


def points(count: int, first: int = 0) -> list[Point]:
    return [point for number in range(first // BATCH, (first + count) // BATCH) for point in batch(number)]


def hosts() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [each for each in children if "services.rag.vectors.edge_host" in each.cmdline()]


async def written_until_killed(folder: Path, first: int, batches: int) -> int:
    """Let a process write so many batches, kill it in the midst of the next; return how many it said to be safe."""
    module = "tests.conformance.vector_stores.writing_until_killed"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, str(folder), str(first), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    safe = first
    while safe < first + batches:
        safe = int(await process.stdout.readline())
    process.kill()
    rest = (await process.stdout.read()).split()
    await process.wait()
    return int(rest[-1]) if rest else safe


async def test_whatever_was_answered_survives_kills_and_is_there_once(tmp_path: Path) -> None:
    safe = 0
    for batches in (1, 7, 30, 90):
        safe = await written_until_killed(tmp_path / "vectors", safe, batches)
        store = EdgeVectorStore(tmp_path / "vectors")
        there = await store.fetch("killed", eq("tenant", "one"), limit=100_000)
        names = [hit.id for hit in there]
        assert len(set(names)) == len(names) == await store.count("killed")
        assert {point.id for number in range(safe) for point in batch(number)} <= set(names)
        # Of the batch that was being written all points are there, or none.
        assert len(names) in (safe * BATCH, (safe + 1) * BATCH)
        await store.upsert("killed", batch(safe))
        assert await store.count("killed") == (safe + 1) * BATCH
        (hit,) = await store.search("killed", VectorQuery(batch(safe - 1)[3].dense, limit=1))
        assert hit.id == batch(safe - 1)[3].id
        await store.close()


async def test_a_killed_engine_is_a_clear_error_and_the_next_request_starts_it_again(store: EdgeVectorStore) -> None:
    await store.create("c", CollectionSpec(DIMENSIONS))
    await store.upsert("c", points(64))
    (host,) = hosts()
    host.suspend()
    asked = asyncio.create_task(store.count("c"))
    await asyncio.sleep(0)  # the request is on its way
    host.kill()
    with pytest.raises(VectorStoreError, match=r"ended .* starts again"):
        await asked
    assert await store.count("c") == 64
    assert hosts() != [host]


async def test_a_second_store_on_the_same_folder_is_refused(store: EdgeVectorStore, tmp_path: Path) -> None:
    assert await store.ready() == "ok"
    second = EdgeVectorStore(tmp_path / "vectors")
    assert "open in another process: stop that one, set SPARKSTACK_STATE" in await second.ready()
    await second.close()
    assert await store.collections() == []


async def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "vectors").write_text("a file")
    store = EdgeVectorStore(tmp_path / "vectors")
    assert "can't be written" in await store.ready()
    await store.close()


async def test_a_closed_store_ends_its_process_and_says_so(store: EdgeVectorStore) -> None:
    await store.create("c", CollectionSpec(DIMENSIONS))
    (host,) = hosts()
    await store.close()
    assert not host.is_running()
    with pytest.raises(VectorStoreError, match="closed"):
        await store.count("c")


async def test_an_interrupt_of_the_whole_group_does_not_end_the_engine(store: EdgeVectorStore) -> None:
    await store.create("c", CollectionSpec(DIMENSIONS))
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(hosts()[0].pid, number)
    await store.upsert("c", points(16))
    assert await store.count("c") == 16


@pytest.mark.parametrize("what", ["current.json", "segments", "shard"])
async def test_a_damaged_collection_is_named_and_the_others_go_on(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "vectors"
    store = EdgeVectorStore(folder)
    for name in ("good", "bad"):
        await store.create(name, CollectionSpec(DIMENSIONS))
        await store.upsert(name, points(16))
    await store.close()
    damage(folder / "bad", what)
    store = EdgeVectorStore(folder)
    with pytest.raises(VectorStoreError, match=r"'bad'.*damaged.*ingest"):
        await store.count("bad")
    assert await store.count("good") == 16
    await store.drop("bad")
    await store.create("bad", CollectionSpec(DIMENSIONS))
    assert await store.count("bad") == 0
    await store.close()


def damage(collection: Path, what: str) -> None:
    if what == "current.json":
        (collection / what).write_text("{")
    elif what == "segments":
        for path in (collection / "1" / "segments").rglob("segment.json"):
            path.write_text("nonsense")
    else:
        (collection / "1").rename(collection.parent / "elsewhere")


async def test_a_collection_that_was_not_made_to_the_end_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "vectors" / "half" / "1" / "segments").mkdir(parents=True)
    store = EdgeVectorStore(tmp_path / "vectors")
    assert await store.collections() == []
    await store.create("half", CollectionSpec(DIMENSIONS))
    assert await store.count("half") == 0
    await store.close()


def shard_files(folder: Path) -> set[str]:
    return {path.name for path in (folder / "vectors" / "c").rglob("*") if path.is_file()}


@pytest.mark.parametrize("quantization", ["none", "scalar", "binary"])
async def test_optimizing_builds_graph_and_quantized_vectors_and_finds_nearly_all(
    store: EdgeVectorStore, tmp_path: Path, quantization: Any
) -> None:
    dice = np.random.default_rng(3)
    centres = dice.normal(size=(20, DIMENSIONS))
    dense = (centres[dice.integers(20, size=1500)] + 0.4 * dice.normal(size=(1500, DIMENSIONS))).astype(np.float32)
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    none = SparseVector(np.zeros(0, np.uint32), np.zeros(0, np.float32))
    await store.create("c", CollectionSpec(DIMENSIONS, quantization))
    await store.upsert("c", [Point(point_name(i), dense[i], none, {"tenant": "one"}) for i in range(1500)])
    assert not any(name.startswith("links") for name in shard_files(tmp_path))
    await store.optimize("c")
    assert any(name.startswith("links") for name in shard_files(tmp_path))
    assert any("quantized" in name for name in shard_files(tmp_path)) == (quantization != "none")
    found = 0
    for asked in dense[:40]:
        near = {hit.id for hit in await store.search("c", VectorQuery(asked))}
        hits = await store.search("c", VectorQuery(asked, exact=True))
        assert hits[0].score == pytest.approx(1, abs=1e-5)
        found += len(near & {hit.id for hit in hits})
    # One bit for each of 32 dimensions is little to go by.
    assert found / 400 >= (0.7 if quantization == "binary" else 0.95)


def point_name(number: int) -> str:
    return f"00000000-0000-0000-0000-{number:012d}"


async def test_writes_during_optimizing_are_kept_and_searches_go_on(store: EdgeVectorStore, tmp_path: Path) -> None:
    await store.create("c", CollectionSpec(DIMENSIONS))
    await store.upsert("c", points(640))
    optimizing = asyncio.create_task(store.optimize("c"))
    written = 640
    while not optimizing.done():
        if written < 3200:  # after very many writes the copy would be given up
            await store.upsert("c", points(16, written))
            written += 16
            await store.delete("c", eq("document_id", f"document-{written // BATCH - 2}"))
        assert len(await store.search("c", VectorQuery(points(16)[0].dense, limit=5))) == 5
    await optimizing
    assert written > 640
    assert await store.count("c") == 640
    assert await store.count("c", eq("document_id", f"document-{written // BATCH - 1}")) == BATCH
    (generation,) = [path.name for path in (tmp_path / "vectors" / "c").iterdir() if path.is_dir()]
    assert generation == "2"


async def test_many_writes_are_optimized_after_a_pause_without_being_asked(tmp_path: Path) -> None:
    store = EdgeVectorStore(tmp_path / "vectors", quiet_s=0, exact_bytes=10_000)
    await store.create("c", CollectionSpec(DIMENSIONS))
    await store.upsert("c", points(1600))
    while "2" not in [path.name for path in (tmp_path / "vectors" / "c").iterdir()]:
        assert await store.count("c") == 1600
    await store.close()


async def test_closing_gives_up_optimizing_and_loses_nothing(tmp_path: Path) -> None:
    store = EdgeVectorStore(tmp_path / "vectors", exact_bytes=10_000)
    await store.create("c", CollectionSpec(DIMENSIONS))
    await store.upsert("c", points(1600))
    optimizing = asyncio.create_task(store.optimize("c"))
    await asyncio.sleep(0)
    await store.close()
    assert optimizing.done() or optimizing.cancelled() or await _ended(optimizing)
    store = EdgeVectorStore(tmp_path / "vectors")
    assert await store.count("c") == 1600
    await store.close()


async def _ended(task: "asyncio.Task[None]") -> bool:
    await asyncio.wait([task], timeout=10)
    return task.done()
