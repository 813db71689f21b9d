"""Scripts for the host of a Spark, run against made-up programs and files: no Spark was here."""

import os
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "scripts" / "spark"
VERSION = "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  {}  Release Build\n"


@pytest.fixture
def machine(tmp_path):
    """A /proc and a PATH of this test's own."""
    (tmp_path / "proc/sys/vm").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 134217728 kB\nMemFree: 8388608 kB\n")
    (tmp_path / "proc/driver/nvidia/version").write_text(VERSION.format("580.95.05"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "cdi").mkdir()
    (tmp_path / "units").mkdir()
    return tmp_path


def program(machine, name, text):
    path = machine / "bin" / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def run(machine, script, *arguments, code=0, **variables):
    environment = {
        "PATH": f"{machine / 'bin'}:/usr/bin:/bin",
        "PROC": str(machine / "proc"),
        "CDI": str(machine / "cdi"),
        "UNITS": str(machine / "units"),
        "LOG": str(machine / "log"),
        **variables,
    }
    done = subprocess.run(
        [str(FOLDER / script), *arguments], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_every_script_can_be_called():
    for script in FOLDER.glob("*.sh"):
        assert os.access(script, os.X_OK), script
        subprocess.run(["sh", "-n", str(script)], check=True, timeout=60)


def test_caches_are_written_out_dropped_and_memory_compacted(machine):
    for name in ("drop_caches", "compact_memory"):
        (machine / "proc/sys/vm" / name).write_text("0\n")
    assert "free memory: 8192 MiB before, 8192 MiB after" in run(machine, "flush-caches.sh")
    assert (machine / "proc/sys/vm/drop_caches").read_text() == "3\n"
    assert (machine / "proc/sys/vm/compact_memory").read_text() == "1\n"


def test_a_cache_that_cannot_be_dropped_is_told(machine):
    said = run(machine, "flush-caches.sh", code=1)
    assert "can't be written; run it as root, on the host: sudo" in said


@pytest.fixture
def toolkit(machine):
    program(machine, "docker", 'echo \'{"nvidia":{},"runc":{}}\'')
    program(machine, "nvidia-ctk", "echo 'NVIDIA Container Toolkit CLI version 1.19.0'; echo 'commit: 2b5fa1f'")
    return machine


def test_a_machine_that_is_well(toolkit):
    said = run(toolkit, "check-toolkit.sh")
    assert [line.split()[0] for line in said.splitlines()] == ["ok", "ok", "ok"]
    assert "container toolkit 1.19.0, CDI off" in said


def test_what_is_missing_is_told_with_what_to_do(machine):
    (machine / "proc/driver/nvidia/version").unlink()
    program(machine, "docker", "echo '{\"runc\":{}}'")
    said = run(machine, "check-toolkit.sh", code=1)
    assert "fail  NVIDIA's driver is not loaded" in said
    assert "fail  Docker has no NVIDIA runtime: sudo nvidia-ctk runtime configure" in said
    assert "fail  nvidia-ctk is not installed" in said


def test_an_engine_that_does_not_answer_is_told(toolkit):
    program(toolkit, "docker", "echo 'Cannot connect'; exit 1")
    assert "fail  no engine answers docker: Cannot connect" in run(toolkit, "check-toolkit.sh", code=1)


def test_what_has_frozen_sparks_is_warned_of(toolkit):
    (toolkit / "cdi" / "nvidia.yaml").write_text("")
    program(toolkit, "nvidia-ctk", "echo 'NVIDIA Container Toolkit CLI version 1.19.1'")
    (toolkit / "proc/driver/nvidia/version").write_text(VERSION.format("590.48.01"))
    said = run(toolkit, "check-toolkit.sh")
    assert "warn  NVIDIA's container toolkit 1.19.1 with CDI on" in said
    assert "warn  NVIDIA's driver 590.48.01" in said


def test_a_container_is_asked_for_its_gpu(toolkit):
    program(
        toolkit, "docker",
        'case $1 in info) echo \'{"nvidia":{}}\';; run) echo "$*" >> "$LOG"; echo "GPU 0: NVIDIA GB10";; esac',
    )  # fmt: skip
    assert "a container sees: GPU 0: NVIDIA GB10" in run(toolkit, "check-toolkit.sh", "--run", "image:1")
    assert "--network none" in (toolkit / "log").read_text()


@pytest.fixture
def guarded(machine):
    program(machine, "systemctl", 'echo "systemctl $*" >> "$LOG"')
    command = program(machine, "sparkstack", 'echo "[Service]"; echo "ExecStart=$0 $*"')
    return machine, {"SPARKSTACK": str(command)}


def test_the_guard_becomes_a_service_and_goes(guarded):
    machine, variables = guarded
    said = run(machine, "guard-service.sh", "install", **variables)
    assert "is installed and started" in said
    unit = machine / "units" / "sparkstack-guard.service"
    assert unit.read_text().startswith("[Service]\nExecStart=")
    assert unit.stat().st_mode & 0o777 == 0o644
    assert (machine / "log").read_text().splitlines() == [
        "systemctl daemon-reload",
        "systemctl enable --now sparkstack-guard.service",
    ]
    run(machine, "guard-service.sh", "remove", **variables)
    assert not unit.exists()


def test_the_unit_is_the_guards_own():
    """What `doctor` looks for is what is installed."""
    from services.cli.containers.checks import GUARD_UNIT

    assert f"unit={GUARD_UNIT}\n" in (FOLDER / "guard-service.sh").read_text()


def test_without_a_command_line_nothing_is_installed(guarded):
    machine, _ = guarded
    said = run(machine, "guard-service.sh", "install", code=1, SPARKSTACK="/nothing")
    assert "run `make up` first" in said
    assert list((machine / "units").iterdir()) == []
    assert "usage: " in run(machine, "guard-service.sh", code=1)


def test_nobody_installs_what_they_may_not(guarded):
    machine, variables = guarded
    said = run(machine, "guard-service.sh", "install", code=1, **{**variables, "UNITS": "/nothing/here"})
    assert "run it as root" in said
