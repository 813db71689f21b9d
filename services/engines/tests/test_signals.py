"""Looking at an engine from outside: real processes, scripted answers, and nothing that makes it raise."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import httpx
import psutil
import pytest

from services.engines.watching.health import EngineTarget
from services.engines.watching.signals import gather, process_facts

SLOTS = [
    {"id": 0, "is_processing": True, "n_prompt_tokens_processed": 2048, "next_token": [{"n_decoded": 7}]},
    {"id": 1, "is_processing": False},
]
LLAMACPP = "llamacpp:prompt_tokens_total 30\nllamacpp:tokens_predicted_total 12\nllamacpp:requests_processing 1\n"
PS = {"models": [{"name": "qwen3:32b", "size": 100, "size_vram": 60, "expires_at": "2026-11-21T14:00:00Z"}]}


def target(engine="llamacpp", **more):
    return EngineTarget("m", engine, "http://engine.invalid", "a-key", "m", **more)


async def look(answers, engine="llamacpp", pids=None, **more):
    """Look at an engine whose `answers` by path are statuses, texts, documents or exceptions; others are 404."""

    def handler(request):
        requests.append(request)
        answer = answers.get(request.url.path, 404)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, int):
            return httpx.Response(answer)
        return httpx.Response(200, text=answer if isinstance(answer, str) else json.dumps(answer))

    requests = []
    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
        mine = (os.getpid(),) if pids is None else pids
        return await gather(client, target(engine, **more), mine, 2, clock=lambda: 7.0), requests


@contextlib.contextmanager
def child(code="import time; print('up', flush=True); time.sleep(300)"):
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"up\n"
        yield process
    finally:
        for each in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
            each.kill()
        process.kill()
        process.wait()
        process.stdout.close()


# --- what engines answer --------------------------------------------------------------------------------------------


async def test_llamacpp_with_its_slots():
    signals, requests = await look({"/health": {"status": "ok"}, "/metrics": LLAMACPP, "/slots": SLOTS})
    assert (signals.at, signals.process, signals.open_requests) == (7.0, "running", 2)
    assert (signals.answers, signals.loading, signals.offers_figures) == (True, False, True)
    assert (signals.tokens, signals.running, signals.waiting) == (42, 1, None)
    assert signals.work["slot 0 prompt"] == 2048
    assert signals.work["slot 0 decoded"] == 7
    assert signals.cpu_s > 0
    assert signals.rss_bytes > 1_000_000
    assert {request.headers["authorization"] for request in requests} == {"Bearer a-key"}


async def test_slots_alone_are_figures_too():
    signals, _ = await look({"/health": 200, "/slots": SLOTS})
    assert signals.work["slot 0 prompt"] == 2048
    assert signals.tokens is None


@pytest.mark.parametrize("text", ['{"error":{"message":"Loading model","code":503}}', "Server is starting"])
async def test_a_model_that_is_being_loaded(text):
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(503, text=text))) as client:
        signals = await gather(client, target(), (os.getpid(),), 0)
    assert signals.loading
    assert not signals.answers


async def test_vllm_whose_core_has_died_does_not_answer_and_does_not_load():
    signals, _ = await look({"/health": 503, "/metrics": 500}, "vllm")
    assert (signals.answers, signals.loading, signals.offers_figures) == (False, False, True)


@pytest.mark.parametrize("answers", [{"/metrics": 404}, {"/metrics": "<html>It works!</html>"}, {"/metrics": 401}])
async def test_an_engine_without_figures_says_so(answers):
    signals, _ = await look({"/health": 200, **answers}, "trtllm")
    assert (signals.answers, signals.tokens, signals.offers_figures) == (True, None, False)


async def test_figures_that_do_not_come_this_time_are_still_offered():
    signals, _ = await look({"/health": 200, "/metrics": httpx.ReadTimeout("slow")}, "vllm")
    assert (signals.tokens, signals.offers_figures) == (None, True)


async def test_ollama_tells_where_its_models_are_and_each_answer_moves_their_expiry():
    first, _ = await look({"/api/version": {"version": "0"}, "/api/ps": PS}, "ollama")
    later = {"models": [{**PS["models"][0], "expires_at": "2026-11-21T14:00:07Z"}]}
    second, _ = await look({"/api/version": {"version": "0"}, "/api/ps": later}, "ollama")
    assert first.answers
    assert first.figures.memory_bytes == {"gpu": 60, "cpu": 40}
    assert first.work != second.work
    assert not first.offers_figures  # between two answers nothing of it moves


async def test_a_gpu_is_passed_on():
    signals, _ = await look({"/health": 200}, gpu=True)
    assert signals.gpu


# --- engines that lie -----------------------------------------------------------------------------------------------

LIES = [
    "",
    "\x00\x01",
    "[" * 100_000,
    "null",
    "42",
    '[1, null, {"next_token": 5}, {"next_token": [null]}, {"n_prompt_tokens_processed": "many"}]',
    '{"models": [null]}',
    '{"models": 5}',
    '{"models": [{"size": "x", "size_vram": {}}]}',
    'llamacpp:prompt_tokens_total{a="',
    "llamacpp:prompt_tokens_total many",
    "vllm:num_requests_running{} {} {}",
    "x" * 5_000_000,
]


@pytest.mark.parametrize("engine", ["llamacpp", "vllm", "sglang", "trtllm", "ollama", "unheard-of"])
@pytest.mark.parametrize("lie", LIES, ids=range(len(LIES)))
async def test_no_lie_makes_it_raise(engine, lie):
    paths = ("/health", "/metrics", "/prometheus/metrics", "/slots", "/api/ps", "/api/version")
    signals, _ = await look(dict.fromkeys(paths, lie), engine)
    assert signals.process == "running"
    assert signals.tokens is None


@pytest.mark.parametrize(
    "error", [httpx.ReadTimeout(""), httpx.RemoteProtocolError(""), OSError(5, "io"), ValueError("?"), RuntimeError()]
)
async def test_no_failure_makes_it_raise(error):
    signals, _ = await look(dict.fromkeys(("/health", "/metrics", "/slots"), error))
    assert (signals.process, signals.answers, signals.tokens) == ("running", False, None)


async def test_an_engine_that_hangs_costs_the_timeout_once():
    async def hang(_request):
        await asyncio.Event().wait()

    async with httpx.AsyncClient(transport=httpx.MockTransport(hang)) as client:
        began = time.monotonic()
        signals = await gather(client, target(), (os.getpid(),), 1, timeout_s=0.2)
    assert not signals.answers
    assert time.monotonic() - began < 5  # three addresses side by side, each for 0.2 s


# --- processes ------------------------------------------------------------------------------------------------------


def test_a_running_process_and_a_stopped_one():
    with child() as process:
        assert process_facts([process.pid]).process == "running"
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        assert process_facts([process.pid]).process == "stopped"


def test_a_stopped_worker_behind_its_server():
    code = (
        "import subprocess, sys\n"
        "worker = subprocess.Popen([sys.executable, '-c', \"import time; print('up', flush=True); time.sleep(300)\"])\n"
        "worker.wait()\n"
    )
    with child(code) as process:
        worker = psutil.Process(process.pid).children()[0]
        assert process_facts([process.pid]).process == "running"
        worker.suspend()
        deadline = time.monotonic() + 60
        while process_facts([process.pid]).process != "stopped":
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_killed_process_is_gone_before_and_after_it_is_reaped():
    with child() as process:
        process.kill()
        deadline = time.monotonic() + 60
        while process_facts([process.pid]).process != "gone":  # a zombie, until somebody waits for it
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.wait()
        assert process_facts([process.pid]).process == "gone"


def test_a_worker_that_is_gone_is_not_the_death_of_its_server():
    with child() as process:
        assert process_facts([process.pid, 2**22 - 1]).process == "running"
        assert process_facts([2**22 - 1, process.pid]).process == "gone"


def test_the_cpu_time_of_children_that_have_ended_stays():
    code = (
        "import subprocess, sys, time\n"
        "spin = 'import time; end = time.process_time() + 0.3\\nwhile time.process_time() < end: pass'\n"
        "subprocess.run([sys.executable, '-c', spin])\n"
        "print('up', flush=True); time.sleep(300)\n"
    )
    with child(code) as process:
        assert process_facts([process.pid]).cpu_s >= 0.3


async def test_without_a_process_id_a_refused_connection_is_a_death_and_silence_is_not():
    refused = httpx.ConnectError("refused")
    signals, _ = await look(dict.fromkeys(("/health", "/metrics", "/slots"), refused), pids=())
    assert (signals.process, signals.process_seen, signals.cpu_s) == ("gone", False, None)
    signals, _ = await look(dict.fromkeys(("/health", "/metrics", "/slots"), httpx.ReadTimeout("")), pids=())
    assert signals.process == "running"


async def test_a_process_that_is_gone_is_gone_whoever_answers_on_its_port():
    signals, _ = await look({"/health": 200}, pids=(2**22 - 1,))
    assert (signals.process, signals.process_seen) == ("gone", True)
