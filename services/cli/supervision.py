"""Talk to supervisord: start it, have it run what the configuration says, ask how the processes are, end it."""

import os
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal

import click
from supervisor.xmlrpc import SupervisorTransport, UnixStreamHTTPConnection

from services.cli.home import MARK, SUPERVISOR, Home
from services.cli.processes import end_units, find_units
from services.cli.units import STOP_WAIT_S, foreign_variables, starts_file

State = Literal["stopped", "starting", "running", "backoff", "stopping", "exited", "fatal", "unknown"]
_CALL_TIMEOUT_S = STOP_WAIT_S + 15
_START_TIMEOUT_S = 20.0
_GONE = (OSError, HTTPException, xmlrpc.client.ProtocolError)


@dataclass(frozen=True)
class ProcessState:
    """What supervisord knows of a service's process.

    Args:
        pid: 0 while there is none.
        started_at: of its last start, in whole seconds since 1970; 0 before the first.
        problem: why it can't be started; empty where nothing is wrong.
    """

    name: str
    state: State
    pid: int
    started_at: int
    exit_status: int
    problem: str


class _Connection(UnixStreamHTTPConnection):  # type: ignore[misc]
    """A connection that does not wait for ever for a supervisord that is stopped or stuck."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self.socketfile = str(path)

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(_CALL_TIMEOUT_S)


class Supervisor:
    """supervisord of one stack."""

    def __init__(self, home: Home) -> None:
        self._home = home
        transport = SupervisorTransport(None, None, f"unix://{home.socket}")
        transport._get_connection = lambda: _Connection(home.socket)  # noqa: SLF001
        self._transport = transport
        # Its proxy builds methods from the names that are called.
        self._rpc: Any = xmlrpc.client.ServerProxy("http://localhost", transport=transport).supervisor

    def is_running(self) -> bool:
        """Say whether it answers."""
        try:
            state = self._rpc.getState()
        except _GONE:
            self._transport.close()
            return False
        return bool(state["statename"] == "RUNNING")

    def start(self) -> None:
        """Start it; it goes on in the background and starts its services.

        Raises:
            click.ClickException: when it doesn't come up, with what it said.
        """
        home = self._home
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(home.supervisor_config)]
        environment = {**foreign_variables(os.environ), MARK: home.mark(SUPERVISOR)}
        done = subprocess.run(
            command, env=environment, cwd=home.code, capture_output=True, text=True, timeout=60, check=False
        )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while done.returncode == 0 and time.monotonic() < deadline:
            if self.is_running():
                return
            time.sleep(0.05)
        said = (done.stderr or done.stdout).strip() or f"see {home.log(SUPERVISOR)}"
        raise click.ClickException(f"supervisord, which runs the services, did not start: {said}")

    def update(self) -> list[str]:
        """Have it run what the configuration file says now; what hasn't changed runs on.

        Returns:
            The services that were started or restarted.

        Raises:
            click.ClickException: when it can't read the configuration.
        """
        try:
            added, changed, removed = self._rpc.reloadConfig()[0]
        except xmlrpc.client.Fault as fault:
            raise click.ClickException(f"supervisord can't read its configuration: {fault.faultString}") from None
        for name in [*removed, *changed]:
            self._rpc.stopProcessGroup(name)
            self._rpc.removeProcessGroup(name)
        for name in [*changed, *added]:
            self.forget_starts([name])
            self._rpc.addProcessGroup(name)
        unchanged = [p for p in self.processes().values() if p.name not in (*changed, *added)]
        failed = [p.name for p in unchanged if p.state not in ("running", "starting")]
        self.restart(failed)
        return [*changed, *added, *failed]

    def restart(self, names: Iterable[str]) -> None:
        """Stop and start services, one after another; it does not wait until they are ready."""
        for name in names:
            self.stop(name)
            self.forget_starts([name])
            self._rpc.startProcess(name, False)

    def stop(self, name: str) -> None:
        """Stop a service, and wait until it has ended."""
        try:
            self._rpc.stopProcess(name)
        except xmlrpc.client.Fault as fault:
            if not fault.faultString.startswith("NOT_RUNNING"):
                raise

    def processes(self) -> dict[str, ProcessState]:
        """Return how each service's process is; {} when supervisord doesn't answer."""
        try:
            infos = self._rpc.getAllProcessInfo()
        except _GONE:
            self._transport.close()
            return {}
        return {
            info["name"]: ProcessState(
                name=info["name"],
                state=info["statename"].lower(),
                pid=info["pid"],
                started_at=info["start"],
                exit_status=info["exitstatus"],
                problem=info["spawnerr"],
            )
            for info in infos
        }

    def shutdown(self, grace_s: float = 2 * STOP_WAIT_S) -> None:
        """End it and with it its services, as they stand in their order; by force after `grace_s`."""
        try:
            self._rpc.shutdown()
        except (*_GONE, xmlrpc.client.Fault):  # SHUTDOWN_STATE: somebody else has told it already
            self._transport.close()
        units = [unit for unit in find_units(self._home) if unit.name == SUPERVISOR]
        deadline = time.monotonic() + grace_s
        while any(unit.process.is_running() for unit in units) and time.monotonic() < deadline:
            time.sleep(0.05)
        end_units([unit for unit in units if unit.process.is_running()], grace_s=1)

    def forget_starts(self, names: Iterable[str]) -> None:
        """Begin to count services' starts anew."""
        for name in names:
            starts_file(self._home, name).unlink(missing_ok=True)
