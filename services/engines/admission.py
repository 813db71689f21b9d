"""May a model be loaded? The sum, before anything is started.

Two sums must hold. The ledger: what all engines are planned to hold fits the machine. The live one: what is still to
be taken fits what the kernel says is available, since other programs use the machine too. What an engine was promised
but has not yet taken (weights that are mapped and count as page cache, a KV cache that fills later) stays promised.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from services.engines.host_memory import HostMemory

GIB = 2**30


@dataclass(frozen=True)
class Need:
    """What a model's engine is planned to take, in bytes.

    Args:
        held: when it has settled.
        transient: more than that, for seconds while it loads.
    """

    held: int
    transient: int = 0


@dataclass(frozen=True)
class Holding:
    """A model that is loaded, or being loaded.

    Args:
        taken: of `need.held`, what the live figure of available memory already lacks.
        evictable: it may be unloaded for another, now or later (it isn't pinned).
    """

    model: str
    need: Need
    taken: int
    evictable: bool

    @property
    def promised(self) -> int:
        """What it will still take."""
        return max(0, self.need.held - self.taken)


@dataclass(frozen=True)
class Room:
    """What engines may take, in bytes, with the host's reserve taken off.

    Args:
        budget: of all engines together.
        available: on top of what they have taken already.
        reserve: what was taken off, for the sentence that explains a refusal.
    """

    budget: int
    available: int
    reserve: int = 0

    @classmethod
    def of(cls, memory: HostMemory, reserve: int, cap: int | None = None) -> "Room":
        """Return the room on a machine; `cap` bytes at most for all engines together."""
        budget = memory.total - reserve if cap is None else min(cap, memory.total - reserve)
        return cls(max(0, budget), max(0, memory.available - reserve), reserve)

    def shortfall(self, need: Need, holdings: Iterable[Holding], without: Iterable[str] = ()) -> int:
        """Return how many bytes are missing for `need` when the models `without` are gone; 0 or less: it fits."""
        gone = frozenset(without)
        held, available = 0, self.available
        for holding in holdings:
            if holding.model in gone:
                available += holding.taken
            else:
                held += holding.need.held
                available -= holding.promised
        wanted = need.held + need.transient
        return wanted - min(self.budget - held, available)


@dataclass(frozen=True)
class Refusal:
    """Why a model can't be loaded: the sum, and what to unload."""

    model: str
    need: Need
    room: Room
    holdings: tuple[Holding, ...]
    missing: int

    def __str__(self) -> str:
        need, room = self.need, self.room
        transient = f" and {_gib(need.transient)} more while it loads" if need.transient else ""
        total = (
            f"{self.model} needs {_gib(need.held)}{transient}; engines may take {_gib(room.budget)} of this machine's "
            f"memory ({_gib(room.reserve)} stay free for the host), and {_gib(room.available)} are available now; "
            f"{_gib(self.missing)} are missing"
        )
        pinned = [f"{holding.model} ({_gib(holding.need.held)})" for holding in self.holdings if not holding.evictable]
        if pinned:
            return f"{total}. Pinned and not unloaded for others: {', '.join(pinned)}; `sparkstack unload` one of them"
        return (
            f"{total}. End other programs, or choose a smaller model, a shorter context or fewer sequences: "
            f"`sparkstack plan {self.model} --machine this` shows what it takes, and of what"
        )


def refusal(model: str, need: Need, room: Room, holdings: Iterable[Holding], *, live: bool = True) -> Refusal | None:
    """Return why a model does not fit even with all that may be unloaded gone; None where it does.

    Args:
        live: False while an engine loads, when the figure of available memory is between two states.
    """
    held = tuple(holdings)
    gone = [holding.model for holding in held if holding.evictable]
    judged = room if live else Room(room.budget, 2**62, room.reserve)
    missing = judged.shortfall(need, held, gone)
    return Refusal(model, need, room, held, missing) if missing > 0 else None


def victims(need: Need, room: Room, candidates: Iterable[Holding], others: Iterable[Holding]) -> list[str] | None:
    """Return the first of `candidates`, in their order, whose going makes room; [] for none needed, None for no way.

    One that turns out not to be needed stays: the last in the order is spared first.
    """
    ordered = list(candidates)
    everyone = [*ordered, *others]
    chosen: list[str] = []
    for holding in ordered:
        if room.shortfall(need, everyone, chosen) <= 0:
            break
        chosen.append(holding.model)
    if room.shortfall(need, everyone, chosen) > 0:
        return None
    for model in reversed(chosen[:]):
        fewer = [name for name in chosen if name != model]
        if room.shortfall(need, everyone, fewer) <= 0:
            chosen = fewer
    return chosen


def _gib(count: int) -> str:
    return f"{count / GIB:.2f} GiB" if abs(count) < 10 * GIB else f"{count / GIB:.1f} GiB"
