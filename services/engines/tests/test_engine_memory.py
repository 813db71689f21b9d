import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.engines.host_memory import HostMemory
from services.engines.loading.engine_memory import MemoryMeter, tree_memory

MIB = 2**20
LINUX = sys.platform == "linux"
# Says what it holds at each step, and goes on to the next one when it gets a line.
ENGINE = """
import sys
def step(word):
    print(word, flush=True)
    sys.stdin.readline()
step("started")
transient = bytearray(b"x" * (300 << 20))
step("peak")
del transient
weights = bytearray(b"x" * (100 << 20))
step("settled")
"""
WITH_WORKERS = """
import os, sys
weights = bytearray(b"x" * (100 << 20))
for _ in range(2):
    if os.fork() == 0:
        own = bytearray(b"x" * (30 << 20))
        os.write(1, b"worker\\n")
        sys.stdin.read()
        os._exit(0)
sys.stdin.read()
"""


@contextlib.contextmanager
def child(program):
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.stdin.close()
            process.wait(60)


def memory(available_mib):
    return HostMemory(total=2000 * MIB, free=0, available=available_mib * MIB)


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not LINUX, reason="optional: Linux alone tells what a process holds in such detail"),
]


def test_peak_and_settled_of_an_engine_that_really_takes_memory():
    """The machine's own figure stands still here, so that nothing else on this machine is measured."""
    meter = MemoryMeter(available_before=1000 * MIB)
    with child(ENGINE) as process:
        for word in ("started", "peak", "settled"):
            assert process.stdout.readline().strip() == word
            meter.observe(memory(1000), tree_memory([process.pid]))
            process.stdin.write("\n")
            process.stdin.flush()
    assert 300 * MIB < meter.peak_bytes < 340 * MIB
    assert 100 * MIB < meter.held_bytes < 140 * MIB


@pytest.mark.parametrize("pss_up_to_bytes", [2**40, 0])
def test_what_workers_share_counts_once_and_what_they_have_counts_each(pss_up_to_bytes):
    with child(WITH_WORKERS) as process:
        assert [process.stdout.readline() for _ in range(2)] == ["worker\n"] * 2
        held = tree_memory([process.pid], pss_up_to_bytes=pss_up_to_bytes)
    if pss_up_to_bytes:
        assert 160 * MIB < held < 210 * MIB
    else:  # pages that forked processes share are anonymous: RSS counts them each time
        assert 360 * MIB < held < 430 * MIB


def test_where_pss_may_not_be_read_rss_is_taken(tmp_path):
    pid = os.getpid()
    (tmp_path / str(pid)).mkdir()
    (tmp_path / str(pid) / "statm").write_text("9000 2000 500 1 0 0 0\n")
    assert tree_memory([pid], proc=tmp_path) == 2000 * os.sysconf("SC_PAGE_SIZE")


def test_a_file_that_several_map_counts_once_also_without_pss(tmp_path):
    with child(WITH_WORKERS) as process:
        assert [process.stdout.readline() for _ in range(2)] == ["worker\n"] * 2
        pids = [process.pid, *(int(pid) for pid in _children(process.pid))]
        for pid in pids:
            (tmp_path / str(pid)).mkdir()
            (tmp_path / str(pid) / "statm").write_text("9000 1100 1000 1 0 0 0\n")
        assert tree_memory([process.pid], proc=tmp_path) == (3 * 100 + 1000) * os.sysconf("SC_PAGE_SIZE")


def _children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_who_has_ended_holds_nothing():
    with child("pass") as process:
        process.wait(60)
        assert tree_memory([process.pid]) == 0
    assert tree_memory([]) == 0


def test_a_process_that_is_named_twice_counts_once():
    with child(ENGINE) as process:
        process.stdout.readline()
        once = tree_memory([process.pid])
        assert tree_memory([process.pid, process.pid]) == pytest.approx(once, rel=0.05)
        for _ in range(3):
            process.stdin.write("\n")


def test_what_a_driver_took_is_seen_by_the_machines_memory():
    meter = MemoryMeter(available_before=1000 * MIB)
    for available, processes in ((990, 5), (300, 20), (500, 30)):
        meter.observe(memory(available), processes * MIB)
    assert (meter.peak_bytes, meter.held_bytes) == (700 * MIB, 500 * MIB)


def test_memory_that_others_gave_back_makes_no_engine_smaller_than_nothing():
    meter = MemoryMeter(available_before=1000 * MIB)
    meter.observe(memory(1500))
    assert (meter.peak_bytes, meter.held_bytes) == (0, 0)
