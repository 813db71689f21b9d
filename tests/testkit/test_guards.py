"""The guards, each seen to fail a run that deserves it: a pytest of its own over a small file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import services

pytestmark = pytest.mark.slow

ROOT = Path(services.__file__).parents[1]
PLUGINS = ("-p", "no:cacheprovider", "-p", "pytest_asyncio.plugin", "-p", "xdist.plugin")
CONFTEST = "from tests.testkit import guards\npytest_configure = guards.install\n"


def run_tests(folder, text, *arguments, ci=""):
    """Return the outcome of a pytest over one file with these tests, without plugins that it does not need."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text("import socket, services, pytest\n" + text)
    (folder / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", *PLUGINS, "--strict-markers", *arguments, str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "CI": ci, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


BLOCK_IN_SERVICES = 'exec(compile("import time; time.sleep(0.001)", services.__file__, "exec"))'
"""Code that claims to be of services/."""


@pytest.mark.parametrize(
    "call", ['socket.create_connection(("192.0.2.1", 80))', 'socket.getaddrinfo("example.org", 80)']
)
def test_leaving_the_machine_fails_the_test_even_when_the_error_is_swallowed(tmp_path, call):
    run = run_tests(tmp_path, f"def test_it():\n    try: {call}\n    except Exception: pass\n")
    assert run.returncode == 1, run.stdout
    assert "the test tried a lookup of" in run.stdout


def test_a_connection_by_number_is_seen_in_threads_too(tmp_path):
    call = 'threading.Thread(target=lambda: socket.socket(type=socket.SOCK_DGRAM).connect(("192.0.2.1", 9)))'
    run = run_tests(tmp_path, f"import threading\ndef test_it():\n    t = {call}\n    t.start(); t.join()\n")
    assert run.returncode == 1, run.stdout
    assert "the test tried a connection to 192.0.2.1:9" in run.stdout


def test_loopback_and_invalid_names_are_no_outside(tmp_path):
    text = (
        "def test_it():\n"
        '    with socket.create_server(("127.0.0.1", 0)) as s, socket.create_connection(s.getsockname()): pass\n'
        '    socket.getaddrinfo("localhost", 80)\n'
        '    with pytest.raises(socket.gaierror): socket.getaddrinfo("engine.invalid", 80)\n'
    )
    run = run_tests(tmp_path, text)
    assert run.returncode == 0, run.stdout


def test_a_sleep_of_services_in_the_event_loop_fails_the_test_even_when_it_is_swallowed(tmp_path):
    run = run_tests(tmp_path, f"async def test_it():\n    try: {BLOCK_IN_SERVICES}\n    except Exception: pass\n")
    assert run.returncode == 1, run.stdout
    assert "the event loop was blocked by time.sleep" in run.stdout


def test_a_sleep_is_fine_out_of_the_event_loop_out_of_services_and_where_it_may(tmp_path):
    text = (
        "import time\n"
        f"def test_sync():\n    {BLOCK_IN_SERVICES}\n"
        "async def test_own():\n    time.sleep(0.001)\n"
        f'@pytest.mark.may_block("says so")\nasync def test_marked():\n    {BLOCK_IN_SERVICES}\n'
    )
    run = run_tests(tmp_path, text)
    assert run.returncode == 0, run.stdout
    assert "3 passed" in run.stdout


SKIPS = (
    "def test_one(): pass\n"
    '@pytest.mark.skip("no browser here")\ndef test_two(): pass\n'
    '@pytest.mark.skip("optional: needs a GPU")\ndef test_three(): pass\n'
    '@pytest.mark.xfail(reason="known")\ndef test_four(): assert False\n'
)


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "xdist"])
def test_in_ci_a_skip_without_a_licence_fails_the_run_and_is_listed(tmp_path, workers):
    run = run_tests(tmp_path, SKIPS, *workers, ci="true")
    assert run.returncode == 1, run.stdout
    listed = run.stdout.split("skipped in CI")[1]
    assert "test_it.py::test_two: no browser here" in listed
    assert "1 skips fail this run" in listed


def test_in_ci_a_skipped_module_counts(tmp_path):
    run = run_tests(tmp_path, 'pytest.importorskip("no_such_package_at_all")\n', ci="true")
    assert run.returncode == 1, run.stdout
    assert "no_such_package_at_all" in run.stdout.split("skipped in CI")[1]


def test_elsewhere_a_skip_is_a_skip(tmp_path):
    run = run_tests(tmp_path, SKIPS)
    assert run.returncode == 0, run.stdout
    assert "skipped in CI" not in run.stdout
