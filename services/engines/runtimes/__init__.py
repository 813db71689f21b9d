"""Where engines run: as processes, as containers, on Kubernetes. One port, one adapter each."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol


class EngineStartError(Exception):
    """The runtime refused to start an engine; the message says why and what to do."""


class EngineStopError(Exception):
    """An engine does not end, though it was forced: its memory is not back. The message says what to do."""


class RuntimeUnreachableError(Exception):
    """supervisord, or Docker, does not answer: nothing is known of the engines, which may well run on."""


@dataclass(frozen=True)
class Mount:
    """A folder or file of the host that an engine sees."""

    host: Path
    inside: str
    read_only: bool = True


@dataclass(frozen=True)
class LaunchSpec:
    """One engine as it is to run.

    Args:
        name: of the instance, `<engine>-<model id>`; letters, digits, `.`, `_` and `-`.
        command: for processes the whole argument list; for containers what follows the image's entrypoint.
        environment: added to the runtime's own; may hold a key, so it is never logged or shown in a process list.
        image: None for processes.
        port: where it listens: a process on loopback, a container in its network.
        shm_bytes: of `/dev/shm`; 0 for the runtime's default.
        ipc_host: containers share the host's IPC namespace (PyTorch's workers).
        ulimits: -1 for none.
        volumes: folder inside → the volume that lies there: models and caches.
        files: path inside → text.
    """

    name: str
    model_id: str
    engine: str
    command: tuple[str, ...]
    port: int
    environment: Mapping[str, str] = field(default_factory=dict)
    image: str | None = None
    mounts: tuple[Mount, ...] = ()
    gpu: bool = False
    shm_bytes: int = 0
    ipc_host: bool = False
    ulimits: Mapping[str, int] = field(default_factory=dict)
    cap_add: tuple[str, ...] = ()
    volumes: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def files_digest(self) -> str:
        """A digest of the files' text; empty where there are none."""
        return (
            hashlib.sha256(json.dumps(dict(self.files), sort_keys=True).encode()).hexdigest()[:16] if self.files else ""
        )


@dataclass(frozen=True)
class Instance:
    """An engine that the runtime knows.

    Args:
        state: `running`, or `exited` by itself (crash, kill).
        pids: of its processes as this machine sees them, the main one first; () where that can't be known.
        exit_status: negative for a signal's number; None while it runs, and where it can't be known.
        reason: of its end, as the runtime knows it, such as `out of memory`.
        paused: it stands still, as the runtime was told. What stops processes otherwise is seen by their pids.
    """

    name: str
    state: Literal["running", "exited"]
    pids: tuple[int, ...] = ()
    exit_status: int | None = None
    reason: str = ""
    paused: bool = False


class Runtime(Protocol):
    """Starts and stops engines. It decides nothing: whether and when is the controller's.

    Each method may raise RuntimeUnreachableError.
    """

    async def start(self, spec: LaunchSpec) -> None:
        """Start an engine and return once its process exists; it is not ready then.

        Raises:
            EngineStartError
        """

    async def stop(self, name: str, *, grace_s: float) -> None:
        """End an engine, by force after `grace_s` (0: at once), and forget it; one that isn't there is no error.

        It returns when the process is gone, so that its memory is back.

        Raises:
            EngineStopError: it is still there long after it was forced (a process stuck in a driver).
        """

    async def instances(self) -> dict[str, Instance]:
        """Return the engines of this stack by name, also those that an earlier controller has started."""

    async def logs(self, name: str, lines: int) -> str:
        """Return the last lines that an engine has written; empty where there are none."""

    async def close(self) -> None:
        """Let go of connections; engines run on."""
