"""What is killed comes back; what its supervisor left is found."""

import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest

from services.kit.launch import MARK
from services.stack import SERVICES
from tests.e2e.stacks import listens, wait_for

pytestmark = pytest.mark.slow


def test_a_killed_service_comes_back(stack):
    stack.up()
    for name in [service.name for service in SERVICES if not service.optional]:
        pid = stack.pids()[name]
        os.kill(pid, signal.SIGKILL)
        row = stack.wait_until_ready(name, other_pid_than=pid)
        assert row["restarts"] == 1
    wait_for(lambda: stack.status()["gateway"]["state"] == "ready", "the gateway", stack.all_logs)
    assert stack.ask()["usage"]["completion_tokens"] > 0


def kill_supervisor(stack):
    (supervisor,) = (unit.process for unit in stack.units() if unit.name == "supervisord")
    os.kill(supervisor.pid, signal.SIGKILL)
    supervisor.wait(60)


@pytest.mark.only("embedded")
def test_services_do_not_outlive_a_killed_supervisor(stack):
    stack.up()
    kill_supervisor(stack)
    wait_for(lambda: not stack.units(), "the end of all services", lambda: f"{stack.units()}", timeout_s=60)
    assert {row["state"] for row in stack.status().values()} == {"stopped"}
    stack.run("status", code=3)


@pytest.mark.only("embedded")
def test_up_after_a_killed_supervisor(stack):
    stack.up()
    kill_supervisor(stack)
    stack.up()
    assert stack.ask()["usage"]["completion_tokens"] > 0
    assert stack.running() == stack.expected


@contextlib.contextmanager
def orphan(stack):
    """A service that lives on without a supervisor, as on systems whose kernel does not end it."""
    with subprocess.Popen(
        [sys.executable, "-c", "import time; print(flush=True); time.sleep(300)"],
        env={**os.environ, MARK: stack.home.mark("engines")},
        stdout=subprocess.PIPE,
    ) as process:
        try:
            process.stdout.readline()
            yield process
        finally:
            process.kill()


@pytest.mark.only("embedded")
def test_up_ends_what_a_dead_supervisor_left(stack):
    with orphan(stack) as process:
        said = stack.up()
        assert "ended what an earlier start had left without its supervisor: engines" in said
        assert process.wait(60) == -signal.SIGTERM
    assert stack.running() == stack.expected


@pytest.mark.only("embedded")
def test_down_ends_what_a_dead_supervisor_left(stack):
    stack.up()
    kill_supervisor(stack)
    with orphan(stack) as process:
        assert "engines: left without a supervisor, ended too" in stack.run("down")
        assert process.wait(60) == -signal.SIGTERM
    assert stack.units() == []
    assert not listens(stack.environment["GATEWAY_PORT"])
    assert not stack.home.socket.exists()


def test_down_ends_an_up_that_is_waiting(stack):
    waiting = stack.start("up", GATEWAY_DEFAULT_MODEL="nothing")
    wait_for(lambda: stack.status().get("gateway", {}).get("state") == "ready", "the gateway", stack.all_logs)
    stack.run("down")
    said, _ = waiting.communicate(timeout=30 * stack.patience)
    assert waiting.returncode == 1
    assert "the stack was stopped meanwhile" in said


def test_an_interrupted_up_leaves_the_stack_starting(stack):
    waiting = stack.start("up", GATEWAY_DEFAULT_MODEL="nothing")
    wait_for(lambda: stack.status().get("gateway", {}).get("state") == "ready", "the gateway", stack.all_logs)
    pids = stack.pids()
    waiting.send_signal(signal.SIGINT)
    said, _ = waiting.communicate(timeout=30)
    assert waiting.returncode == 130
    assert "goes on starting in the background" in said
    assert "Traceback" not in said
    assert pids.items() <= stack.pids().items()


def test_logs_are_followed_until_interrupted(stack):
    stack.up()
    following = stack.start("logs", "gateway", "-f", "-n", "0")
    lines = []
    reader = threading.Thread(target=lambda: lines.append(following.stdout.readline()))
    reader.start()
    # What is asked before it follows is not in what comes.
    wait_for(lambda: stack.ask() and lines, "a line that comes")
    following.send_signal(signal.SIGINT)
    reader.join(10)
    following.communicate(timeout=30)
    assert "/v1/chat/completions" in lines[0]
    assert following.returncode == 0
