"""OpenAI's own client against the RAG service: files, vector stores, their files and batches, search."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

import openai
import pytest

from services.rag.app import create_app
from services.rag.settings import RagSettings
from services.rag.tests.fakes import FakeEmbedder, MemoryStore, WordReaders, fake_parts
from tests.testkit.server import in_thread, running

KEY = "sk-rag-contract-tests"


class Rag:
    """A RAG service over fakes: real HTTP, real registry, real pipeline."""

    def __init__(self, url: str, store: MemoryStore, embedder: FakeEmbedder, readers: WordReaders) -> None:
        self.url = url
        self.store = store
        self.embedder = embedder
        self.readers = readers


@contextlib.asynccontextmanager
async def running_rag(folder) -> AsyncIterator[Rag]:
    store, embedder, readers = MemoryStore(), FakeEmbedder(), WordReaders()
    settings = RagSettings(state=folder, api_key=KEY, ingest_batch=8, max_file_mb=1, preset="fast")
    async with running(create_app(settings, fake_parts(store, embedder, readers))) as url:
        yield Rag(url, store, embedder, readers)


@pytest.fixture(scope="module")
def rag(tmp_path_factory) -> Iterator[Rag]:
    with in_thread(running_rag(tmp_path_factory.mktemp("rag"))) as rag:
        yield rag


@pytest.fixture
def client(rag) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{rag.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def upload(client, name="guide.md", text="The pump is cleaned every Monday morning.", **more):
    return client.files.create(file=(name, text.encode()), purpose="assistants", **more)


def counts(store):
    found = store.file_counts
    return (found.in_progress, found.completed, found.failed, found.cancelled, found.total)


def settled(client, store_id, timeout_s=10.0):
    """Return a store when nothing of it is in progress."""
    deadline = time.monotonic() + timeout_s
    while (store := client.vector_stores.retrieve(store_id)).file_counts.in_progress:
        assert time.monotonic() < deadline, store.file_counts
        time.sleep(0.02)
    return store


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_file_is_kept_byte_for_byte(client):
    data = bytes(range(256)) * 3000
    file = client.files.create(file=("folder/raw.bin", data), purpose="user_data")

    assert file.object == "file"
    assert (file.filename, file.bytes, file.purpose, file.status) == (
        "folder/raw.bin",
        len(data),
        "user_data",
        "processed",
    )
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == data
    assert client.files.delete(file.id).deleted is True
    with pytest.raises(openai.NotFoundError, match=file.id):
        client.files.retrieve(file.id)


def test_a_file_that_expires_says_when(client):
    file = upload(client, expires_after={"anchor": "created_at", "seconds": 3600})
    assert file.expires_at == file.created_at + 3600
    with pytest.raises(openai.BadRequestError, match="3,600"):
        upload(client, expires_after={"anchor": "created_at", "seconds": 10})


def test_files_are_listed_in_pages_both_ways(client):
    made = [upload(client, f"page-{number}.md") for number in range(5)]
    names = [file.filename for file in client.files.list(limit=2, order="asc") if file.filename.startswith("page-")]
    assert names == [f"page-{number}.md" for number in range(5)]
    newest = client.files.list(limit=2)
    assert [file.id for file in newest.data] == [made[4].id, made[3].id]
    assert newest.has_more is True
    assert [file.id for file in client.files.list(limit=2, after=made[3].id).data] == [made[2].id, made[1].id]
    with pytest.raises(openai.BadRequestError, match="not in this list"):
        client.files.list(after="file-none")


def test_a_file_above_the_limit_is_refused_with_the_limit(client):
    with pytest.raises(openai.APIStatusError, match="RAG_MAX_FILE_MB") as refused:
        client.files.create(file=("big.txt", b"x" * 1_000_001), purpose="assistants")
    assert refused.value.status_code == 413


def test_a_wrong_purpose_and_a_wrong_key_are_refused(client, rag):
    with pytest.raises(openai.BadRequestError, match="purpose"):
        client.files.create(file=("a.md", b"a"), purpose="nothing")
    with (
        openai.OpenAI(base_url=f"{rag.url}/v1", api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.files.list()


# --- vector stores --------------------------------------------------------------------------------------------------


def test_a_store_is_made_changed_listed_and_deleted(client):
    store = client.vector_stores.create(
        name="Support: questions", metadata={"team": "blue"}, expires_after={"anchor": "last_active_at", "days": 7}
    )

    assert (store.object, store.name, store.status, counts(store)) == (
        "vector_store",
        "Support: questions",
        "completed",
        (0, 0, 0, 0, 0),
    )
    assert store.metadata == {"team": "blue"}
    assert store.expires_at == store.last_active_at + 7 * 86_400
    assert store.model_extra["sparkstack"]["model"] == "rag/Support-questions"
    assert client.vector_stores.retrieve(store.id) == store
    changed = client.vector_stores.update(store.id, name="Support", metadata={"team": "red"}, expires_after=None)
    assert (changed.name, changed.metadata, changed.expires_after) == ("Support", {"team": "red"}, None)
    assert store.id in [each.id for each in client.vector_stores.list()]
    deleted = client.vector_stores.delete(store.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (store.id, True, "vector_store.deleted")
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.retrieve(store.id)


def test_stores_are_listed_in_pages(client):
    made = [client.vector_stores.create(name="same name").id for _ in range(5)]

    listed = [each.id for each in client.vector_stores.list(limit=2, order="desc")]
    assert [each for each in listed if each in made] == made[::-1]
    before = client.vector_stores.list(limit=2, order="asc", before=made[4])
    assert [each.id for each in before.data] == made[2:4]


def test_a_store_is_made_with_files(client):
    files = [upload(client, f"with-{number}.md", f"valve {number} is blue") for number in range(3)]
    store = client.vector_stores.create(name="with files", file_ids=[file.id for file in files])
    assert store.file_counts.total == 3
    store = settled(client, store.id)
    assert (counts(store), store.status) == ((0, 3, 0, 0, 3), "completed")
    assert store.usage_bytes == sum(file.bytes for file in files)


# --- files of a store -----------------------------------------------------------------------------------------------


def test_a_file_is_added_polled_searched_and_taken_out(client, rag):
    store = client.vector_stores.create(name="pump")
    file = upload(client)

    added = client.vector_stores.files.create_and_poll(
        vector_store_id=store.id,
        poll_interval_ms=20,
        file_id=file.id,
        attributes={"site": "north", "year": 2024},
        chunking_strategy={"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 20}},
    )

    assert (added.id, added.status, added.last_error) == (file.id, "completed", None)
    assert added.attributes == {"site": "north", "year": 2024}
    assert added.chunking_strategy.static.max_chunk_size_tokens == 100
    found = client.vector_stores.search(store.id, query="when is the pump cleaned")
    assert [(each.file_id, each.filename) for each in found.data] == [(file.id, "guide.md")]
    assert found.data[0].content[0].text == "The pump is cleaned every Monday morning."
    assert 0 < found.data[0].score <= 1
    content = client.vector_stores.files.content(file.id, vector_store_id=store.id)
    assert [part.text for part in content.data] == ["The pump is cleaned every Monday morning."]
    gone = client.vector_stores.files.delete(file.id, vector_store_id=store.id)
    assert (gone.deleted, gone.object) == (True, "vector_store.file.deleted")
    assert client.vector_stores.search(store.id, query="when is the pump cleaned").data == []
    assert rag.store.points[store.id] == {}
    assert client.files.retrieve(file.id).id == file.id


def test_two_files_of_one_name_are_two_files(client):
    store = client.vector_stores.create(name="twins")
    ids = [upload(client, "same.md", f"number {number}").id for number in range(2)]
    batch = client.vector_stores.file_batches.create_and_poll(store.id, file_ids=ids, poll_interval_ms=20)
    assert (batch.status, batch.file_counts.completed) == ("completed", 2)
    assert {each.id for each in client.vector_stores.files.list(store.id)} == set(ids)


def test_upload_and_poll_in_one_go(client):
    store = client.vector_stores.create(name="one go")
    file = client.vector_stores.files.upload_and_poll(
        poll_interval_ms=20, vector_store_id=store.id, file=("a.md", b"the lamp is green")
    )
    assert file.status == "completed"
    batch = client.vector_stores.file_batches.upload_and_poll(
        store.id, poll_interval_ms=20, files=[(f"{number}.md", f"lamp {number}".encode()) for number in range(4)]
    )
    assert (batch.status, batch.file_counts.completed, batch.file_counts.total) == ("completed", 4, 4)
    assert len(list(client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id, limit=2))) == 4
    assert len(list(client.vector_stores.files.list(store.id, limit=2))) == 5


def test_a_file_that_cannot_be_read_says_why(client):
    store = client.vector_stores.create(name="broken")
    file = client.vector_stores.files.upload_and_poll(
        poll_interval_ms=20, vector_store_id=store.id, file=("bad.md", b"!")
    )
    assert file.status == "failed"
    assert file.last_error.code == "invalid_file"
    assert "damaged" in file.last_error.message
    assert counts(client.vector_stores.retrieve(store.id)) == (0, 0, 1, 0, 1)
    assert [each.id for each in client.vector_stores.files.list(store.id, filter="failed")] == [file.id]
    assert list(client.vector_stores.files.list(store.id, filter="completed")) == []


def test_searches_are_filtered_by_attributes(client):
    store = client.vector_stores.create(name="filtered")
    batch = client.vector_stores.file_batches.create_and_poll(
        store.id,
        poll_interval_ms=20,
        files=[
            {
                "file_id": upload(client, f"{year}.md", f"report of {year}").id,
                "attributes": {"year": year, "final": year < 2024},
            }
            for year in (2022, 2023, 2024)
        ],
    )
    assert batch.file_counts.completed == 3

    def years(**search):
        found = client.vector_stores.search(store.id, query="report", **search)
        return sorted(each.attributes["year"] for each in found.data)

    assert years() == [2022, 2023, 2024]
    assert years(filters={"type": "gte", "key": "year", "value": 2023}) == [2023, 2024]
    assert years(filters={"type": "in", "key": "year", "value": [2022, 2024]}) == [2022, 2024]
    both = {
        "type": "and",
        "filters": [{"type": "eq", "key": "final", "value": True}, {"type": "ne", "key": "year", "value": 2022}],
    }
    assert years(filters=both) == [2023]
    assert len(years(max_num_results=1)) == 1
    assert years(ranking_options={"ranker": "none", "score_threshold": 1.0}) == []
    with pytest.raises(openai.BadRequestError, match="type"):
        years(filters={"type": "like", "key": "year", "value": 1})
    several = client.vector_stores.search(store.id, query=["report of 2022", "report of 2024"])
    assert len(several.data) == 3
    scores = [each.score for each in several.data]
    assert scores == sorted(scores, reverse=True)


def test_attributes_are_changed(client):
    store = client.vector_stores.create(name="changing")
    file = client.vector_stores.files.upload_and_poll(
        poll_interval_ms=20, vector_store_id=store.id, file=("a.md", b"the lamp is green")
    )
    changed = client.vector_stores.files.update(file.id, vector_store_id=store.id, attributes={"colour": "green"})
    assert changed.attributes == {"colour": "green"}
    polled = client.vector_stores.files.poll(file.id, vector_store_id=store.id, poll_interval_ms=20)
    assert polled.status == "completed"
    green = {"type": "eq", "key": "colour", "value": "green"}
    assert len(client.vector_stores.search(store.id, query="lamp", filters=green).data) == 1
    many = {f"key{number}": number for number in range(17)}
    with pytest.raises(openai.BadRequestError, match="16"):
        client.vector_stores.files.update(file.id, vector_store_id=store.id, attributes=many)


def test_a_batch_is_cancelled(client, rag):
    store = client.vector_stores.create(name="cancelled")
    ids = [upload(client, f"{number}.md", f"text {number}").id for number in range(6)]
    rag.embedder.gate.clear()
    try:
        batch = client.vector_stores.file_batches.create(store.id, file_ids=ids)
        assert (batch.status, batch.file_counts.in_progress) == ("in_progress", 6)
        cancelled = client.vector_stores.file_batches.cancel(batch.id, vector_store_id=store.id)
    finally:
        rag.embedder.gate.set()
    assert (cancelled.status, cancelled.file_counts.cancelled) == ("cancelled", 6)
    assert counts(settled(client, store.id)) == (0, 0, 0, 6, 6)
    assert client.vector_stores.file_batches.retrieve(batch.id, vector_store_id=store.id).status == "cancelled"


def test_a_deleted_file_leaves_every_store(client):
    stores = [client.vector_stores.create(name=f"both-{number}").id for number in range(2)]
    file = upload(client, "shared.md", "the bridge is closed")
    for store in stores:
        client.vector_stores.files.create_and_poll(poll_interval_ms=20, vector_store_id=store, file_id=file.id)
    assert client.files.delete(file.id).deleted is True
    for store in stores:
        assert client.vector_stores.search(store, query="bridge").data == []
        assert counts(client.vector_stores.retrieve(store)) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("static", "named"),
    [
        ({"max_chunk_size_tokens": 50, "chunk_overlap_tokens": 0}, "100 to 4096"),
        ({"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 150}, "0 to 100"),
    ],
)
def test_a_chunking_strategy_out_of_bounds_is_refused(client, static, named):
    store = client.vector_stores.create(name="bounds")
    with pytest.raises(openai.BadRequestError, match=named):
        client.vector_stores.files.create(
            vector_store_id=store.id,
            file_id=upload(client).id,
            chunking_strategy={"type": "static", "static": static},
        )


def test_a_chunk_is_never_larger_than_the_embedding_model_takes(client):
    store = client.vector_stores.create(name="large chunks")
    file = client.vector_stores.files.create_and_poll(
        vector_store_id=store.id,
        poll_interval_ms=20,
        file_id=upload(client).id,
        chunking_strategy={"type": "static", "static": {"max_chunk_size_tokens": 800, "chunk_overlap_tokens": 400}},
    )
    assert file.chunking_strategy.static.max_chunk_size_tokens == 240


async def test_the_asynchronous_client_does_the_same(rag):
    async with openai.AsyncOpenAI(base_url=f"{rag.url}/v1", api_key=KEY, max_retries=0) as client:
        store = await client.vector_stores.create(name="asynchronous")
        batch = await client.vector_stores.file_batches.upload_and_poll(
            store.id, files=[(f"{number}.md", f"lamp {number}".encode()) for number in range(5)], poll_interval_ms=20
        )
        assert batch.file_counts.completed == 5
        names = [each.id async for each in client.vector_stores.files.list(store.id, limit=2)]
        assert len(names) == 5
        found = await asyncio.wait_for(client.vector_stores.search(store.id, query="lamp 3"), 5)
        assert found.data[0].filename == "3.md"
