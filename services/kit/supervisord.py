"""Talk to a supervisord over its unix socket, each call within a bound; write what it reads.

Source: http://supervisord.org/api.html, http://supervisord.org/configuration.html
"""

import http.client
import re
import shlex
import signal
import socket
import xmlrpc.client
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

ON_DEMAND = "on-demand."
"""How the names of programs begin that a service adds and removes while supervisord runs.

Whoever applies a changed configuration leaves them alone: they are their service's.
"""

State = Literal["stopped", "starting", "running", "backoff", "stopping", "exited", "fatal", "unknown"]
LIVING_STATES = ("starting", "running", "stopping")
_LOG_TAIL_BYTES = 64 * 1024


class Faults:
    """The faults of supervisord's interface that callers tell apart."""

    SHUTDOWN_STATE = 6
    BAD_NAME = 10
    NOT_RUNNING = 70
    ALREADY_ADDED = 90
    STILL_RUNNING = 91
    CANT_REREAD = 92


class SupervisordGone(Exception):
    """supervisord doesn't run, doesn't answer in time, or is about to end."""


class Unquotable(ValueError):
    """A value that supervisord's configuration can't hold."""


@dataclass(frozen=True)
class ProcessState:
    """What supervisord knows of a program's process.

    Args:
        pid: 0 while there is none.
        started_at: of its last start, in whole seconds since 1970; 0 before the first.
        exit_status: -1 for any signal.
        problem: why it can't be started; empty where nothing is wrong.
    """

    name: str
    state: State
    pid: int
    started_at: int
    exit_status: int
    problem: str


class SupervisordClient:
    """One supervisord. Each call has a connection of its own, so threads may share this."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        self._path = path
        self._timeout_s = timeout_s

    def call(self, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        """Return the answer of `supervisor.<method>`.

        Args:
            timeout_s: for this call, in place of the client's.

        Raises:
            SupervisordGone
            xmlrpc.client.Fault: supervisord refuses; see `Faults`.
        """
        transport = _Transport(self._path, self._timeout_s if timeout_s is None else timeout_s)
        proxy = xmlrpc.client.ServerProxy("http://localhost", transport=transport)
        try:
            return getattr(proxy, f"supervisor.{method}")(*arguments)
        except (OSError, http.client.HTTPException, xmlrpc.client.ProtocolError) as error:
            raise SupervisordGone(str(error) or type(error).__name__) from None
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == Faults.SHUTDOWN_STATE:
                raise SupervisordGone("it is about to end") from None
            raise
        finally:
            transport.close()

    def signal_that_ended(self, name: str) -> int | None:
        """Return the signal that ended a program's last process, as supervisord's log has it; None where it hasn't.

        The calls tell only that there was one.

        Raises:
            SupervisordGone
        """
        try:
            tail = self.call("readLog", -_LOG_TAIL_BYTES, 0)
        except xmlrpc.client.Fault:  # it writes none
            return None
        ends = re.findall(rf"(?:exited|stopped): {re.escape(name)} \(terminated by (SIG\w+)", tail)
        return int(signal.Signals[ends[-1]]) if ends and ends[-1] in signal.Signals.__members__ else None

    def processes(self) -> dict[str, ProcessState]:
        """Return how each program's process is.

        Raises:
            SupervisordGone
        """
        return {
            info["name"]: ProcessState(
                name=info["name"],
                state=info["statename"].lower(),
                pid=info["pid"],
                started_at=info["start"],
                exit_status=info["exitstatus"],
                problem=info["spawnerr"],
            )
            for info in self.call("getAllProcessInfo")
        }


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Before the connection too: one that is stopped takes no new ones when its queue is full.
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__()
        self._path = path
        self._timeout_s = timeout_s

    def make_connection(self, host: Any) -> _Connection:
        connection = _Connection(self._path, self._timeout_s)
        self._connection = host, connection  # what `close` closes
        return connection

    def request(self, host: Any, handler: str, request_body: Any, verbose: bool = False) -> Any:
        # The standard library's would try a second time: a start would be asked for twice.
        return self.single_request(host, handler, request_body, verbose)


def section(title: str, **options: object) -> str:
    """Return a section of supervisord's configuration.

    Raises:
        Unquotable: a value can't be written there.
    """
    lines = [f"{name}={_escaped(str(value))}" for name, value in options.items()]
    return "\n".join([f"[{title}]", *lines, ""])


def program(name: str, command: Sequence[str], *, log: Path, **options: object) -> str:
    """Return the section of a program of one process, whose output goes to `log`, rotated at 10 MB.

    Raises:
        Unquotable: a value can't be written there.
    """
    return section(
        f"program:{name}",
        command=shlex.join(command),
        **options,
        killasgroup="true",
        redirect_stderr="true",
        # supervisord expands this one twice.
        stdout_logfile=str(log).replace("%", "%%"),
        stdout_logfile_maxbytes="10MB",
        stdout_logfile_backups=3,
    )


def _escaped(value: str) -> str:
    # supervisord expands %(name)s, and takes what follows " ;" for a comment.
    if "\n" in value or " ;" in value:
        raise Unquotable(value)
    return value.replace("%", "%%")
