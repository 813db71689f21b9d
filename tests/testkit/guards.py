"""Guards over every test, as a pytest plugin: no outside connection, no blocked event loop, no silent skip.

A `conftest.py` switches them on: `pytest_configure = guards.install`.
"""

import ipaddress
import os
import socket
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import blockbuster.blockbuster
import pytest

import services

_NAME = "sparkstack-guards"
_SERVICES = Path(services.__file__).parent
OPTIONAL = "optional:"


def install(config: pytest.Config) -> None:
    """Register this module as a plugin, once for however many conftests ask."""
    if config.pluginmanager.has_plugin(_NAME):
        return
    config.addinivalue_line("markers", "may_block(reason): code of services/ may block the event loop in this test")
    config.pluginmanager.register(sys.modules[__name__], _NAME)
    if os.environ.get("CI") == "true" and not hasattr(config, "workerinput"):  # xdist's workers report to one place
        config.pluginmanager.register(SkipsFail(), f"{_NAME}-skips")


# --- no outside connection --------------------------------------------------------------------------------------


class OutsideConnection(RuntimeError):
    """A test wanted to leave this machine."""


class _Outside:
    """What was tried while a test ran. An audit hook cannot be taken back, so there is one, with a switch.

    It sees every connect and lookup of this process's sockets whatever library makes them, in all threads; not
    those of child processes and of uvloop, whose sockets are C.
    """

    def __init__(self) -> None:
        self.watching = False
        self.attempts: list[str] = []

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.watching:
            return
        if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
            address = arguments[1]
            if isinstance(address, tuple) and isinstance(address[0], str) and not _is_local(address[0]):
                self._refuse(f"a connection to {address[0]}:{address[1]}")
        elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
            host = arguments[0].decode() if isinstance(arguments[0], bytes) else arguments[0]
            if host and host.endswith(".invalid"):
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")  # without asking the network
            if host and not _is_local(host):
                self._refuse(f"a lookup of {host}")

    def _refuse(self, what: str) -> None:
        self.attempts.append(what)
        raise OutsideConnection(f"a test tried {what}; tests speak to loopback only")


def _is_local(host: str) -> bool:
    if host in ("localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


_outside = _Outside()
sys.addaudithook(_outside.hook)


@pytest.fixture(autouse=True)
def outside_connections() -> Iterator[list[str]]:
    """Fail the test that tries to leave the machine, even where the error was swallowed.

    Gives the list of attempts; names under `.invalid` just do not resolve.
    """
    _outside.attempts = []
    _outside.watching = True
    yield _outside.attempts
    _outside.watching = False
    if _outside.attempts:
        pytest.fail("the test tried " + ", ".join(dict.fromkeys(_outside.attempts)), pytrace=False)


# --- no blocked event loop --------------------------------------------------------------------------------------

_blocked: list[str] = []


class _RecordedBlockingError(blockbuster.BlockingError):
    """Kept, because a service may turn what its own code raises into an answer with status 500."""

    def __init__(self, func: str) -> None:
        super().__init__(func)
        _blocked.append(func)


def _blockbuster() -> blockbuster.BlockBuster:
    """Return a detector of blocking calls that have a frame of `services/`, but for its tests, above them."""
    guard = blockbuster.BlockBuster([services], excluded_modules=[_package(each) for each in _test_folders()])
    for name in [each for each in guard.functions if each.startswith("threading.Lock")]:
        # A metric's lock that another thread holds for a microsecond is no blocked loop.
        del guard.functions[name]
    # FastAPI looks up each endpoint's source file, once, for its error messages.
    guard.functions["os.stat"].can_block_in("fastapi/routing.py", "_extract_endpoint_context")
    for name in ("io.BufferedReader.read", "os.listdir"):
        # What /metrics and /status say of this process comes from /proc, which is memory and no disk.
        guard.functions[name].can_block_in("prometheus_client/process_collector.py", "collect")
        guard.functions[name].can_block_in("psutil/_pslinux.py", {"_parse_stat_file", "memory_info"})
    for name in ("io.BufferedWriter.write", "io.TextIOWrapper.write"):
        # Logs go to stdout at once, by design.
        guard.functions[name].can_block_in("structlog/_output.py", {"msg"}).can_block_in("logging/__init__.py", "emit")
    return guard


def _test_folders() -> list[Path]:
    return [each for each in _SERVICES.glob("*/tests") if each.is_dir()]


def _package(folder: Path) -> types.ModuleType:
    module = types.ModuleType(folder.name)
    module.__path__ = [str(folder)]
    return module


blockbuster.blockbuster.BlockingError = _RecordedBlockingError  # type: ignore[misc]
_guard = _blockbuster()


@pytest.fixture(autouse=True)
def blocking_calls(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Fail the test in which code of `services/` blocks the event loop: `time.sleep`, files, sockets, SQLite."""
    if request.node.get_closest_marker("may_block"):
        yield []
        return
    _blocked.clear()
    _guard.activate()
    try:
        yield _blocked
    finally:
        _guard.deactivate()
    if _blocked:
        pytest.fail("the event loop was blocked by " + ", ".join(dict.fromkeys(_blocked)), pytrace=False)


# --- no silent skip ---------------------------------------------------------------------------------------------


class SkipsFail:
    """In CI a skip is a failure unless its reason begins with "optional:": nothing is left out by accident."""

    def __init__(self) -> None:
        self.skips: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        if not reason.startswith(OPTIONAL):
            self.skips.append(f"{report.nodeid}: {reason}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.skips and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not self.skips:
            return
        terminalreporter.section("skipped in CI", red=True)
        terminalreporter.line(
            f'{len(self.skips)} skips fail this run; a reason that begins with "{OPTIONAL}" may skip:'
        )
        for skip in self.skips:
            terminalreporter.line(f"  {skip}")
