"""Models as they are in memory, and the leases on them. Times are `time.monotonic()` seconds."""

from dataclasses import dataclass, field
from typing import Literal

from services.engines.admission import Need

State = Literal["stopped", "queued", "loading", "ready", "unloading", "failed"]
_RESIDENT = ("loading", "ready", "unloading")


@dataclass(frozen=True)
class Limits:
    """Times in seconds.

    Args:
        min_residency_s: a model that was loaded stays at least so long, so that users of two can't swap for ever.
        idle_ttl_s: a model that was loaded on demand is unloaded when nobody has used it for so long; 0 for never.
    """

    min_residency_s: float = 60.0
    idle_ttl_s: float = 1800.0
    lease_s: float = 15.0


@dataclass
class Lease:
    """A holder's right to send requests to a model; it lapses unless it is renewed."""

    id: str
    model: str
    holder: str
    expires_at: float
    in_flight: int = 0


@dataclass
class Model:
    """A model that can be loaded, and how it is.

    Args:
        load_s: how long a load takes, by experience.
        waiters: who waits for it → until when (None: until they leave).
        keep: it was loaded on purpose: no idle time ends it.
        ttl_s: of this model alone, in place of `Limits.idle_ttl_s`; below 0 for never.
        taken: of what it holds, how much the live figure of available memory already lacks.
    """

    id: str
    need: Need
    load_s: float = 30.0
    pinned: bool = False
    keep: bool = False
    ttl_s: float | None = None
    state: State = "stopped"
    reason: str = ""
    since: float = 0.0
    ready_at: float = 0.0
    used_at: float = 0.0
    taken: int = 0
    failures: int = 0
    retry_at: float = 0.0
    draining: bool = False
    unload_asked: bool = False
    waiters: dict[str, float | None] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)

    @property
    def resident(self) -> bool:
        """Whether it holds memory."""
        return self.state in _RESIDENT

    @property
    def in_flight(self) -> int:
        """Requests under way, by the last word of their holders."""
        return sum(lease.in_flight for lease in self.leases.values())
