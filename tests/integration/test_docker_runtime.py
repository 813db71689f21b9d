"""Engines as containers of a real Docker engine, made by compose as the stack makes them, behind a strict proxy."""

import asyncio
import contextlib
import json
import os
import re
import sys
import time
from pathlib import Path

import pytest

from services.engines.runtimes import EngineStartError, LaunchSpec
from services.engines.runtimes.docker import DockerRuntime
from tests.testkit.docker_engine import IMAGE, docker_engine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

POLITE = """
import signal, subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
def leave(*_):
    print("goodbye", flush=True)
    worker.kill()
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
print("up", flush=True)
print("a warning", file=sys.stderr, flush=True)
time.sleep(300)
"""
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(300)"
)
GREEDY = "import sys; print('up', flush=True); sys.stdin.close(); held = [bytearray(b'x' * 2**20) for _ in range(400)]"
ENGINES = {"polite": POLITE, "stubborn": STUBBORN, "greedy": GREEDY}
# What the runtime says that it needs, and nothing else.
ALLOWED = re.compile(
    r"GET /containers/json\?\S* |GET /containers/[0-9a-f]{64}/(json|top|logs\?\S*) "
    r"|POST /containers/[0-9a-f]{64}/(start|stop\?t=\d+) "
)


@pytest.fixture(scope="module")
def engine():
    with docker_engine() as running:
        yield running


def service(name, project):
    return {
        "image": IMAGE,
        "command": ["python3", "-c", ENGINES[name]],
        "environment": {"ENGINE_API_KEY": "sk-test"},
        "labels": {"sparkstack.project": project, "sparkstack.instance": name},
        "restart": "no",
        "network_mode": "none",
        "mem_limit": "64m",
        "memswap_limit": "64m",
    }


@pytest.fixture(scope="module")
def project(engine, tmp_path_factory):
    """A project with its containers created, and none of them started; and one of somebody else's."""
    name = f"sparkstack-test-{os.getpid()}"
    folder = tmp_path_factory.mktemp("compose")
    services = {each: service(each, name) for each in ENGINES}
    services["stranger"] = {**service("polite", "another-project"), "restart": "no"}
    (folder / "compose.yaml").write_text(json.dumps({"name": name, "services": services}))
    try:
        engine.docker("compose", "create", cwd=folder)
        yield name
    finally:
        engine.docker("compose", "down", "--timeout", "0", cwd=folder)


@contextlib.asynccontextmanager
async def strict_proxy(engine):
    """A proxy in front of the engine's socket that lets through what is allowed; gives its address."""
    path = engine.endpoint.removeprefix("unix://")
    connections = set()

    async def serve(reader, writer):
        connections.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            if ALLOWED.match(head.decode()):
                inner_reader, inner = await asyncio.open_unix_connection(path)
                inner.write(re.sub(rb"(?i)connection: \S+", b"connection: close", head))
                while part := await inner_reader.read(65536):
                    writer.write(part)
                inner.close()
                await inner.wait_closed()
            else:
                writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        if connections:
            await asyncio.wait(connections, timeout=30)


@pytest.fixture
async def runtime(engine, project):
    async with strict_proxy(engine) as address:
        runtime = DockerRuntime(address, project)
        yield runtime
        for name in ENGINES:
            await runtime.stop(name, grace_s=0)
        await runtime.close()


def spec(name):
    command = ("python3", "-c", ENGINES[name])
    return LaunchSpec(name, "m", "test", command, port=1, image=IMAGE, environment={"ENGINE_API_KEY": "sk-test"})


async def started(runtime, name):
    """Start an engine, and return it when it has said so: its log has what it said in earlier lives, too."""
    before = await times_said(runtime, name, "up")
    await runtime.start(spec(name))
    await until(lambda: said_more(runtime, name, "up", before))
    return (await runtime.instances())[name]


async def times_said(runtime, name, word):
    return (await runtime.logs(name, 1000)).splitlines().count(word)


async def said_more(runtime, name, word, before):
    return await times_said(runtime, name, word) > before


async def exited(runtime, name):
    found = (await runtime.instances())[name]
    return found if found.state == "exited" else None


async def exited_out_of_memory(runtime, name):
    """Docker hears of it in an event of its own, which may come after that of the end."""
    found = await exited(runtime, name)
    return found if found and found.reason == "out of memory" else None


async def until(condition, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := await condition():
            return found
        await asyncio.sleep(0.1)
    raise AssertionError("it did not come true")


async def test_an_engine_is_started_seen_and_stopped_and_can_be_started_again(runtime):
    assert await runtime.instances() == {}
    for life in range(2):
        running = await started(runtime, "polite")
        assert running.state == "running"
        await until(lambda life=life: said_more(runtime, "polite", "a warning", life))
        assert len((await runtime.logs("polite", 1)).splitlines()) == 1
        with pytest.raises(EngineStartError, match="runs already"):
            await runtime.start(spec("polite"))
        await runtime.stop("polite", grace_s=60)
        assert await times_said(runtime, "polite", "goodbye") == life + 1
        assert await runtime.instances() == {}


@pytest.mark.skipif(sys.platform != "linux", reason="optional: Docker runs in a virtual machine here")
async def test_its_processes_are_told_as_this_machine_sees_them(runtime):
    running = await started(runtime, "polite")
    commands = [Path(f"/proc/{pid}/cmdline").read_text() for pid in running.pids]
    assert len(commands) == 2
    assert "goodbye" in commands[0]
    assert "time.sleep" in commands[1]


@pytest.mark.parametrize("grace_s", [0, 0.5])
async def test_an_engine_that_ignores_sigterm_is_forced(runtime, engine, project, grace_s):
    await started(runtime, "stubborn")
    await runtime.stop("stubborn", grace_s=grace_s)
    assert await runtime.instances() == {}
    assert engine.docker("inspect", "-f", "{{.State.ExitCode}}", f"{project}-stubborn-1") == "137"


async def test_an_engine_that_was_paused_is_ended_too(runtime, engine, project):
    await started(runtime, "polite")
    engine.docker("pause", f"{project}-polite-1")
    paused = (await runtime.instances())["polite"]
    assert (paused.state, paused.paused) == ("running", True)
    await runtime.stop("polite", grace_s=1)
    assert engine.docker("inspect", "-f", "{{.State.Running}}", f"{project}-polite-1") == "false"


async def test_an_engine_that_was_killed_says_so_and_runs_again(runtime, engine, project):
    await started(runtime, "stubborn")
    engine.docker("kill", f"{project}-stubborn-1")
    dead = await until(lambda: exited(runtime, "stubborn"))
    assert (dead.exit_status, dead.pids) == (-9, ())
    assert (await started(runtime, "stubborn")).state == "running"


async def test_an_engine_that_takes_more_memory_than_it_may_says_so(runtime):
    await runtime.start(spec("greedy"))
    dead = await until(lambda: exited_out_of_memory(runtime, "greedy"))
    assert dead.exit_status == -9


async def test_engines_outlive_the_service_that_started_them(runtime, engine, project):
    running = await started(runtime, "polite")
    later = DockerRuntime(engine.endpoint, project)
    assert await later.instances() == {"polite": running}
    await later.stop("polite", grace_s=60)
    await later.close()


async def test_what_compose_has_created_with_something_else_is_not_started(runtime):
    with pytest.raises(EngineStartError, match="another command"):
        await runtime.start(LaunchSpec("polite", "m", "test", ("sleep", "1"), port=1, image=IMAGE))
    with pytest.raises(EngineStartError, match="`docker compose create nobody` makes it"):
        await runtime.start(LaunchSpec("nobody", "m", "test", ("sleep",), port=1))


async def test_containers_of_others_are_neither_seen_nor_touched(runtime, engine, project):
    stranger = f"{project}-stranger-1"
    engine.docker("start", stranger)
    assert "polite" not in await runtime.instances()
    await runtime.stop("polite", grace_s=0)
    assert engine.docker("inspect", "-f", "{{.State.Running}}", stranger) == "true"
