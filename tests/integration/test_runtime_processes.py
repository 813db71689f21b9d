"""Engines as programs of a real supervisord: started, adopted, ended with all they have, and nothing else touched."""

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from services.cli.home import Home
from services.cli.supervision import Supervisor
from services.engines.runtimes import EngineStartError, LaunchSpec, RuntimeUnreachableError
from services.engines.runtimes.processes import SupervisordRuntime
from services.kit.launch import MARK
from services.kit.processes import lives, marked
from services.kit.supervisord import ON_DEMAND, program
from tests.testkit.supervisord import run_supervisord

pytestmark = pytest.mark.slow  # processes that are started, stopped and waited for

SLEEP = "import time; print('up', flush=True); time.sleep(300)"
# A worker in a session of its own, as engines have them; both take no notice of SIGTERM.
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
                  "print('up', flush=True); time.sleep(300)"], start_new_session=True)
time.sleep(300)
"""
POLITE = """
import signal, sys, time
def leave(*_):
    print("goodbye", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
print("up", flush=True)
time.sleep(300)
"""


def spec(code=SLEEP, name="test-engine", **environment):
    return LaunchSpec(name, "m", "test", (sys.executable, "-c", code), port=1, environment=environment)


@pytest.fixture
async def supervisord(tmp_path):
    async with run_supervisord(tmp_path) as running:
        yield running


def runtime_of(supervisord):
    return SupervisordRuntime(supervisord.socket, supervisord.on_demand, supervisord.folder, supervisord.folder)


@pytest.fixture
async def runtime(supervisord):
    runtime = runtime_of(supervisord)
    yield runtime
    await runtime.close()


async def until(condition, timeout_s=60.0):
    """What `condition` returns as soon as that is true."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := await condition():
            return found
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come true")


async def started(runtime, what, says="up"):
    """Start an engine, and return it when it has said so."""
    await runtime.start(what)
    await until(lambda: said(runtime, what.name, says))
    return (await runtime.instances())[what.name]


async def said(runtime, name, words):
    return words in (await runtime.logs(name, 100)).splitlines()


async def exited(runtime, name):
    found = (await runtime.instances())[name]
    return found if found.state == "exited" else None


async def marked_pids(folder, name="test-engine"):
    return {process.pid for process in await asyncio.to_thread(marked, f"{folder}:{name}")}


async def assert_nothing_left(supervisord, name="test-engine"):
    assert list(supervisord.on_demand.iterdir()) == []
    assert ON_DEMAND + name not in await supervisord.processes()
    assert await marked_pids(supervisord.folder, name) == set()
    zombies = [p for p in psutil.Process(supervisord.child.pid).children() if p.status() == psutil.STATUS_ZOMBIE]
    assert zombies == []


async def test_an_engine_runs_with_its_environment_and_keeps_its_key_from_lists(supervisord, runtime):
    tell = "import os, json; print(json.dumps([os.environ['ENGINE_API_KEY'], os.environ['SPARKSTACK_UNIT']]));"
    key = "sk-s3cret % ;\n'x\""
    engine = await started(runtime, spec(tell + SLEEP, ENGINE_API_KEY=key))
    assert engine.state == "running"
    assert engine.exit_status is None
    main = psutil.Process(engine.pids[0])
    assert json.loads((await runtime.logs("test-engine", 100)).splitlines()[0]) == [
        key,
        f"{supervisord.folder}:test-engine",
    ]
    assert "s3cret" not in " ".join(main.cmdline())
    conf = supervisord.on_demand / "test-engine.conf"
    assert "s3cret" not in conf.read_text()
    for path in supervisord.on_demand.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    await runtime.stop("test-engine", grace_s=10)


async def test_a_stopped_engine_may_say_goodbye_and_leaves_nothing(supervisord, runtime):
    engine = await started(runtime, spec(POLITE))
    await runtime.stop("test-engine", grace_s=20)
    assert await said(runtime, "test-engine", "goodbye")
    assert not psutil.pid_exists(engine.pids[0])
    assert await runtime.instances() == {}
    await assert_nothing_left(supervisord)


async def test_stopping_what_is_not_there_is_no_error(runtime):
    await runtime.stop("nobody", grace_s=5)


@pytest.mark.parametrize("grace_s", [0, 0.3])
async def test_an_engine_and_its_workers_that_ignore_sigterm_are_forced(supervisord, runtime, grace_s):
    engine = await started(runtime, spec(STUBBORN))
    assert len(engine.pids) == 2
    await runtime.stop("test-engine", grace_s=grace_s)
    assert [pid for pid in engine.pids if psutil.pid_exists(pid) and lives(psutil.Process(pid))] == []
    await assert_nothing_left(supervisord)


async def test_an_engine_that_was_stopped_by_a_signal_is_gone_too(supervisord, runtime):
    engine = await started(runtime, spec(STUBBORN))
    for pid in engine.pids:
        os.kill(pid, signal.SIGSTOP)
    await runtime.stop("test-engine", grace_s=0.3)
    await assert_nothing_left(supervisord)


async def test_an_engine_that_was_stopped_by_a_signal_may_still_say_goodbye(runtime):
    engine = await started(runtime, spec(POLITE))
    os.kill(engine.pids[0], signal.SIGSTOP)
    await runtime.stop("test-engine", grace_s=20)
    assert await said(runtime, "test-engine", "goodbye")


async def test_a_killed_engine_is_told_by_its_signal_and_its_orphans_are_ended(supervisord, runtime):
    engine = await started(runtime, spec(STUBBORN))
    os.kill(engine.pids[0], signal.SIGKILL)
    dead = await until(lambda: exited(runtime, "test-engine"))
    assert (dead.exit_status, dead.reason, dead.pids) == (-signal.SIGKILL, "ended by SIGKILL", ())
    assert psutil.pid_exists(engine.pids[1])
    await runtime.stop("test-engine", grace_s=0.1)
    await assert_nothing_left(supervisord)


async def test_a_crash_is_told_by_its_status_and_is_not_undone(runtime):
    await runtime.start(spec("import sys; print('no memory'); sys.exit(3)"))
    dead = await until(lambda: exited(runtime, "test-engine"))
    assert (dead.exit_status, dead.reason) == (3, "exit status 3")
    assert await runtime.logs("test-engine", 10) == "no memory"


async def test_an_engine_that_has_ended_can_be_started_again(runtime):
    await runtime.start(spec("pass"))
    await until(lambda: exited(runtime, "test-engine"))
    assert (await started(runtime, spec())).state == "running"


async def test_a_program_that_is_not_there_says_so_in_the_log(runtime):
    await runtime.start(LaunchSpec("test-engine", "m", "test", ("/nowhere/vllm",), port=1))
    dead = await until(lambda: exited(runtime, "test-engine"))
    assert dead.exit_status == 1
    assert "/nowhere/vllm" in await runtime.logs("test-engine", 5)


async def test_one_engine_of_a_name(runtime):
    engine = await started(runtime, spec())
    with pytest.raises(EngineStartError, match=rf"runs already \(pid {engine.pids[0]}\)"):
        await runtime.start(spec())


@pytest.mark.parametrize("name", ["", "../x", "a b", "a:b", "a/b", ".x", "a\n"])
async def test_names_that_are_no_names_are_refused(runtime, name):
    with pytest.raises(EngineStartError, match="can't be named"):
        await runtime.start(spec(name=name))


async def test_folders_may_have_awkward_names(tmp_path):
    folder = tmp_path / "a b 100% 'c'"
    folder.mkdir()
    async with run_supervisord(folder) as supervisord:
        runtime = runtime_of(supervisord)
        assert (await started(runtime, spec())).state == "running"
        await runtime.stop("test-engine", grace_s=10)
        await assert_nothing_left(supervisord)


async def test_engines_outlive_the_service_that_started_them(supervisord, runtime):
    engine = await started(runtime, spec())
    await runtime.close()
    later = runtime_of(supervisord)
    assert (await later.instances())["test-engine"] == engine
    await later.stop("test-engine", grace_s=10)
    await assert_nothing_left(supervisord)


async def test_a_start_whose_caller_has_left_is_completed_and_can_be_stopped(supervisord, runtime):
    leaving = asyncio.create_task(runtime.start(spec()))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await runtime.stop("test-engine", grace_s=10)
    assert await runtime.instances() == {}
    await assert_nothing_left(supervisord)


async def test_looking_while_engines_start_takes_nothing_away(runtime):
    names = [f"e{number}" for number in range(4)]

    async def look():
        while True:
            await runtime.instances()

    looking = [asyncio.create_task(look()) for _ in range(2)]
    for name in names:
        await runtime.start(spec(name=name))
    for task in looking:
        task.cancel()
    found = await runtime.instances()
    assert {name: instance.state for name, instance in found.items()} == dict.fromkeys(names, "running")
    await asyncio.gather(*(runtime.stop(name, grace_s=10) for name in names))


async def test_a_supervisord_that_does_not_include_the_folder_is_named(tmp_path):
    async with run_supervisord(tmp_path, include=False) as supervisord:
        runtime = runtime_of(supervisord)
        with pytest.raises(EngineStartError, match=r"doesn't include .*on-demand/\*.conf; `make up`"):
            await runtime.start(spec())
        await assert_nothing_left(supervisord)


async def test_without_supervisord_nothing_starts_and_what_runs_can_still_be_ended(tmp_path):
    async with run_supervisord(tmp_path) as supervisord:
        runtime = runtime_of(supervisord)
        engine = await started(runtime, spec(STUBBORN))
        supervisord.child.send_signal(signal.SIGKILL)
        await supervisord.child.wait()
        with pytest.raises(RuntimeUnreachableError, match="supervisord"):
            await runtime.instances()
        with pytest.raises(EngineStartError, match="make up"):
            await runtime.start(spec(name="another"))
        assert lives(psutil.Process(engine.pids[0]))
        await runtime.stop("test-engine", grace_s=0.1)
        assert await marked_pids(tmp_path) == set()
        assert list(supervisord.on_demand.iterdir()) == []
    # One that is started again includes nothing of the past.
    async with run_supervisord(tmp_path) as supervisord:
        assert await runtime_of(supervisord).instances() == {}


async def test_what_a_killed_service_has_left_is_removed(supervisord, runtime):
    """The files were written, and at most read, when the service was killed: nothing runs."""
    for name in ("written", "read"):
        text = program(ON_DEMAND + name, [sys.executable], log=supervisord.folder / "x.log", autostart="false")
        (supervisord.on_demand / f"{name}.conf").write_text(text)
        (supervisord.on_demand / f"{name}.json").write_text("{}")
    await supervisord.call("reloadConfig")
    await supervisord.call("addProcessGroup", ON_DEMAND + "read")
    assert await runtime.instances() == {}
    await assert_nothing_left(supervisord, "read")


def other(supervisord, code):
    """A service of the stack that has nothing to do with engines."""
    return program("other", [sys.executable, "-c", code], log=supervisord.folder / "other.log", startsecs=0)


async def test_changes_of_others_are_not_applied_and_theirs_leave_engines_alone(supervisord, runtime, monkeypatch):
    """`sparkstack up` writes a new configuration while an engine starts."""
    monkeypatch.setattr(Home, "socket", supervisord.socket)
    stack = Supervisor(Home(Path.cwd(), supervisord.folder, supervisord.folder))
    (supervisord.folder / "run").mkdir()
    await supervisord.configure(other(supervisord, "import time; time.sleep(300)"))
    assert await asyncio.to_thread(stack.update) == ["other"]
    before = (await supervisord.processes())["other"].pid
    await supervisord.configure(other(supervisord, "import time; time.sleep(301)"))
    engine = await started(runtime, spec())
    await runtime.start(spec("pass", name="crashed"))
    await until(lambda: exited(runtime, "crashed"))
    assert (await supervisord.processes())["other"].pid == before
    # Now `up` goes on. Files of an engine are gone already whose program is still there, too.
    (supervisord.on_demand / "crashed.conf").unlink()
    assert await asyncio.to_thread(stack.update) == ["other"]
    found = await runtime.instances()
    assert found["test-engine"] == engine
    assert found["crashed"].state == "exited"
    assert set(await asyncio.to_thread(stack.processes)) == {"other"}


async def test_every_process_is_found_by_its_mark(supervisord, runtime):
    engine = await started(runtime, spec(STUBBORN))
    assert await marked_pids(supervisord.folder) == set(engine.pids)
    assert MARK in psutil.Process(engine.pids[1]).environ()
    await runtime.stop("test-engine", grace_s=0)


async def test_only_the_last_lines_are_returned(runtime):
    await started(runtime, spec(f"for i in range(10): print(i)\n{SLEEP}"))
    assert await runtime.logs("test-engine", 3) == "8\n9\nup"
    assert await runtime.logs("test-engine", 0) == ""
    assert await runtime.logs("nobody", 3) == ""
