"""The pool of reading processes: what one file does to its process is that file's error, and the others go on.

A process that asks for vectors is in the middle of a file: that is where these tests stop, kill and leave it.
"""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from services.rag.library import ChunkOptions
from services.rag.loading import Limits, LoadError
from services.rag.reading import Readers, ReadersBroken, read_and_cut
from services.rag.settings import RagSettings
from services.rag.tests import files

pytestmark = pytest.mark.slow

OPTIONS = ChunkOptions("heading", 64, 0)
SEMANTIC = ChunkOptions("semantic", 64, 0)
TEXT = "# Title\n\n" + "Some words that stand here. " * 40


async def children() -> list[psutil.Process]:
    def is_one(process: psutil.Process) -> bool:
        try:
            return "services.rag.reading.child" in process.cmdline()
        except psutil.Error:
            return False

    def look() -> list[psutil.Process]:
        return [each for each in psutil.Process().children() if is_one(each)]

    return await asyncio.to_thread(look)


def write(folder: Path, name: str, data: bytes | str) -> Path:
    return files.write(folder, name, data.encode() if isinstance(data, str) else data)


async def vectors(texts) -> np.ndarray:
    return np.tile(np.array([1, 0], np.float32), (len(texts), 1))


async def gone(process: psutil.Process) -> bool:
    """Wait until a process has ended; whether nobody has asked for its exit code is no matter."""
    async with asyncio.timeout(60):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.01)
    return True


async def test_a_file_is_read_as_it_is_in_this_process(tmp_path: Path):
    path = write(tmp_path, "a.md", TEXT)
    async with Readers(Limits(), workers=1) as readers:
        cut = await readers.read(path, "guide/a.md", OPTIONS)
        assert cut == await asyncio.to_thread(read_and_cut, path, "guide/a.md", OPTIONS, Limits())
        assert (cut.title, cut.media_type, cut.pages) == ("Title", "text/markdown", None)
        assert len(cut.chunks) > 2
        book = await readers.read(write(tmp_path, "a.pdf", files.pdf([["One."], ["Two."]])), "a.pdf", OPTIONS)
        assert (book.pages, {each.page for each in book.chunks}) == (2, {1})
    assert not await children()


@pytest.mark.slow
async def test_a_file_of_many_chunks_comes_whole(tmp_path: Path):
    text = "\n\n".join(f"Paragraph {number} with some words." for number in range(3000))
    async with Readers(Limits(), workers=1) as readers:
        cut = await readers.read(write(tmp_path, "a.txt", text), "a.txt", ChunkOptions("fixed", 16, 0))
    assert len(cut.chunks) > 1000
    assert [each.index for each in cut.chunks] == list(range(len(cut.chunks)))


async def test_refusals_come_through_and_the_process_stays(tmp_path: Path):
    async with Readers(Limits(), workers=1) as readers:
        await readers.read(write(tmp_path, "a.md", TEXT), "a.md", OPTIONS)
        (before,) = await children()
        for path, name, code in (
            (write(tmp_path, "empty", b""), "../x.pdf", "empty"),
            (tmp_path / "nothing", "a.md", "unreadable"),
            (tmp_path / "a.md", "..", "bad_name"),
        ):
            with pytest.raises(LoadError) as caught:
                await readers.read(path, name, OPTIONS)
            assert caught.value.code == code
        assert await children() == [before]


async def test_meaning_is_cut_with_the_vectors_of_the_service(tmp_path: Path):
    path = write(tmp_path, "a.md", "The lantern is lit. " * 12 + "An engine runs fast. " * 12)

    def embed(texts) -> np.ndarray:
        sums = np.array([[text.count("lantern") + 0.01, text.count("engine") + 0.01] for text in texts], np.float32)
        return sums / np.linalg.norm(sums, axis=1, keepdims=True)

    async def embed_there(texts) -> np.ndarray:
        return embed(texts)

    async with Readers(Limits(), workers=1) as readers:
        cut = await readers.read(path, "a.md", SEMANTIC, embed_there)
        with pytest.raises(ValueError, match="give embed"):
            await readers.read(path, "a.md", SEMANTIC)
    assert cut == await asyncio.to_thread(read_and_cut, path, "a.md", SEMANTIC, Limits(), embed=embed)
    assert not any("lantern" in each.text and "engine" in each.text for each in cut.chunks)


@pytest.mark.parametrize(
    ("harm", "code", "says"),
    [
        (
            signal.SIGSEGV,
            "crashed",
            "was ended by SIGSEGV; the file may be broken or need more than 2,048 MB of memory",
        ),
        pytest.param(signal.SIGKILL, "crashed", "was ended by SIGKILL", marks=pytest.mark.slow),
        (
            signal.SIGSTOP,
            "timed_out",
            "'bad.md' took longer than 1 s to read and was given up; split it, or raise RAG_",
        ),
    ],
)
async def test_what_a_file_does_to_its_process_is_its_own_error(tmp_path: Path, harm, code, says):
    path = write(tmp_path, "a.md", TEXT)

    async def embed(texts) -> np.ndarray:
        os.kill((await children())[0].pid, harm)
        return await vectors(texts)

    async with Readers(Limits(timeout_s=1), workers=1) as readers:
        bad, good = await asyncio.gather(
            readers.read(path, "bad.md", SEMANTIC, embed),
            readers.read(path, "good.md", SEMANTIC, vectors),
            return_exceptions=True,
        )
        assert isinstance(bad, LoadError)
        assert (bad.code, says in bad.message) == (code, True), bad.message
        assert not isinstance(good, BaseException)
        assert good.chunks
        assert len(await children()) == 1
    assert not await children()


async def test_a_process_that_others_wore_out_costs_no_file(tmp_path: Path):
    path = write(tmp_path, "a.md", TEXT)
    pids = []

    async def embed(texts) -> np.ndarray:
        (process,) = await children()
        pids.append(process.pid)
        if len(pids) == 2:
            os.kill(process.pid, signal.SIGKILL)
        return await vectors(texts)

    async with Readers(Limits(), workers=1) as readers:
        for _ in range(2):
            assert (await readers.read(path, "a.md", SEMANTIC, embed)).chunks
    assert len(pids) == 3
    assert pids[0] == pids[1] != pids[2]


@pytest.mark.slow
async def test_a_file_that_needs_too_much_memory_is_told_so(tmp_path: Path):
    big = write(tmp_path, "big.txt", b"words in a file. " * 3_500_000)
    limits = Limits(max_memory_bytes=320_000_000, max_characters=100_000_000)
    async with Readers(limits, workers=1) as readers:
        with pytest.raises(
            LoadError,
            match=r"'big.txt'.* more than (the )?320 MB of memory",  # a library may abort before Python notices
        ) as caught:
            await readers.read(big, "big.txt", OPTIONS)
        assert caught.value.code == "crashed"
        assert (await readers.read(write(tmp_path, "a.md", TEXT), "a.md", OPTIONS)).chunks


async def test_a_caller_that_leaves_takes_the_process_along(tmp_path: Path):
    reached = asyncio.Event()

    async def embed(texts) -> np.ndarray:
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with Readers(Limits(), workers=1) as readers:
        reading = asyncio.create_task(readers.read(write(tmp_path, "a.md", TEXT), "a.md", SEMANTIC, embed))
        await reached.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert not await children()


@pytest.mark.slow
async def test_embedding_that_fails_is_no_fault_of_the_file(tmp_path: Path):
    async def embed(texts) -> np.ndarray:
        raise ConnectionRefusedError("embeddings are down")

    async with Readers(Limits(), workers=1) as readers:
        with pytest.raises(ConnectionRefusedError, match="embeddings are down"):
            await readers.read(write(tmp_path, "a.md", TEXT), "a.md", SEMANTIC, embed)


@pytest.mark.slow
async def test_processes_start_with_work_and_end_without(tmp_path: Path):
    path = write(tmp_path, "a.md", TEXT)
    async with Readers(Limits(), workers=1, idle_s=0.01) as readers:
        assert not await children()
        await readers.read(path, "a.md", OPTIONS)
        async with asyncio.timeout(60):
            while await children():
                await asyncio.sleep(0.01)
        assert (await readers.read(path, "a.md", OPTIONS)).chunks


@pytest.mark.slow
async def test_no_more_processes_than_asked_and_no_key_among_what_they_know(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("RAG_API_KEY", "secret")
    path = write(tmp_path, "a.md", TEXT)
    async with Readers(Limits(), workers=2) as readers:
        await asyncio.gather(*(readers.read(path, f"{n}.md", OPTIONS) for n in range(8)))
        assert len(await children()) <= 2
        assert "secret" not in (await children())[0].environ().values()


@pytest.mark.slow
async def test_without_a_tokenizer_no_file_is_blamed(tmp_path: Path):
    async with Readers(Limits(), workers=1, tokenizer=tmp_path / "nowhere.json") as readers:
        with pytest.raises(ReadersBroken, match="Check that the tokenizer is there"):
            await readers.read(write(tmp_path, "a.md", TEXT), "a.md", OPTIONS)
    assert not await children()


ORPHAN = """
import asyncio, os, psutil, signal, sys
from pathlib import Path
from services.rag.library import ChunkOptions
from services.rag.loading import Limits
from services.rag.reading import Readers

async def embed(texts):
    child = psutil.Process().children()[0]
    child.send_signal(signal.SIGSTOP)
    print(child.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(Readers(Limits(), workers=1).read(Path(sys.argv[1]), "a.md", ChunkOptions("semantic", 64, 0), embed))
"""


async def test_a_service_that_is_killed_leaves_no_process(tmp_path: Path):
    path = write(tmp_path, "a.md", TEXT)
    # The child is stopped: that its input ends can't be what ends it.
    service = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        ORPHAN,
        str(path),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    out, _ = await service.communicate()
    assert service.returncode == -signal.SIGKILL
    try:
        orphan = psutil.Process(int(out))
    except psutil.NoSuchProcess:
        return
    assert await gone(orphan)


def test_the_settings_say_how_much_a_file_may_take():
    settings = RagSettings(max_file_mb=3, max_file_pages=7, file_timeout_s=9, reader_memory_mb=700, ingest_workers=3)
    assert Limits.of(settings) == Limits(3_000_000, 20_000_000, 7, 9, 700_000_000)
    assert Readers.of(settings).size == 3
    assert Readers(Limits()).size == max(1, (os.cpu_count() or 1) // 2)
