import json
import os
import subprocess
import sys
import time

import psutil
import pytest

AWKWARD = "a \"b\" 'c' % ; d\ne"
LINUX = sys.platform == "linux"


@pytest.fixture
def launch(tmp_path):
    """A function that launches a Python program as supervisord would, this process standing in for it."""
    (tmp_path / "supervisord.pid").write_text(f"{os.getpid()}\n")

    def start(program):
        document = {
            "command": [sys.executable, "-c", program],
            "environment": {"GIVEN": AWKWARD},
            "supervisor_pid_file": str(tmp_path / "supervisord.pid"),
            "starts_file": str(tmp_path / "starts"),
        }
        (tmp_path / "launch.json").write_text(json.dumps(document))
        return [sys.executable, "-m", "services.kit.launch", str(tmp_path / "launch.json"), "digest"]

    return start


def test_a_service_gets_any_value_unharmed_and_keeps_the_process(launch):
    command = launch("import os; print(os.getpid(), repr(os.environ['GIVEN']), 'PATH' in os.environ)")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    said, _ = process.communicate(timeout=30)
    assert said == f"{process.pid} {AWKWARD!r} True\n"


def test_starts_are_counted(launch, tmp_path):
    for count in ("1", "2"):
        subprocess.run(launch("pass"), check=True, timeout=30)
        assert (tmp_path / "starts").read_text() == count
    (tmp_path / "starts").write_text("what?")
    subprocess.run(launch("pass"), check=True, timeout=30)
    assert (tmp_path / "starts").read_text() == "1"


@pytest.mark.skipif(not LINUX, reason="optional: Linux alone ties a process to its parent")
def test_a_service_ends_with_its_supervisor(launch, tmp_path):
    """A process between this one and the service is the supervisor, and is killed."""
    service = launch("import time; print('up', flush=True); time.sleep(300)")
    supervisor = f"""
import os, pathlib, subprocess
pathlib.Path({str(tmp_path / "supervisord.pid")!r}).write_text(str(os.getpid()))
process = subprocess.Popen({service!r}, stdout=subprocess.PIPE)
process.stdout.readline()
print(process.pid, flush=True)
process.wait()
"""
    with subprocess.Popen([sys.executable, "-c", supervisor], stdout=subprocess.PIPE, text=True) as process:
        child = psutil.Process(int(process.stdout.readline()))
        process.kill()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.02)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


@pytest.mark.skipif(not LINUX, reason="optional: Linux alone ties a process to its parent")
def test_a_service_does_not_start_without_its_supervisor(launch, tmp_path):
    command = launch("print('started')")
    (tmp_path / "supervisord.pid").write_text("1\n")
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "supervisord is gone" in done.stderr
