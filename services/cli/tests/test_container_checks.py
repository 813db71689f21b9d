import os
from dataclasses import replace
from pathlib import Path

import pytest

from services.cli.containers import checks
from services.cli.containers.checks import (
    check_boot,
    check_disk,
    check_driver,
    check_engine,
    check_gpu,
    check_memory_plan,
    check_platforms,
    check_ports,
    check_toolkit,
    check_unified_memory,
)
from services.cli.containers.containers import Container
from services.cli.containers.docker import Engine
from services.cli.containers.host import Host
from tests.testkit.ports import free_listener, free_port

ENGINE = Engine("26.1.5", "2.26.1", "x86_64", Path("/"))
SPARK = replace(ENGINE, architecture="aarch64", runtimes=("runc", "nvidia"))


def levels(findings):
    return [finding.level for finding in findings]


def test_engines_that_can_and_cannot_run_it():
    assert levels(check_engine(ENGINE)) == ["ok", "ok"]
    (_, finding) = check_engine(replace(ENGINE, architecture="riscv64"))
    assert "amd64 and arm64 alone" in finding.text
    assert "unset DOCKER_HOST" in list(check_engine(replace(ENGINE, remote=True)))[-1].text


@pytest.fixture
def host(tmp_path):
    """A machine's /proc and /sys, and an empty PATH."""
    for name in ("proc", "sys", "programs"):
        (tmp_path / name).mkdir()
    return Host(tmp_path / "proc", tmp_path / "sys", {"PATH": str(tmp_path / "programs")})


def spark(host, *, driver="580.95.05", free=60, available=100, program=None):
    information = host.proc / "driver/nvidia/gpus/000f:01:00.0/information"
    information.parent.mkdir(parents=True)
    information.write_text("Model: \t\t NVIDIA GB10\nIRQ:   0\n")
    version = (
        f"NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  {driver}  Release Build\nGCC version: 13.3.0\n"
    )
    (host.proc / "driver/nvidia/version").write_text(version)
    kib = 2**20
    (host.proc / "meminfo").write_text(
        f"MemTotal: 1 kB\nMemFree: {free * kib} kB\nMemAvailable: {available * kib} kB\n"
    )
    (host.proc / "sys/vm").mkdir(parents=True)
    (host.proc / "sys/vm/min_free_kbytes").write_text("67584\n")
    for name, text in (program or {}).items():
        path = Path(host.variables["PATH"]) / name
        path.write_text(f"#!/bin/sh\necho '{text}'\n")
        path.chmod(0o755)


WELL = {"nvidia-ctk": "NVIDIA Container Toolkit CLI version 1.19.0", "systemctl": "active"}


def test_a_spark_that_is_well(host, monkeypatch):
    monkeypatch.setattr(Host, "cdi_files", [])
    spark(host, program=WELL)
    assert host.is_spark
    findings = list(check_gpu(SPARK, host, "spark"))
    assert {finding.level for finding in findings} == {"ok"}, findings


def test_the_spark_profile_wants_the_nvidia_runtime(host):
    (finding,) = check_gpu(ENGINE, host, "spark")
    assert finding.level == "fail"
    assert "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker" in finding.text


def test_a_gpu_that_containers_cannot_use_is_told_on_the_cpu_profile_too(host):
    assert list(check_gpu(ENGINE, host, "cpu")) == []
    device = host.sys / "bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x020000\n")
    assert list(check_gpu(ENGINE, host, "cpu")) == [], "a network card of theirs"
    (device / "class").write_text("0x030200\n")
    assert levels(check_gpu(ENGINE, host, "cpu")) == ["warn"]
    assert list(check_gpu(SPARK, host, "cpu")) == []


@pytest.mark.parametrize(("driver", "level"), [("570.1.2", "fail"), ("580.95.05", "ok"), ("590.48", "warn")])
def test_drivers_of_a_spark(host, driver, level):
    assert check_driver(host).level == "fail", "none is loaded"
    spark(host, driver=driver)
    assert (host.driver, check_driver(host).level) == (driver, level)


@pytest.mark.parametrize(
    ("version", "cdi", "level"), [("1.19.0", True, "ok"), ("1.19.1", False, "ok"), ("1.19.1", True, "warn")]
)
def test_toolkits_of_a_spark(host, monkeypatch, version, cdi, level):
    monkeypatch.setattr(Host, "cdi_files", [Path("/etc/cdi/nvidia.yaml")] if cdi else [])
    assert levels(check_toolkit(host)) == ["warn"], "not known"
    spark(host, program={"nvidia-ctk": f"NVIDIA Container Toolkit CLI version {version}\ncommit: x"})
    assert levels(check_toolkit(host)) == [level]


def test_what_freezes_unified_memory_is_told(host):
    spark(host, free=10, available=100)
    (host.proc / "sys/vm/min_free_kbytes").write_text("4194304\n")
    cache, reserve, guard = check_unified_memory(host)
    assert "flush-caches.sh" in cache.text
    assert "vm.min_free_kbytes is 4194304" in reserve.text
    assert "guard-service.sh install" in guard.text


@pytest.mark.parametrize(("said", "level"), [("enabled", ["ok"]), ("disabled", ["warn"]), ("", [])])
def test_what_starts_with_the_machine(host, said, level):
    assert list(check_boot(host)) == [], "there is no systemd"
    spark(host, program={"systemctl": said})
    assert levels(check_boot(host)) == level


def test_room_is_judged_where_images_are_missing(monkeypatch):
    monkeypatch.setitem(checks.NEEDED_DISK_BYTES, "cpu", 10**18)
    assert check_disk(ENGINE, "cpu", []).level == "ok"
    assert "docker system df" in check_disk(ENGINE, "cpu", ["x"]).text
    gone = replace(ENGINE, root=Path("/var/nothing/of/the/kind"))
    assert check_disk(gone, "cpu", []).level == "ok", "the nearest folder that there is"


def test_ports_are_free_held_by_the_stack_itself_or_taken():
    port = free_port()
    published = [("gateway", "127.0.0.1", port, 8000)]
    assert [finding.text for finding in check_ports(published, {})] == [f"port {port} is free for gateway"]
    with free_listener() as listener:
        taken = listener.getsockname()[1]
        (finding,) = check_ports([("gateway", "127.0.0.1", taken, 8000)], {})
        assert finding.level == "fail"
        assert f"(pid {os.getpid()}" in finding.text
        assert "set GATEWAY_PORT" in finding.text
        (finding,) = check_ports([("gateway", "127.0.0.1", taken, 11434)], {})
        assert "set GATEWAY_OLLAMA_PORT" in finding.text
        own = {"gateway": Container("1", "g", "gateway", "running", ports={8000: ("127.0.0.1", taken)})}
        assert levels(check_ports([("gateway", "127.0.0.1", taken, 8000)], own)) == ["ok"]
    (finding,) = check_ports([("grafana", "192.0.2.1", port, 3000)], {})
    assert "can't be published on 192.0.2.1" in finding.text
    assert "GRAFANA_PORT" in finding.text


def test_models_that_are_named_must_fit_side_by_side(home):
    assert list(check_memory_plan(home, "")) == []
    (fits,) = check_memory_plan(home, "smollm2")
    assert fits.level == "ok", fits
    assert "MODELS=smollm2 fit" in fits.text
    (unknown,) = check_memory_plan(home, "no-such-model")
    assert "no-such-model" in unknown.text
    assert unknown.level == "fail"


def test_images_of_another_kind_of_machine_are_named():
    found = {"a:1": "linux/amd64", "b:1": "linux/arm64", "c:1": ""}
    (finding,) = check_platforms(found, ENGINE)
    assert finding.text == "b:1 here is for linux/arm64, this machine is linux/amd64; docker rmi b:1"
