"""Start this stack's supervisord, have it run what the configuration says, ask how the processes are, end it."""

import contextlib
import os
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterable
from typing import Any

import click

from services.cli.home import SUPERVISOR, Home
from services.cli.processes import end_units, find_units, wait_for_end
from services.cli.units import STOP_WAIT_S, foreign_variables, starts_file
from services.kit.launch import MARK
from services.kit.supervisord import ON_DEMAND, Faults, ProcessState, SupervisordClient, SupervisordGone

_CALL_TIMEOUT_S = STOP_WAIT_S + 15
_START_TIMEOUT_S = 20.0


class SupervisorGoneError(click.ClickException):
    """supervisord doesn't run, doesn't answer, or is about to end."""

    def __init__(self) -> None:
        super().__init__("supervisord, which runs the services, has ended; `make up` starts it again")


class Supervisor:
    """supervisord of one stack."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._client = SupervisordClient(home.socket, _CALL_TIMEOUT_S)

    def is_running(self) -> bool:
        """Say whether it answers."""
        try:
            return bool(self._call("getState")["statename"] == "RUNNING")
        except SupervisorGoneError:
            return False

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
        """Have it run what the configuration file says now; what hasn't changed, and what is on demand, runs on.

        Returns:
            The services that were started or restarted.

        Raises:
            click.ClickException: when it can't read the configuration.
        """
        try:
            differences = self._call("reloadConfig")[0]
        except xmlrpc.client.Fault as fault:
            raise click.ClickException(f"supervisord can't read its configuration: {fault.faultString}") from None
        added, changed, removed = ([name for name in names if not name.startswith(ON_DEMAND)] for names in differences)
        for name in [*removed, *changed]:
            self._call("stopProcessGroup", name)
            self._call("removeProcessGroup", name)
        for name in [*changed, *added]:
            self.forget_starts([name])
            self._call("addProcessGroup", name)
        unchanged = [p for p in self.processes().values() if p.name not in (*changed, *added)]
        failed = [p.name for p in unchanged if p.state not in ("running", "starting")]
        self.restart(failed)
        return [*changed, *added, *failed]

    def restart(self, names: Iterable[str]) -> None:
        """Stop and start services, one after another; it does not wait until they are ready."""
        for name in names:
            self.stop(name)
            self.forget_starts([name])
            self._call("startProcess", name, False)

    def stop(self, name: str) -> None:
        """Stop a service, and wait until it has ended."""
        try:
            self._call("stopProcess", name)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != Faults.NOT_RUNNING:
                raise

    def processes(self) -> dict[str, ProcessState]:
        """Return how each service's process is; {} when supervisord doesn't run, or is about to end."""
        try:
            found = self._client.processes()
        except SupervisordGone:
            return {}
        return {name: process for name, process in found.items() if not name.startswith(ON_DEMAND)}

    def shutdown(self, grace_s: float = 2 * STOP_WAIT_S) -> None:
        """End it and with it its services, as they stand in their order; by force after `grace_s`."""
        with contextlib.suppress(SupervisorGoneError):
            self._call("shutdown")
        units = [unit for unit in find_units(self._home) if unit.name == SUPERVISOR]
        end_units(wait_for_end(units, grace_s), grace_s=1)

    def forget_starts(self, names: Iterable[str]) -> None:
        """Begin to count services' starts anew."""
        for name in names:
            starts_file(self._home, name).unlink(missing_ok=True)

    def _call(self, method: str, *arguments: object) -> Any:
        try:
            return self._client.call(method, *arguments)
        except SupervisordGone:
            raise SupervisorGoneError from None
