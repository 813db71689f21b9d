"""`sparkstack pull` as a process: killed, interrupted, beside another one, on a terminal and into a file."""

import asyncio
import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.integration.pulling import FILES, REPOSITORY, WEIGHTS, Place, child_variables, recipe, recipe_document
from tests.testkit.fake_hub import FakeHub
from tests.testkit.server import eventually, run_process

CLI = [sys.executable, "-m", "services.cli.main"]
HALF = 300_000
pytestmark = [
    pytest.mark.slow,  # processes that are started, killed and waited for
    pytest.mark.may_block("the service's code runs in the children; the tests themselves look at the disk"),
]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add(REPOSITORY, FILES)
        yield hub


@pytest.fixture
def place(hub: FakeHub, tmp_path: Path) -> Place:
    recipes = tmp_path / "state" / "recipes"
    recipes.mkdir(parents=True)
    (recipes / "tiny.yaml").write_text(yaml.safe_dump(recipe_document()))
    return Place(hub, tmp_path)


def run(place: Place, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, *arguments], env=child_variables(place), stdin=subprocess.DEVNULL, capture_output=True, text=True
    )


async def held(hub: FakeHub) -> None:
    """Wait until the hub has sent half of the weights."""
    assert await asyncio.to_thread(hub.held.wait, 30)


async def until_written(place: Place, count: int) -> None:
    """Wait until the child has so many bytes on the disk."""
    await eventually(lambda: place.partial_bytes() == count)


async def test_a_pull_that_was_killed_goes_on_from_what_it_had(hub: FakeHub, place: Place) -> None:
    gate = threading.Event()
    hub.fail("model.safetensors", drop_after=HALF, gate=gate)
    async with run_process([*CLI, "pull", "tiny"], env=child_variables(place)) as child:
        await held(hub)
        await until_written(place, HALF)
        child.send_signal(signal.SIGKILL)
        assert await child.wait() == -signal.SIGKILL
    assert not place.store.is_present(recipe())
    assert hub.served["model.safetensors"] == HALF

    done = await asyncio.to_thread(run, place, "pull", "tiny")

    assert done.returncode == 0, done.stderr
    assert "tiny is here, every file checked" in done.stdout
    assert place.files(recipe()) == FILES
    last = [headers for _, path, headers in hub.requests if path.startswith("/store/")][-1]
    assert last["range"] == f"bytes={HALF}-"
    assert hub.served["model.safetensors"] == len(WEIGHTS)
    gate.set()  # the first answer was held until now, so that it sent nothing more


async def test_ctrl_c_keeps_what_came_and_says_how_to_go_on(hub: FakeHub, place: Place) -> None:
    gate = threading.Event()
    hub.fail("model.safetensors", drop_after=HALF, gate=gate)
    async with run_process([*CLI, "pull", "tiny"], env=child_variables(place)) as child:
        await held(hub)
        await until_written(place, HALF)
        child.send_signal(signal.SIGINT)
        assert await child.wait(timeout_s=60) == 130
    gate.set()
    assert "`sparkstack pull tiny` goes on from there" in child.output
    assert place.partial_bytes() == HALF
    assert (await asyncio.to_thread(run, place, "pull", "tiny")).returncode == 0
    assert place.files(recipe()) == FILES


async def test_a_second_pull_waits_for_the_first_and_fetches_nothing_twice(hub: FakeHub, place: Place) -> None:
    gate = threading.Event()
    hub.fail("model.safetensors", drop_after=HALF, gate=gate)
    async with run_process([*CLI, "pull", "tiny"], env=child_variables(place)) as first:
        await held(hub)
        waiting = "waiting: another process pulls"
        async with run_process([*CLI, "pull", "tiny"], env=child_variables(place), ready=waiting) as second:
            gate.set()
            assert await first.wait() == 0
            assert await second.wait() == 0
    assert place.files(recipe()) == FILES
    assert hub.served["model.safetensors"] == len(WEIGHTS)


async def test_a_refusal_is_one_sentence_and_a_status(hub: FakeHub, place: Place) -> None:
    place.more["OFFLINE"] = "1"
    done = await asyncio.to_thread(run, place, "pull", "tiny")
    assert done.returncode == 1
    assert done.stderr.startswith("sparkstack: tiny is not whole here, and OFFLINE=1 forbids the network")
    assert "Traceback" not in done.stderr


async def test_models_lists_what_is_here_and_rm_deletes_it(hub: FakeHub, place: Place) -> None:
    await asyncio.to_thread(run, place, "pull", "tiny")
    listed = await asyncio.to_thread(run, place, "models")
    row = next(line for line in listed.stdout.splitlines() if line.startswith("tiny "))
    assert row.split()[:5] == ["tiny", "llamacpp", "600.0", "kB", "yes"]

    refused = await asyncio.to_thread(run, place, "rm", "tiny")
    assert refused.returncode == 1
    assert "deleting tiny frees 600.0 kB" in refused.stdout
    assert place.store.is_present(recipe())

    assert (await asyncio.to_thread(run, place, "rm", "tiny", "--yes")).returncode == 0
    assert not place.store.is_present(recipe())


async def test_on_a_terminal_there_is_a_bar_with_the_share(hub: FakeHub, place: Place) -> None:
    ours, theirs = pty.openpty()
    child = await asyncio.create_subprocess_exec(
        *CLI,
        "pull",
        "tiny",
        env={**child_variables(place), "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = await asyncio.to_thread(read_all, ours)
    assert await child.wait() == 0
    assert "█" in shown
    assert "100%" in shown
    assert "of 600.0 kB" in shown
    assert "tiny is here" in shown


def read_all(terminal: int) -> str:
    """Return what a terminal shows until nobody writes to it any more."""
    shown = b""
    with contextlib.suppress(OSError):  # how the end of a terminal is told
        while piece := os.read(terminal, 4096):
            shown += piece
    os.close(terminal)
    return shown.decode()


def test_neither_the_command_line_nor_the_store_imports_the_hubs_library() -> None:
    code = (
        "import sys, services.engines.commands.models, services.engines.files.store, services.engines.files.pull;"
        "print([name for name in sys.modules if name.split('.')[0] in ('huggingface_hub', 'httpx2', 'tqdm')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
