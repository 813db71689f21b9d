import os

import pytest

from services.engines.host_memory import read_host_memory


@pytest.fixture
def proc(tmp_path):
    (tmp_path / "meminfo").write_text(
        "MemTotal: 1000 kB\nMemFree: 300 kB\nMemAvailable: 700 kB\nCached: 450 kB\nShmem: 50 kB\nHugePages_Total: 0\n"
    )
    (tmp_path / "buddyinfo").write_text(
        "Node 0, zone   DMA      1 0 0\nNode 0, zone Normal      5 4 3 0 2 0\nNode 1, zone Normal      5 0 0 0 0 0\n"
    )
    (tmp_path / "vmstat").write_text("pgfault 77\npgmajfault 12\n")
    return tmp_path


def test_the_kernels_figures_in_bytes(proc):
    memory = read_host_memory(proc)
    assert (memory.total, memory.free, memory.available) == (1_024_000, 307_200, 716_800)
    assert memory.page_cache == 400 * 1024  # shared memory is not given back
    assert memory.largest_free_block == os.sysconf("SC_PAGE_SIZE") * 16
    assert memory.major_faults == 12


def test_what_a_kernel_does_not_tell_is_zero(proc):
    (proc / "buddyinfo").unlink()
    (proc / "vmstat").unlink()
    memory = read_host_memory(proc)
    assert memory.total == 1_024_000
    assert (memory.largest_free_block, memory.major_faults) == (0, 0)


def test_a_machine_without_proc_still_tells_what_is_there(tmp_path):
    memory = read_host_memory(tmp_path)
    assert 0 < memory.available <= memory.total


def test_this_machine():
    memory = read_host_memory()
    assert 0 < memory.free <= memory.total
    assert 0 < memory.available <= memory.total
