"""Engines that are killed, stopped or busy, and an engines service that is killed: seen, told apart, brought back."""

import os
import signal
import threading
import time

import httpx
import pytest

from tests.e2e.stacks import MODEL, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def client(stack):
    stack.up(LLAMACPP_SLOTS="2")
    stack.environment["LLAMACPP_SLOTS"] = "2"
    with httpx.Client(headers={"authorization": f"Bearer {stack.key}"}, trust_env=False, timeout=120) as client:
        yield client


def ask(stack, client, content="Name the capital of France.", **fields):
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": 20, **fields}
    return client.post(f"{stack.gateway}/v1/chat/completions", json=body)


def engine_pid(stack):
    return stack.pids()[MODEL]


def test_a_killed_engine_comes_back_and_the_next_request_is_answered(stack, client):
    pid = engine_pid(stack)
    os.kill(pid, signal.SIGKILL)
    answer = ask(stack, client)
    assert answer.status_code == 200, answer.text
    assert engine_pid(stack) != pid


def test_a_stream_that_was_begun_ends_in_an_error_event_when_its_engine_is_killed(stack, client):
    body = {
        "model": MODEL,
        "stream": True,
        "max_tokens": 2000,
        "messages": [{"role": "user", "content": "Tell a long story."}],
    }
    pid = engine_pid(stack)
    with client.stream("POST", f"{stack.gateway}/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        for line in lines:
            if '"content"' in line:
                break
        os.kill(pid, signal.SIGKILL)
        rest = [line for line in lines if line.startswith("data: ")]
    assert '"error"' in rest[-1]
    assert "[DONE]" not in rest[-1]
    assert ask(stack, client).status_code == 200


def test_a_stopped_engine_with_a_request_open_is_told_as_stalled_within_30_s(stack, client):
    stack.up(ENGINES_RESTART_STALLED="0")
    pid = engine_pid(stack)
    stack.freeze(MODEL)
    try:
        thread = threading.Thread(target=lambda: ask(stack, client), daemon=True)
        thread.start()
        began = time.monotonic()
        wait_for(lambda: stack.models()[MODEL]["state"] == "stalled", "the stall to be seen", stack.all_logs, 40)
        assert time.monotonic() - began < 30
    finally:
        stack.thaw(MODEL)
    thread.join(60)
    wait_for(lambda: stack.models()[MODEL]["state"] in ("ready", "busy"), "it to be well again", stack.all_logs)
    assert engine_pid(stack) == pid, "it was told to be left alone"


def test_a_long_prefill_is_told_as_busy(stack, client):
    words = "The quick brown fox jumps over the lazy dog. " * 300
    states = set()
    done = threading.Event()

    def prefill():
        try:
            ask(stack, client, words, max_tokens=1)
        finally:
            done.set()

    threading.Thread(target=prefill, daemon=True).start()
    while not done.is_set():
        states.add(stack.models()[MODEL]["state"])
    assert "busy" in states
    assert states <= {"busy", "ready"}


def test_requests_go_on_while_the_engines_service_is_dead(stack, client):
    assert ask(stack, client).status_code == 200
    pid = stack.pids()["engines"]
    engine = engine_pid(stack)
    os.kill(pid, signal.SIGKILL)
    assert ask(stack, client).status_code == 200
    stack.wait_until_ready("engines", other_pid_than=pid)
    assert ask(stack, client).status_code == 200
    assert engine_pid(stack) == engine, "the new service has taken it over"
