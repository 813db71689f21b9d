import pytest

from services.engines.planning.machines import (
    GIB,
    SPARK_128_BYTES,
    MachineError,
    machine,
    proportionate_reserve,
    this_machine,
)


@pytest.mark.parametrize(
    ("name", "gib", "nodes"), [("spark-128", 121.69, 1), ("spark-64", 57.69, 1), ("dual-spark", 243.38, 2)]
)
def test_the_sparks_have_what_cuda_sees_of_them(name, gib, nodes):
    found = machine(name)
    assert found.total_bytes / GIB == pytest.approx(gib, abs=0.01)
    assert (found.nodes, found.gpu, found.available_bytes) == (nodes, True, found.total_bytes)
    assert found.bandwidth_bytes_per_s == nodes * 273e9
    assert 8e9 <= found.reserve_bytes / nodes <= 12e9


@pytest.mark.parametrize("name", ["24GiB", "24 GiB", " 24  gib", "24.0GiB"])
def test_a_size_is_a_machine(name):
    found = machine(name)
    assert found.total_bytes == 24 * GIB
    assert found.bandwidth_bytes_per_s is None


def test_decimal_sizes_are_decimal():
    assert machine("24 GB").total_bytes == 24_000_000_000
    assert machine("512MiB").total_bytes == 512 << 20


@pytest.mark.parametrize("name", ["", "spark", "24", "24 bananas", "-3 GiB", "GiB", "1e9 GiB", "9" * 400 + "GiB"])
def test_anything_else_is_told_what_there_is(name):
    with pytest.raises(MachineError, match="spark-128, spark-64, dual-spark, this, or a size such as 24GiB"):
        machine(name)


@pytest.mark.parametrize("name", ["0 GiB", "0.0MB", "99999999999 TiB"])
def test_a_size_that_no_machine_has(name):
    with pytest.raises(MachineError, match="not to be had"):
        machine(name)


@pytest.mark.parametrize(
    ("total", "reserve"), [(4, 1.0), (8, 1.0), (24, 1.92), (64, 5.12), (121.69, 9.7352), (512, 10.0)]
)
def test_small_machines_keep_a_gib_large_ones_what_a_spark_keeps(total, reserve):
    assert proportionate_reserve(int(total * GIB)) / GIB == pytest.approx(reserve, abs=0.001)


@pytest.fixture
def proc(tmp_path):
    (tmp_path / "meminfo").write_text(
        "MemTotal: 125829120 kB\nMemFree: 1048576 kB\nMemAvailable: 52428800 kB\nCached: 450 kB\n"
    )
    return tmp_path


def test_this_machine_has_its_own_memory_not_a_datasheets(proc, tmp_path):
    found = this_machine(gpus=tmp_path / "nothing", proc=proc)
    assert (found.total_bytes, found.available_bytes) == (120 * GIB, 50 * GIB)
    assert (found.gpu, found.bandwidth_bytes_per_s) == (False, None)


@pytest.mark.parametrize(("model", "is_spark"), [("NVIDIA GB10", True), ("NVIDIA GeForce RTX 4090", False)])
def test_a_spark_is_known_by_its_gpu(proc, tmp_path, model, is_spark):
    folder = tmp_path / "gpus/000f:01:00.0"
    folder.mkdir(parents=True)
    (folder / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 1\n")
    found = this_machine(gpus=folder.parent, proc=proc)
    assert found.gpu is is_spark
    assert found.bandwidth_bytes_per_s == (273e9 if is_spark else None)


def test_a_small_spark_keeps_what_sparks_need(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 60817408 kB\nMemFree: 1 kB\nMemAvailable: 2 kB\nCached: 1 kB\n")
    gpu = tmp_path / "gpus/0"
    gpu.mkdir(parents=True)
    (gpu / "information").write_text("Model: NVIDIA GB10\n")
    assert this_machine(gpus=gpu.parent, proc=tmp_path).reserve_bytes == 8 * GIB


def test_a_cap_makes_the_machine_smaller_and_never_larger():
    capped = machine("spark-128", cap_bytes=8 * GIB)
    assert (capped.total_bytes, capped.available_bytes, capped.reserve_bytes) == (8 * GIB, 8 * GIB, GIB)
    assert capped.physical_bytes == SPARK_128_BYTES, "engines take their share of what is really there"
    assert machine("8 GiB", cap_bytes=9 * GIB) == machine("8 GiB")


def test_this_machine_is_here():
    found = machine("this")
    assert 0 < found.available_bytes <= found.total_bytes
    assert found.reserve_bytes > 0
