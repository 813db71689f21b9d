import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from services.engines.commands.guard import guard, unit
from services.engines.host_memory import HostMemory
from services.engines.loading.host_guard import (
    HostGuard,
    NoRightsError,
    Relief,
    Reliever,
    check_rights,
    relieve,
    touch,
    untouch,
)
from services.engines.tests.proc_files import GIB, proc_folder


@pytest.fixture
def proc(tmp_path):
    return proc_folder(tmp_path)


@pytest.fixture
def marker(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run" / "loading"


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def host_guard(proc, marker, **options):
    return HostGuard(8 * GIB, proc=proc.folder, marker=marker, clock=options.pop("clock", Clock()), **options)


def test_caches_are_dropped_and_memory_compacted(proc):
    relief = relieve(proc.folder)
    assert proc.dropped
    assert proc.compact_memory.read_text() == "1"
    assert relief.before.free == relief.after.free == 50 * GIB
    assert not relief.helped


def test_nothing_is_done_while_no_engine_loads(proc, marker):
    proc.set_memory(free_gib=1)
    assert host_guard(proc, marker).look() is None
    assert not proc.dropped


def test_low_memory_while_an_engine_loads_drops_caches(proc, marker):
    guard = host_guard(proc, marker)
    proc.set_memory(free_gib=50, cached_gib=0.5)
    touch(marker)
    assert guard.look() is None
    proc.set_memory(free_gib=7.9)
    assert guard.look() is not None
    assert proc.dropped


def test_the_beginning_of_a_load_drops_caches_whatever_is_free(proc, marker):
    """vLLM looks at its start for all that it wants, and counts cached files as taken."""
    guard = host_guard(proc, marker)
    touch(marker)
    assert guard.look() is not None
    assert proc.dropped
    assert guard.look() is None  # enough is free
    untouch(marker)
    assert guard.look() is None
    touch(marker)
    assert guard.look() is not None  # the next engine


def test_a_small_cache_is_left_alone(proc, marker):
    proc.set_memory(free_gib=50, cached_gib=0.9)
    touch(marker)
    assert host_guard(proc, marker).look() is None


def test_a_marker_that_nobody_touches_any_more_counts_for_nothing(proc, marker):
    proc.set_memory(free_gib=1)
    touch(marker)
    os.utime(marker, (time.time() - 60, time.time() - 60))
    assert host_guard(proc, marker).look() is None


def test_always_needs_no_marker(proc, marker):
    guard = host_guard(proc, marker, always=True)
    assert guard.look() is None
    proc.set_memory(free_gib=1)
    assert guard.look() is not None


def test_a_marker_is_only_made_where_a_host_guard_has_its_folder(tmp_path):
    touch(tmp_path / "nowhere" / "loading")
    assert list(tmp_path.iterdir()) == []


def relief(freed_gib):
    before = HostMemory(total=120 * GIB, free=2 * GIB, available=50 * GIB)
    return Relief(before, HostMemory(120 * GIB, int((2 + freed_gib) * GIB), 50 * GIB), 0.1)


def test_what_helps_is_done_every_five_seconds_at_most():
    clock = Clock()
    reliever = Reliever(lambda: relief(10), clock)
    done = []
    for second in range(21):
        clock.now = second
        done += [second] if reliever() else []
    assert done == [0, 5, 10, 15, 20]


def test_what_does_not_help_is_done_ever_more_seldom_and_anew_for_the_next_engine():
    clock = Clock()
    reliever = Reliever(lambda: relief(0.1), clock)
    done = []
    for second in range(300):
        clock.now = second
        done += [second] if reliever() else []
    assert done == [0, 10, 30, 70, 130, 190, 250]
    reliever.forget()
    assert reliever() is not None


def test_no_linux_no_rights(tmp_path):
    with pytest.raises(NoRightsError, match="only Linux"):
        check_rights(tmp_path)


def test_a_file_that_cannot_be_written_says_what_to_do(proc):
    proc.compact_memory.unlink()
    proc.compact_memory.mkdir()  # root may write to any file
    for act in (check_rights, relieve):
        with pytest.raises(NoRightsError, match=r"compact_memory can't be written \(.*\): run `sudo sparkstack guard`"):
            act(proc.folder)


# --- the command


def invoke(*arguments, status=0):
    result = CliRunner().invoke(guard, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result.output


def test_once_drops_and_says_what_it_gave(proc, monkeypatch):
    monkeypatch.setattr(os, "sync", lambda: None)  # this machine's disk may be busy
    assert "MemFree 50.00 GiB → 50.00 GiB in" in invoke("--once", "--proc", proc.folder)
    assert proc.dropped


def test_without_rights_it_says_so(tmp_path):
    assert "only Linux" in invoke("--once", "--proc", tmp_path, status=1)


def test_it_looks_each_interval_and_logs_what_it_did(proc, marker):
    marker.parent.rmdir()
    arguments = ["guard", "--interval", "0.1", "--proc", str(proc.folder), "--marker", str(marker)]
    process = subprocess.Popen(
        [sys.executable, "-m", "services.cli.main", *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        assert '"guard.started"' in process.stdout.readline()
        # Every user may touch a file there, and remove none of others.
        assert marker.parent.stat().st_mode & 0o7777 == 0o1777
        proc.set_memory(free_gib=3)
        touch(marker)
        line = process.stdout.readline()
        assert '"guard.dropped_caches"' in line
        assert '"free_before_gib":3.0' in line
        assert proc.dropped
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_unit_runs_this_installation():
    text = invoke("--print-unit", "--min-free-gib", "6.5")
    assert f"ExecStart={sys.executable} -m services.cli.main guard --min-free-gib 6.5 --interval 1\n" in text


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="optional: systemd is not installed here")
@pytest.mark.parametrize("python", [sys.executable, "/home/a b/100%/python"])
def test_systemd_understands_the_unit(tmp_path, monkeypatch, python):
    monkeypatch.setattr(sys, "executable", python)
    file = tmp_path / "sparkstack-guard.service"
    file.write_text(unit(8, 1))
    done = subprocess.run(["systemd-analyze", "verify", str(file)], capture_output=True, text=True, timeout=60)
    # Of all that it finds on this machine, what concerns this unit.
    missing = f"sparkstack-guard.service: Command {python} is not executable: No such file or directory"
    problems = {line for line in done.stderr.splitlines() if "sparkstack-guard" in line}
    assert problems == (set() if Path(python).exists() else {missing})
