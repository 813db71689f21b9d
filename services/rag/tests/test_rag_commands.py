"""`sparkstack rag …` against a real service over fakes: what is said, what is done, which exit status."""

import contextlib
import json
import logging
import subprocess
import sys

import pytest
import structlog
from click.testing import CliRunner

from services.rag.app import create_app
from services.rag.commands.rag import rag
from services.rag.settings import RagSettings
from services.rag.tests.fakes import FakeEmbedder, MemoryStore, WordReaders, fake_parts
from tests.testkit.ports import free_port
from tests.testkit.server import in_thread, running

pytestmark = pytest.mark.slow

KEY = "sk-commands"


@contextlib.asynccontextmanager
async def running_rag(folder):
    settings = RagSettings(state=folder, api_key=KEY, ingest_batch=8, preset="fast", chunker="fixed")
    parts = fake_parts(MemoryStore(), FakeEmbedder(), WordReaders())
    async with running(create_app(settings, parts)) as url:
        yield url


@pytest.fixture(scope="module", autouse=True)
def quiet_log():
    """Keep the service's log lines out of what the commands print: both run in one process here."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    yield
    structlog.configure(**before)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with in_thread(running_rag(tmp_path_factory.mktemp("rag"))) as url:
        yield url


@pytest.fixture
def call(url, monkeypatch):
    monkeypatch.setenv("SPARKSTACK_API_KEY", f"me={KEY}")

    def run(*arguments, at=url):
        return CliRunner().invoke(rag, ["--url", at, *map(str, arguments)], catch_exceptions=False)

    return run


@pytest.fixture
def docs(tmp_path):
    folder = tmp_path / "docs"
    for name, content in {
        "pump.md": b"the pump is blue",
        "deep/lamp.md": b"the lamp is green",
        ".hidden/secret.md": b"nobody reads this",
        "node_modules/package.md": b"nobody wants this",
        "picture.bin": b"\x00\x01\x02",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def test_a_folder_is_ingested_and_everything_is_searchable(call, docs):
    done = call("ingest", docs, "--collection", "first")

    assert done.exit_code == 0, done.output
    assert "2 documents indexed in 2 chunks" in done.output
    assert "1 binary, 1 hidden, 1 ignored" in done.output
    assert done.output.rstrip().endswith('sparkstack rag ask first "…"   or, in any client, the model rag/first')
    found = json.loads(call("search", "first", "green", "lamp", "--json", "--limit", 1).stdout)
    assert [passage["name"] for passage in found["data"]] == ["docs/deep/lamp.md"]


def test_the_same_folder_again_changes_nothing_and_sync_removes_what_is_gone(call, docs):
    call("ingest", docs, "--collection", "second")
    again = json.loads(call("ingest", docs, "--collection", "second", "--json").stdout)
    assert (again["documents"]["unchanged"], again["documents"]["completed"]) == (2, 0)
    (docs / "pump.md").unlink()

    synced = call("ingest", docs, "--collection", "second", "--sync")

    assert "1 unchanged, 1 deleted" in synced.output
    shown = call("show", "second").output
    assert "docs/deep/lamp.md  completed, 1 chunks" in shown
    assert "pump.md" not in shown


def test_files_that_cannot_be_read_are_named_and_the_status_is_3(call, docs):
    (docs / "bad.md").write_text("!")
    done = call("ingest", docs, "--collection", "third")
    assert done.exit_code == 3
    assert "not read: docs/bad.md" in done.output
    assert "2 documents indexed" in done.output
    assert "docs/bad.md  failed" in call("show", "third", "--status", "failed").output


def test_a_question_is_answered_and_its_sources_are_shown(call, docs):
    call("ingest", docs, "--collection", "fourth")
    answered = call("ask", "fourth", "which colour has the pump, is the pump blue")
    assert answered.exit_code == 0, answered.output
    assert answered.output.strip()


def test_collections_jobs_and_removal(call, docs):
    assert call("ingest", docs / "pump.md", "--collection", "fifth", "--chunk-tokens", 20).exit_code == 0
    assert "fifth" in call("collections").output
    assert "1/1 documents" in call("jobs", "fifth").output
    assert call("rm", "fifth", "pump.md").output == "pump.md is removed from fifth\n"
    refused = call("rm", "fifth")
    assert (refused.exit_code, "--yes" in refused.output) == (1, True)
    assert call("rm", "fifth", "--yes").exit_code == 0
    unknown = call("show", "fifth")
    assert unknown.exit_code == 1
    assert "there is no collection 'fifth'" in unknown.output


def test_another_way_of_cutting_cuts_an_existing_collection_anew(call, docs):
    call("ingest", docs, "--collection", "sixth")
    assert call("ingest", docs, "--collection", "sixth", "--chunk-tokens", 16).exit_code == 0
    assert "to 16 tokens" in call("show", "sixth").output


def test_where_nothing_runs_it_says_how_to_start(call, docs):
    done = call("ingest", docs, "--collection", "first", at=f"http://127.0.0.1:{free_port()}")
    assert done.exit_code == 1
    assert "make up" in done.output


def test_the_verbs_import_nothing_heavy():
    code = (
        "import sys, services.rag.commands.rag, services.rag.commands.ingest, services.rag.commands.asking, "
        "services.rag.commands.looking; "
        "print([name for name in ('fastapi', 'numpy', 'qdrant_edge', 'aiohttp', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
