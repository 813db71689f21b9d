"""The port to the engines service, which alone starts and stops engines: what it is asked, what it says."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Literal, Protocol

from msgspec import Struct

ModelState = Literal["stopped", "queued", "loading", "unloading", "ready", "busy", "stalled", "failed", "missing"]
SERVING: frozenset[str] = frozenset({"ready", "busy", "stalled"})
"""States in which an engine holds the model and can be sent requests."""


class Progress(Struct, frozen=True):
    """How far a model is that somebody waits for.

    Args:
        position: 0 while it loads, 1 for the head of the queue; None where nobody can say.
        eta_s: about how long it still takes.
        message: a sentence for a person.
    """

    state: str = "queued"
    position: int | None = None
    eta_s: float | None = None
    elapsed_s: float = 0.0
    message: str = ""


class Grant(Struct, frozen=True):
    """A lease, and where its engine is."""

    lease: str
    model: str
    engine: str
    url: str
    upstream_id: str
    api_key: str | None = None
    expires_in_s: float = 15.0


class Renewal(Struct, frozen=True):
    """A lease goes on; `draining`: no new requests on it, and its end as soon as the last has ended."""

    expires_in_s: float = 15.0
    draining: bool = False


class ManagedModel(Struct, frozen=True):
    """One line of the engines service's list: a model's facts, and how it is now. Sizes are bytes."""

    id: str
    aliases: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    context_tokens: int | None = None
    size_bytes: int | None = None
    parameters: int | None = None
    quantization: str | None = None
    family: str | None = None
    format: str | None = None
    licence: str | None = None
    digest: str | None = None
    created: int | None = None
    engine: str = ""
    state: str = "unknown"
    reason: str = ""
    url: str | None = None
    upstream_id: str | None = None
    pinned: bool = False
    need_bytes: int | None = None
    held_bytes: int | None = None
    in_flight: int = 0
    queue_position: int | None = None
    eta_s: float | None = None
    expires_at: float | None = None
    on_gpu: bool | None = None


class ManagedList(Struct, frozen=True):
    """All models that there are recipes for; `default` is the id of the one that chats unless told otherwise."""

    data: list[ManagedModel]
    default: str | None = None


class EnginesService(Protocol):
    """What the gateway asks. Every call may raise EngineUnreachable: the service can't be reached."""

    url: str

    async def models(self) -> ManagedList:
        """Return every model and its state."""

    def lease(self, model: str, holder: str) -> AsyncGenerator[Progress | Grant, None]:
        """Ask for a lease: yields progress, then the grant. Closing the generator takes the demand back.

        Raises:
            AppError: the model can't be had; the service's own status, code and sentence.
        """

    async def lease_now(self, model: str, holder: str) -> Grant:
        """Return a lease, if it can be had at once.

        Raises:
            ModelLoading: not yet; the demand is remembered, and the load goes on.
            AppError: the model can't be had.
        """

    async def renew(self, lease_id: str, in_flight: int) -> Renewal:
        """Prolong a lease.

        Raises:
            LeaseNotFound: it has lapsed.
        """

    async def release(self, lease_id: str, keep_alive_s: float | None) -> None:
        """End a lease; `keep_alive_s` sets how long the model then stays (0: not at all, -1: for good)."""

    async def lost(self, lease_id: str, reason: str) -> None:
        """Say that a lease's engine could not be reached. The lease is over."""

    async def load(self, model: str, *, pin: bool | None, wait: bool) -> dict[str, Any]:
        """Load a model on purpose; `pin`: no other model takes its place (None: as it is)."""

    async def unload(self, model: str, *, force: bool) -> dict[str, Any]:
        """Unload a model when nobody holds it, or at once with `force`."""

    def pull(self, model: str) -> AsyncIterator[bytes]:
        """Get a model's files: yields lines of JSON in the form of Ollama's pull, as they come."""

    async def delete_files(self, model: str) -> None:
        """Remove a model's files."""
