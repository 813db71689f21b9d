"""Which models are in memory, who holds them, who waits, and what is to be done next. Pure: it decides, others do.

    stopped ──want──▶ queued ──Load──▶ loading ──▶ ready ──Unload──▶ unloading ──▶ stopped
                                          └──────▶ failed ◀── crash ──┘

Rules:
- One engine starts at a time, and one model is served at a time: the head of the queue. Nothing passes it but where
  its engine has just crashed, so nothing starves.
- A model with a lease is never unloaded for another. Where the head of the queue needs its memory and it has had its
  minimum residency, it drains: it gives no new leases, and is unloaded when the last has ended. Whoever asks for it
  meanwhile queues behind.
- The least recently used go first, pinned ones never.
"""

import secrets
from dataclasses import dataclass

from services.engines.admission import Holding, Need, Refusal, Room, refusal, victims
from services.engines.residents import Lease, Limits, Model, State

_FIRST_COOLDOWN_S = 5.0
_LONGEST_COOLDOWN_S = 300.0


@dataclass(frozen=True)
class Load:
    """Start this model's engine now."""

    model: str


@dataclass(frozen=True)
class Unload:
    """End this model's engine now."""

    model: str
    reason: str


@dataclass(frozen=True)
class Refuse:
    """Tell those who wait for the model that it can't be loaded."""

    model: str
    refusal: Refusal


@dataclass(frozen=True)
class Rest:
    """Nothing is to be done before something changes, or before `until` (None: whatever time passes)."""

    until: float | None
    reason: str = ""


Step = Load | Unload | Refuse | Rest


class NotServedError(Exception):
    """The model can't be had now; the message says why. `retry_after_s` where trying again may help."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DoesNotFitError(NotServedError):
    """The model can't be loaded whatever is unloaded."""

    def __init__(self, refused: Refusal) -> None:
        super().__init__(str(refused), retry_after_s=30)
        self.refusal = refused


class LeaseLapsedError(Exception):
    """There is no such lease: it has lapsed, or its engine has gone."""


class Residency:
    """The models of one machine."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.models: dict[str, Model] = {}
        self._queue: list[str] = []

    # What there is

    def define(self, model_id: str, need: Need, load_s: float) -> Model:
        """Add a model, or change what is planned for it; what is loaded keeps what it was loaded with."""
        model = self.models.get(model_id)
        if model is None:
            model = self.models[model_id] = Model(model_id, need, load_s)
        elif not model.resident:
            model.need = need
        model.load_s = load_s
        return model

    def forget(self, model_id: str) -> None:
        """Remove a model that isn't loaded."""
        if not self.models[model_id].resident:
            self._leave_queue(model_id)
            del self.models[model_id]

    def holdings(self, *, without: str = "") -> list[Holding]:
        """Return what is in memory, the least recently used first."""
        resident = (m for m in self.models.values() if m.resident and m.id != without)
        return [
            Holding(m.id, m.need, m.taken, evictable=not m.pinned or m.state == "unloading")
            for m in sorted(resident, key=lambda m: (m.used_at, m.id))
        ]

    # What users want

    def want(self, model_id: str, waiter: str, now: float, room: Room, *, until: float | None = None) -> None:
        """Note that somebody waits for a model, until `until` or until they `leave`.

        Raises:
            DoesNotFitError: it can't be loaded whatever is unloaded.
            NotServedError: its engine has failed, and it is too early to try again.
        """
        model = self.models[model_id]
        if model.state in ("stopped", "failed", "queued"):
            if model.state == "failed" and now < model.retry_at:
                raise NotServedError(model.reason, retry_after_s=model.retry_at - now)
            refused = refusal(model_id, model.need, room, self.holdings(), live=self.loading() is None)
            if refused is not None:
                raise DoesNotFitError(refused)
        known = model.waiters.get(waiter, 0.0)
        later = None if known is None or until is None else max(known, until)
        model.waiters[waiter] = later
        comes_by_itself = self._serves(model) or (model.state == "loading" and not model.unload_asked)
        if model_id not in self._queue and not comes_by_itself:
            self._queue.append(model_id)
            if not model.resident:
                self._enter(model, "queued", now)

    def leave(self, model_id: str, waiter: str, now: float) -> None:
        """Take a demand back; with the last one the model leaves the queue."""
        model = self.models.get(model_id)
        if model is not None and waiter in model.waiters:
            del model.waiters[waiter]
            self._tidy_queue(now)

    def keep_loaded(self, model_id: str, *, pinned: bool | None = None) -> None:
        """Load it on purpose: no idle time ends it; `pinned`: nor does another model."""
        model = self.models[model_id]
        model.keep = True
        if pinned is not None:
            model.pinned = pinned

    def ask_unload(self, model_id: str, now: float) -> None:
        """Have a model unloaded as soon as nobody holds it."""
        model = self.models[model_id]
        model.keep = model.pinned = False
        self._leave_queue(model_id)
        model.waiters.clear()
        if model.state == "queued":
            self._enter(model, "stopped", now)
        elif model.resident:
            model.unload_asked = True

    # Leases

    def lease(self, model_id: str, holder: str, now: float, waiter: str = "") -> Lease | None:
        """Return a lease, or None while the model isn't ready for new requests.

        The holder waits no longer then, under its own name or as `waiter`.
        """
        model = self.models[model_id]
        waits = holder in model.waiters or waiter in model.waiters
        promised = model.state == "ready" and waits and model_id not in self._queue
        if not self._serves(model) and not promised:
            return None
        lease = Lease(secrets.token_hex(8), model_id, holder, now + self.limits.lease_s)
        model.leases[lease.id] = lease
        model.waiters.pop(holder, None)
        model.waiters.pop(waiter, None)
        model.used_at = now
        return lease

    def renew(self, lease_id: str, in_flight: int, now: float) -> Lease:
        """Prolong a lease.

        Raises:
            LeaseLapsedError
        """
        lease = self._lease(lease_id)
        lease.expires_at = now + self.limits.lease_s
        lease.in_flight = in_flight
        self.models[lease.model].used_at = now
        return lease

    def release(self, lease_id: str, now: float, keep_alive_s: float | None = None) -> str:
        """End a lease and return its model; `keep_alive_s` sets that one's idle time (0: none, below 0: for ever).

        Raises:
            LeaseLapsedError
        """
        lease = self._lease(lease_id)
        model = self.models[lease.model]
        del model.leases[lease_id]
        model.used_at = now
        if keep_alive_s is not None:
            model.ttl_s = keep_alive_s
        return model.id

    def expire(self, now: float) -> list[str]:
        """Drop leases and demands whose time is over; return the models concerned."""
        touched = []
        for model in self.models.values():
            lapsed = [lease.id for lease in model.leases.values() if lease.expires_at <= now]
            gone = [waiter for waiter, until in model.waiters.items() if until is not None and until <= now]
            for lease_id in lapsed:
                del model.leases[lease_id]
            for waiter in gone:
                del model.waiters[waiter]
            if lapsed or gone:
                touched.append(model.id)
        self._tidy_queue(now)
        return touched

    # What is to be done

    def next_step(self, now: float, room: Room) -> Step:
        """Return what is to be done now. The caller does it, and reports by the methods below."""
        self.expire(now)
        if self.loading() is not None or any(m.state == "unloading" for m in self.models.values()):
            return Rest(None, "an engine starts or ends")
        for model in self.models.values():
            if model.state == "ready" and not model.leases and self._is_over(model, now):
                return Unload(model.id, "asked for" if model.unload_asked else "nobody has used it")
        step = self._serve_queue(now, room)
        return self._until_next_change(now, step) if isinstance(step, Rest) else step

    def _serve_queue(self, now: float, room: Room) -> Step:
        for model in self.models.values():
            model.draining = model.unload_asked
        waiting = [name for name in self._queue if now >= self.models[name].retry_at]
        if not waiting:
            return Rest(min((self.models[name].retry_at for name in self._queue), default=None))
        head = self.models[waiting[0]]
        if self._serves(head):  # it was waited for while it drained for another, who has left
            self._queue.remove(head.id)
            return self._serve_queue(now, room)
        if head.resident:  # asked to go, and wanted again: it goes first
            return Rest(None, f"{head.id} is unloaded first")
        holdings = self.holdings()
        refused = refusal(head.id, head.need, room, holdings)
        if refused is not None:
            return Refuse(head.id, refused)
        candidates = [h for h in holdings if h.evictable]
        pinned = [h for h in holdings if not h.evictable]
        free_now = [h for h in candidates if self._may_go(self.models[h.model], now)]
        chosen = victims(head.need, room, free_now, [h for h in holdings if h not in free_now])
        if chosen is not None:
            return Unload(chosen[0], f"{head.id} is waiting for its memory") if chosen else Load(head.id)
        return self._drain_for(head, victims(head.need, room, candidates, pinned) or [], now)

    def _drain_for(self, head: Model, chosen: list[str], now: float) -> Rest:
        waits = []
        for model_id in chosen:
            model = self.models[model_id]
            stays_until = model.ready_at + self.limits.min_residency_s
            if now < stays_until:
                waits.append(stays_until)
            else:
                model.draining = True
        names = ", ".join(chosen)
        return Rest(min(waits) if waits else None, f"{head.id} waits for {names} to end its requests and its time")

    def _may_go(self, model: Model, now: float) -> bool:
        stays = model.waiters and model.id not in self._queue  # they were promised this load, not the next
        return bool(
            model.state == "ready"
            and not model.leases
            and not stays
            and now >= model.ready_at + self.limits.min_residency_s
        )

    def _is_over(self, model: Model, now: float) -> bool:
        if model.unload_asked:
            return True
        ends = self.expires_at(model)
        return ends is not None and now >= ends and not model.waiters

    def expires_at(self, model: Model) -> float | None:
        """Return when an idle model is unloaded by itself; None for never, or not as long as it is held."""
        ttl = self.limits.idle_ttl_s or -1.0
        if model.ttl_s is not None:
            ttl = model.ttl_s
        elif model.keep or model.pinned:
            ttl = -1.0
        if model.state != "ready" or model.leases or ttl < 0 or model.pinned:
            return None
        return max(model.used_at + ttl, model.ready_at)

    def _until_next_change(self, now: float, rest: Rest) -> Rest:
        times = [rest.until] if rest.until is not None else []
        for model in self.models.values():
            times += [lease.expires_at for lease in model.leases.values()]
            times += [until for until in model.waiters.values() if until is not None]
            ends = self.expires_at(model)
            if ends is not None:
                times.append(ends)
        later = [time for time in times if time > now]
        return Rest(min(later, default=None), rest.reason)

    # What was done

    def load_began(self, model_id: str, now: float) -> None:
        """The engine is starting."""
        self._leave_queue(model_id)
        model = self.models[model_id]
        model.unload_asked = False
        model.taken = 0
        self._enter(model, "loading", now)

    def load_ended(self, model_id: str, now: float, *, taken: int) -> None:
        """The engine answers; the live figure of available memory has fallen by `taken` bytes."""
        model = self.models[model_id]
        model.taken = max(0, min(taken, model.need.held))
        model.ready_at = model.used_at = now
        model.failures = 0
        self._enter(model, "ready", now)

    def failed(self, model_id: str, now: float, reason: str) -> None:
        """The engine did not start, or is given up: those who wait are told; soon after nobody may try again."""
        model = self.models[model_id]
        self._leave_queue(model_id)
        model.leases.clear()
        model.waiters.clear()
        model.taken = 0
        model.draining = model.unload_asked = False
        model.failures += 1
        model.retry_at = now + min(_LONGEST_COOLDOWN_S, _FIRST_COOLDOWN_S * 2 ** (model.failures - 1))
        self._enter(model, "failed", now, reason)

    def crashed(self, model_id: str, now: float, reason: str, retry_after_s: float, waiter: str = "") -> None:
        """The engine has ended by itself and is cleared away; it is loaded again for those who wait, and for `waiter`.

        Others pass it in the queue for `retry_after_s`.
        """
        model = self.models[model_id]
        model.leases.clear()
        model.taken = 0
        model.draining = model.unload_asked = False
        model.retry_at = now + retry_after_s
        if waiter:
            model.waiters[waiter] = None
        if model.waiters and model_id not in self._queue:
            self._queue.append(model_id)
        self._enter(model, "queued" if model_id in self._queue else "failed", now, reason)

    def unload_began(self, model_id: str, now: float) -> None:
        """The engine is ending."""
        model = self.models[model_id]
        model.leases.clear()
        self._enter(model, "unloading", now)

    def unloaded(self, model_id: str, now: float) -> None:
        """The engine has ended, and its memory is back."""
        model = self.models[model_id]
        model.taken = 0
        model.draining = model.unload_asked = False
        if model.waiters and model_id not in self._queue:
            self._queue.append(model_id)
        self._enter(model, "queued" if model_id in self._queue else "stopped", now)

    def refused(self, model_id: str, now: float) -> None:
        """Those who waited were told that it can't be loaded."""
        model = self.models[model_id]
        self._leave_queue(model_id)
        model.waiters.clear()
        self._enter(model, "stopped", now)

    # What can be told

    def loading(self) -> Model | None:
        """Return the model that is being loaded."""
        return next((model for model in self.models.values() if model.state == "loading"), None)

    def position(self, model_id: str) -> int | None:
        """Return a waiting model's place: 0 while it loads, 1 for the head of the queue; None when nobody waits."""
        if self.models[model_id].state == "loading":
            return 0
        return self._queue.index(model_id) + 1 if model_id in self._queue else None

    def eta_s(self, model_id: str, now: float, room: Room) -> float | None:
        """Return about how long it is until the model answers; None when nobody waits for it.

        Requests that must end first can't be foreseen; residencies and loads can.
        """
        place = self.position(model_id)
        if place is None:
            return None
        loading = self.loading()
        left = max(0.0, loading.load_s - (now - loading.since)) if loading else 0.0
        if place == 0:
            return left
        ahead = [self.models[name] for name in self._queue[:place]]
        needs = Need(sum(m.need.held for m in ahead), max(m.need.transient for m in ahead))
        if room.shortfall(needs, self.holdings()) > 0:
            left += self._residency_left(now, turns=place + (loading is not None))
        retry = max(0.0, self.models[model_id].retry_at - now)
        return left + retry + sum(model.load_s for model in ahead)

    def _residency_left(self, now: float, turns: int) -> float:
        """Return how long models stay for sure before so many others have had their turn."""
        stays = [m.ready_at + self.limits.min_residency_s - now for m in self.models.values() if m.state == "ready"]
        return max(0.0, max(stays, default=0.0)) + self.limits.min_residency_s * (turns - 1)

    # Inside

    def _serves(self, model: Model) -> bool:
        return model.state == "ready" and not model.draining and not model.unload_asked

    def _lease(self, lease_id: str) -> Lease:
        for model in self.models.values():
            if lease_id in model.leases:
                return model.leases[lease_id]
        raise LeaseLapsedError(f"there is no lease {lease_id!r}: it has lapsed, or its engine has ended")

    def _enter(self, model: Model, state: State, now: float, reason: str = "") -> None:
        model.state, model.since, model.reason = state, now, reason

    def _leave_queue(self, model_id: str) -> None:
        if model_id in self._queue:
            self._queue.remove(model_id)

    def _tidy_queue(self, now: float) -> None:
        for model_id in [name for name in self._queue if not self.models[name].waiters]:
            self._queue.remove(model_id)
            model = self.models[model_id]
            if model.state == "queued":
                self._enter(model, "stopped", now)
