"""The helpers that run apps and processes: ready when they say so, gone when they are left, errors passed on."""

import asyncio
import signal
import sys
from contextlib import asynccontextmanager

import httpx
import psutil
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from tests.testkit.server import eventually, fake_engine, free_port, in_thread, run_process, running

CHILD = [sys.executable, "-m", "tests.testkit.fake_engine", "--port", "0"]
URL = r'"url": "(.+?)"'


def app_that_notes(noted):
    @asynccontextmanager
    async def lifespan(_app):
        noted.append("up")
        yield
        noted.append("down")

    app = FastAPI(lifespan=lifespan)

    @app.get("/hello")
    async def hello():
        return {"loop": id(asyncio.get_running_loop())}

    @app.get("/endless")
    async def endless():
        async def chunks():
            try:
                while True:
                    yield b"tick\n"
                    await asyncio.sleep(0.01)
            finally:
                noted.append("stream ended")

        return StreamingResponse(chunks())

    return app


async def test_an_app_runs_in_the_event_loop_of_the_test():
    noted = []
    async with running(app_that_notes(noted)) as url, httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"{url}/hello")).json() == {"loop": id(asyncio.get_running_loop())}
    assert noted == ["up", "down"]
    async with httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(f"{url}/hello")


async def test_an_answer_that_does_not_end_is_cancelled_after_the_grace():
    noted = []
    async with httpx.AsyncClient(trust_env=False) as client:
        async with running(app_that_notes(noted), grace_s=0.05) as url:
            response = await client.send(client.build_request("GET", f"{url}/endless"), stream=True)
            body = response.aiter_bytes()
            assert (await anext(body)).startswith(b"tick")
        assert noted == ["up", "stream ended", "down"]
        with pytest.raises(httpx.HTTPError):
            async for _ in body:
                pass
        await response.aclose()


@pytest.mark.parametrize("moment", ["start-up", "shutdown"])
async def test_the_error_of_the_lifespan_is_raised(moment):
    @asynccontextmanager
    async def lifespan(_app):
        if moment == "start-up":
            raise KeyError("no engine")
        yield
        raise KeyError("no engine")

    reached = False
    with pytest.raises(KeyError, match="no engine"):
        async with running(FastAPI(lifespan=lifespan)):
            reached = True
    assert reached is (moment == "shutdown")


@pytest.mark.parametrize("use_uvloop", [False, True])
def test_an_app_and_an_engine_run_in_threads_for_clients_that_block(use_uvloop):
    noted = []
    with (
        in_thread(fake_engine(), use_uvloop=use_uvloop) as engine,
        in_thread(running(app_that_notes(noted)), use_uvloop=use_uvloop) as url,
    ):
        assert httpx.get(f"{url}/hello", trust_env=False).status_code == 200
        assert httpx.get(f"{engine.url}/health", trust_env=False).json() == {"status": "ok"}
        assert [each["path"] for each in engine.requests("/health")] == ["/health"]
    assert noted == ["up", "down"]


async def test_a_free_port_can_be_taken_and_lies_below_those_of_outgoing_connections():
    port = free_port()
    assert 20_000 <= port < 30_000
    async with fake_engine(port=port) as engine:
        assert engine.url == f"http://127.0.0.1:{port}"


async def test_eventually_gives_the_value_or_says_what_was_wrong():
    values = iter([0, "", "done"])
    assert await eventually(lambda: next(values)) == "done"
    with pytest.raises(AssertionError, match=r"still \[\] after 0.02 s"):
        await eventually(list, timeout_s=0.02)


async def test_a_child_is_ready_answers_and_ends():
    async with run_process(CHILD, ready=URL) as child, httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"{child.match[1]}/health")).status_code == 200
        assert psutil.pid_exists(child.pid)
    assert child.returncode == 0
    assert not psutil.pid_exists(child.pid)


async def test_a_child_is_ready_when_its_address_answers():
    port = free_port()
    url = f"http://127.0.0.1:{port}/health"
    async with run_process([*CHILD[:-1], str(port)], ready_url=url) as child:
        assert await child.wait_for_line(URL)


async def test_a_child_that_fails_is_shown_with_its_output():
    with pytest.raises(AssertionError, match=r"(?s)ended with status 2.*the following arguments|unrecognized"):
        async with run_process([*CHILD, "--nonsense"], ready=URL):
            pass


async def test_a_child_that_is_not_ready_in_time_is_ended():
    script = "import os, time; print('pid', os.getpid(), flush=True); time.sleep(60)"
    with pytest.raises(AssertionError, match=r"no line with 'never' after 0\.\d s of at most 0.*\npid \d+") as failure:
        async with run_process([sys.executable, "-c", script], ready="never", timeout_s=0.5):
            pass
    assert not psutil.pid_exists(int(str(failure.value).rsplit(" ", 1)[1]))


async def test_a_stopped_child_and_what_it_started_are_ended():
    script = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('grandchild', child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    async with run_process([sys.executable, "-c", script], ready=r"grandchild (\d+)") as child:
        grandchild = int(child.match[1])
        psutil.Process(child.pid).suspend()
    assert child.returncode == -signal.SIGTERM
    await eventually(lambda: not _runs(grandchild))


def _runs(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_a_child_that_ends_by_itself_can_be_waited_for():
    async with run_process([sys.executable, "-c", "print('bye'); raise SystemExit(3)"]) as child:
        assert await child.wait() == 3
        assert child.output == "bye"
