import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil

from services.cli.home import Home
from services.cli.processes import end_units, find_units, holder_of
from services.kit.launch import MARK
from services.kit.processes import lives, mark_of
from tests.testkit.ports import free_listener

SLEEP = "import time; print(flush=True); time.sleep(300)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"


@contextlib.contextmanager
def child(program, **variables):
    """A Python program that has printed a line, and runs on."""
    process = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, **variables}, stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_stacks_processes_are_found_by_their_mark_alone(home):
    other = Home(home.code, home.root, home.state.with_name(".state2"))
    with child(SLEEP, **{MARK: home.mark("gateway")}) as own, child(SLEEP, **{MARK: other.mark("gateway")}):
        assert [(unit.name, unit.process.pid) for unit in find_units(home)] == [("gateway", own.pid)]
        assert mark_of(psutil.Process(own.pid)) == home.mark("gateway")


def test_a_service_does_not_find_itself_and_those_above_it(home):
    """`sparkstack down` in a shell that a service has opened must not end itself half-way."""
    program = f"""
from pathlib import Path
from services.cli.home import Home
from services.cli.processes import find_units
print(find_units(Home(Path("."), Path("."), Path({str(home.state)!r}))))
"""
    with child(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {program!r}])",
               **{MARK: home.mark("shell")}) as process:  # fmt: skip
        assert process.wait(30) == 0
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, MARK: home.mark("shell")}, capture_output=True, text=True
    )
    assert done.stdout == "[]\n", done.stderr


def test_processes_end_when_asked(home):
    with child(SLEEP, **{MARK: home.mark("gateway")}) as process:
        assert [unit.name for unit in end_units(find_units(home), grace_s=10)] == ["gateway"]
        assert process.wait(1) == -signal.SIGTERM


def test_a_process_that_does_not_end_is_forced(home):
    with child(STUBBORN, **{MARK: home.mark("gateway")}) as process:
        end_units(find_units(home), grace_s=0.2)
        assert process.wait(1) == -signal.SIGKILL


def test_a_process_that_nobody_asks_about_counts_as_ended(home):
    with child(SLEEP, **{MARK: home.mark("gateway")}) as process:
        (unit,) = find_units(home)
        started = time.monotonic()
        end_units([unit], grace_s=30)  # it is this test's child, and stays a zombie until the test asks
        assert time.monotonic() - started < 10
        assert not lives(unit.process)
        assert find_units(home) == []
        assert process.wait(1) == -signal.SIGTERM


def test_the_holder_of_a_port_is_told(home):
    with free_listener() as listener:
        holder = holder_of(listener.getsockname()[1])
        assert holder.pid == os.getpid()
        assert f"(pid {os.getpid()}, `" in str(holder)
        assert len(str(holder)) < 140
