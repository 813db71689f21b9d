"""Engines as processes under the stack's supervisord: programs that are added and removed while it runs.

Each engine has two files in a private folder: `<name>.conf`, which supervisord's configuration includes, and
`<name>.json`, the command and the environment (with keys), which `services.kit.launch` puts in place.
supervisord keeps the engine as its child, so engines outlive the service that started them; it never restarts one,
since whether a model is loaded again is the controller's decision.
"""

import asyncio
import contextlib
import re
import signal
import sys
import time
import xmlrpc.client
from pathlib import Path

import psutil

import services
from services.engines.runtimes import (
    EngineStartError,
    EngineStopError,
    Instance,
    LaunchSpec,
    RuntimeUnreachableError,
)
from services.kit.files import write_json, write_private
from services.kit.launch import MARK
from services.kit.processes import find_process, living, marked, send_signal, tree_of
from services.kit.supervisord import (
    LIVING_STATES,
    ON_DEMAND,
    Faults,
    ProcessState,
    SupervisordClient,
    SupervisordGone,
    Unquotable,
    program,
)

_CODE = Path(services.__file__).resolve().parents[1]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CALL_TIMEOUT_S = 10.0
# What supervisord gives an engine when it ends itself.
_STOP_WAIT_S = 10
# A driver that gives 100 GB back takes its time.
_KILL_WAIT_S = 60.0
_POLL_S = 0.05
_LOG_TAIL_BYTES = 256 * 1024


class SupervisordRuntime:
    """Engines under one supervisord.

    Args:
        socket: supervisord's control socket.
        folder: for the engines' files; supervisord's configuration includes `*.conf` of it.
        logs: the stack's folder for logs.
        state: the stack's state folder, by which its processes are marked.
    """

    def __init__(self, socket: Path, folder: Path, logs: Path, state: Path) -> None:
        self._client = SupervisordClient(socket, _CALL_TIMEOUT_S)
        self._folder = folder
        self._logs = logs
        self._state = state
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._mains: dict[str, psutil.Process] = {}

    async def start(self, spec: LaunchSpec) -> None:
        """Start an engine and return once its process exists; a caller that leaves does not leave it half-started.

        Raises:
            EngineStartError: supervisord refuses, or an engine of this name runs.
        """
        if not _NAME.fullmatch(spec.name):
            raise EngineStartError(f"an engine can't be named {spec.name!r}: letters, digits, '.', '_' and '-' alone")
        if spec.name in self._starting:
            raise EngineStartError(f"{spec.name} is being started already")
        task = self._starting[spec.name] = asyncio.create_task(self._start(spec))
        task.add_done_callback(lambda _: self._starting.pop(spec.name, None))
        await asyncio.shield(task)

    async def stop(self, name: str, *, grace_s: float) -> None:
        """End an engine with all its processes, by force after `grace_s`, and remove what was written for it.

        Raises:
            EngineStopError: a process is there a minute after it was killed.
        """
        if name in self._starting:
            await asyncio.wait([self._starting[name]])
        await self._end(name, grace_s)

    async def instances(self) -> dict[str, Instance]:
        """Return the engines by name.

        Raises:
            RuntimeUnreachableError
        """
        try:
            return await asyncio.to_thread(self._instances)
        except SupervisordGone as error:
            raise RuntimeUnreachableError(f"supervisord does not answer: {error}") from None

    async def logs(self, name: str, lines: int) -> str:
        """Return the last lines that an engine, and earlier ones of its name, have written; at most 256 KB."""
        return await asyncio.to_thread(_tail, self._log(name), lines)

    async def close(self) -> None:
        """Wait for starts that are under way; engines run on."""
        if self._starting:
            await asyncio.wait(list(self._starting.values()))

    # Starting

    async def _start(self, spec: LaunchSpec) -> None:
        try:
            left = (await asyncio.to_thread(self._client.processes)).get(ON_DEMAND + spec.name)
            if left is not None and left.state in LIVING_STATES:
                raise EngineStartError(f"{spec.name} runs already (pid {left.pid}); stop it first")
            if left is not None:
                await self._end(spec.name, grace_s=0)
            await asyncio.to_thread(self._launch, spec)
        except SupervisordGone as error:
            raise EngineStartError(
                f"{spec.name}: supervisord, which runs the engines, does not answer ({error}); `make up` starts it"
            ) from None

    def _launch(self, spec: LaunchSpec) -> None:
        started = False
        try:
            self._write(spec, supervisor_pid=self._client.call("getPID"))
            self._client.call("reloadConfig")
            self._add(spec.name)
            self._client.call("startProcess", ON_DEMAND + spec.name, False)
            started = True
        except Unquotable as path:
            raise EngineStartError(f"{spec.name}: supervisord can't handle the path {str(path)!r}") from None
        except OSError as error:
            raise EngineStartError(f"{spec.name}: {error.filename or self._folder}: {error.strerror}") from None
        except xmlrpc.client.Fault as fault:
            raise EngineStartError(f"{spec.name}: supervisord refuses it: {self._explain(fault)}") from None
        finally:
            if not started:
                with contextlib.suppress(SupervisordGone):
                    self._forget(spec.name)

    def _write(self, spec: LaunchSpec, supervisor_pid: int) -> None:
        environment = {"PYTHONUNBUFFERED": "1", **spec.environment, MARK: self._mark(spec.name)}
        launch = {"command": list(spec.command), "environment": environment, "supervisor_pid": supervisor_pid}
        write_json(self._launch_file(spec.name), launch)
        text = program(
            ON_DEMAND + spec.name,
            [sys.executable, "-m", "services.kit.launch", str(self._launch_file(spec.name))],
            log=self._log(spec.name),
            # From there the `services` package is found, installed or not.
            directory=_CODE,
            # Ended after all who may still want an answer from it.
            priority=0,
            autostart="false",
            autorestart="false",
            startsecs=0,
            startretries=0,
            stopwaitsecs=_STOP_WAIT_S,
            stopasgroup="true",
        )
        write_private(self._conf_file(spec.name), text)

    def _add(self, name: str) -> None:
        try:
            self._client.call("addProcessGroup", ON_DEMAND + name)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != Faults.ALREADY_ADDED:
                raise

    def _explain(self, fault: xmlrpc.client.Fault) -> str:
        if fault.faultCode == Faults.BAD_NAME:
            return f"its configuration doesn't include {self._folder}/*.conf; `make up` writes it anew"
        return fault.faultString

    # Ending

    async def _end(self, name: str, grace_s: float) -> None:
        family = await asyncio.to_thread(self._family, name)
        if grace_s > 0:
            await asyncio.to_thread(send_signal, family, signal.SIGTERM)
            # One that is stopped takes no notice of any other signal until it goes on.
            await asyncio.to_thread(send_signal, family, signal.SIGCONT)
        await self._wait(family, grace_s)
        deadline = time.monotonic() + _KILL_WAIT_S
        while left := await asyncio.to_thread(self._left, name, family):
            if time.monotonic() > deadline:
                pids = ", ".join(str(process.pid) for process in left)
                raise EngineStopError(
                    f"{name} was killed {_KILL_WAIT_S:.0f} s ago and is still there (pid {pids}): it is stuck in the "
                    "kernel or a driver; its memory comes back when that lets go, or when the machine is restarted"
                )
            await asyncio.to_thread(send_signal, left, signal.SIGKILL)
            await asyncio.sleep(_POLL_S)
        with contextlib.suppress(SupervisordGone):
            await asyncio.to_thread(self._forget, name)

    def _family(self, name: str) -> list[psutil.Process]:
        """Return an engine's processes: the main one, its descendants, and those that it left as orphans."""
        main = None
        with contextlib.suppress(SupervisordGone):
            state = self._client.processes().get(ON_DEMAND + name)
            main = find_process(state.pid) if state else None
        if main is None:  # where memory is short supervisord may be slow; we have seen it ourselves
            main = self._mains.get(name)
        return living({*(tree_of(main) if main else []), *marked(self._mark(name))})

    def _left(self, name: str, family: list[psutil.Process]) -> list[psutil.Process]:
        return living({*family, *marked(self._mark(name))})

    async def _wait(self, family: list[psutil.Process], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while family and time.monotonic() < deadline:
            await asyncio.sleep(_POLL_S)
            family = await asyncio.to_thread(living, family)

    def _forget(self, name: str, wait_s: float = _CALL_TIMEOUT_S) -> None:
        """Have supervisord drop a program that has ended, and remove its files; one that runs is left as it is."""
        deadline = time.monotonic() + wait_s
        while not self._remove(name):  # it learns of a child's end a moment after everybody else
            if time.monotonic() > deadline:
                return
            time.sleep(_POLL_S)
        self._remove_files(name)

    def _remove(self, name: str) -> bool:
        try:
            self._client.call("removeProcessGroup", ON_DEMAND + name)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == Faults.STILL_RUNNING:
                return False
            if fault.faultCode != Faults.BAD_NAME:
                raise
        except SupervisordGone:
            self._remove_files(name)
            raise
        return True

    def _remove_files(self, name: str) -> None:
        self._conf_file(name).unlink(missing_ok=True)
        self._launch_file(name).unlink(missing_ok=True)
        self._mains.pop(name, None)

    # What there is

    def _instances(self) -> dict[str, Instance]:
        # In this order: what a start writes after the first line is not taken for something left behind.
        written = [path.stem for path in self._folder.glob("*.conf")]
        starting = frozenset(self._starting)
        found = self._on_demand()
        if any(state.pid and not find_process(state.pid) for state in found.values()):
            found = self._on_demand()  # one has ended; by now supervisord has noticed
        known = {name for name, state in found.items() if state.started_at}
        for name in written:
            if name not in known and name not in starting:
                # A supervisord or a service that was killed has left it: nothing has run under that name since.
                self._forget(name, wait_s=0)
        return {name: self._instance(name, found[name]) for name in known}

    def _on_demand(self) -> dict[str, ProcessState]:
        everything = self._client.processes()
        return {name.removeprefix(ON_DEMAND): p for name, p in everything.items() if name.startswith(ON_DEMAND)}

    def _instance(self, name: str, state: ProcessState) -> Instance:
        main = find_process(state.pid) if state.pid else None
        if main is not None:
            self._mains[name] = main
            return Instance(name, "running", pids=tuple(process.pid for process in tree_of(main)))
        if state.exit_status >= 0:
            return Instance(name, "exited", exit_status=state.exit_status, reason=f"exit status {state.exit_status}")
        number = self._client.signal_that_ended(ON_DEMAND + name)
        if number is None:
            return Instance(name, "exited", reason="ended by a signal")
        return Instance(name, "exited", exit_status=-number, reason=f"ended by {signal.Signals(number).name}")

    def _mark(self, name: str) -> str:
        return f"{self._state}:{name}"

    def _conf_file(self, name: str) -> Path:
        return self._folder / f"{name}.conf"

    def _launch_file(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"


def _tail(path: Path, lines: int) -> str:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _LOG_TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:]) if lines > 0 else ""
