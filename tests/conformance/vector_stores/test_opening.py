"""Which store the settings open, and a server that isn't there."""

import asyncio
from pathlib import Path

import pytest

from services.rag.settings import RagSettings
from services.rag.vectors import CollectionSpec, VectorStoreError
from services.rag.vectors.edge import EdgeVectorStore
from services.rag.vectors.opening import open_store
from services.rag.vectors.qdrant import QdrantVectorStore
from tests.testkit.ports import free_port


def settings(tmp_path: Path, **others: str) -> RagSettings:
    return RagSettings(state=tmp_path, **others)


async def test_the_default_is_the_engine_in_the_services_folder(tmp_path: Path) -> None:
    store = open_store(settings(tmp_path))
    assert isinstance(store, EdgeVectorStore)
    assert not (tmp_path / "rag").exists()
    assert await store.ready() == "ok"
    assert (tmp_path / "rag" / "vectors" / ".lock").exists()
    await store.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the client drops its lock's file
@pytest.mark.may_block("the pure-Python store reads and writes its files itself")
async def test_the_pure_python_store_is_in_a_folder_of_its_own(tmp_path: Path) -> None:
    store = open_store(settings(tmp_path, vector_store="local"))
    assert isinstance(store, QdrantVectorStore)
    await store.create("c", CollectionSpec(4))
    assert await store.collections() == ["c"]
    with pytest.raises(VectorStoreError, match="another process"):
        open_store(settings(tmp_path, vector_store="local"))
    await store.close()


async def test_a_server_that_is_not_there_is_named_with_the_setting(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    wanted = settings(tmp_path, vector_store="qdrant", qdrant_url=url, qdrant_key="secret")
    store = await asyncio.to_thread(open_store, wanted)
    said = await store.ready()
    assert url in said
    assert "can't be reached" in said
    assert "RAG_QDRANT_URL" in said
    assert "secret" not in said
    for asked in (store.collections(), store.count("c"), store.create("c", CollectionSpec(4)), store.drop("c")):
        with pytest.raises(VectorStoreError, match="can't be reached"):
            await asked
    await store.close()


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "RAG_QDRANT_KEY"), (403, "RAG_QDRANT_KEY"), (404, "no collection 'c'"), (500, "refused: .*broken")],
)
async def test_what_a_server_refuses_is_said_clearly(tmp_path: Path, status: int, said: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"status": {"error": "broken"}}'
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        writer.write(head.encode() + b"Connection: close\r\n\r\n" + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    wanted = settings(tmp_path, vector_store="qdrant", qdrant_url=url)
    store = await asyncio.to_thread(open_store, wanted)
    with pytest.raises(VectorStoreError, match=said):
        await store.count("c")
    await store.close()
    server.close()
