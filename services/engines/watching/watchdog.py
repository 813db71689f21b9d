"""What to do about an engine that is not well. Pure: verdicts and canaries in, an action out."""

from collections import deque
from dataclasses import dataclass
from typing import Literal

from services.engines.watching.canary import CanaryResult
from services.engines.watching.health import Verdict

Kind = Literal["none", "canary", "restart", "give_up"]


@dataclass(frozen=True)
class Action:
    """What to do now.

    Args:
        kind: `canary`: run one and hand its result to the next decision; `give_up`: end it, and load it no more by
            itself.
        retry_after_s: of a restart: how long to wait before it is loaded again.
    """

    kind: Kind
    reason: str = ""
    retry_after_s: float = 0.0


@dataclass(frozen=True)
class WatchdogLimits:
    """When to act.

    Args:
        failures: canaries in a row that bring no token, before a living engine is restarted.
        grace_s: after it came up, when its first requests may compile kernels: a stall is watched, not acted on.
        idle_canary_s: between two canaries of an engine that has nothing to do.
        cooldown_s: before it is loaded again: the first, second, … time within `window_s`.
        window_s: within which so many restarts are allowed as there are cooldowns; one more is given up.
        restart_stalled: False only reports engines that are wedged; dead ones are started again all the same.
    """

    failures: int = 2
    grace_s: float = 60.0
    idle_canary_s: float = 300.0
    cooldown_s: tuple[float, ...] = (1.0, 5.0, 20.0, 60.0, 120.0)
    window_s: float = 900.0
    restart_stalled: bool = True


class Watchdog:
    """Decides for one model, over all its engine's lives."""

    def __init__(self, limits: WatchdogLimits | None = None) -> None:
        self.limits = limits or WatchdogLimits()
        self._up_since: float | None = None
        self._failures = 0
        self._last_canary: float | None = None
        self._restarts: deque[float] = deque()

    def decide(self, verdict: Verdict, canary: CanaryResult | None, now: float) -> Action:
        """Return what to do.

        Args:
            verdict: of the look just taken.
            canary: the result of the one that the decision before this asked for; None where it asked for none.
            now: seconds, on a clock that only goes forward.
        """
        if verdict.state == "dead":
            return self._restart(verdict.reason, now)
        if verdict.state == "loading":
            return Action("none")
        if self._up_since is None:  # its load has just ended, with a token
            self._up_since = self._last_canary = now
        self._note(canary, now)
        if verdict.state == "stalled" or verdict.suspect:
            return self._still(verdict, canary, now)
        if verdict.state == "busy":  # it makes progress: whatever a canary met meanwhile, it is at work
            self._failures = 0
            return Action("none")
        return self._idle(canary, now)

    def _note(self, canary: CanaryResult | None, now: float) -> None:
        if canary is None:
            return
        self._last_canary = now
        if canary.ok:
            self._failures = 0
        elif not canary.refused or (canary.status or 0) >= 500:
            self._failures += 1

    def _still(self, verdict: Verdict, canary: CanaryResult | None, now: float) -> Action:
        if canary is not None and canary.ok:
            return Action("none", "a canary came back: it is not wedged")
        if canary is not None and canary.refused and (canary.status or 0) < 500:
            return Action("none", f"still, but left alone: {canary.reason}")
        if self._failures < self.limits.failures or self._is_young(now):
            return self._ask(verdict.reason)
        return self._end_wedged(f"{verdict.reason}, and {self._failures} canaries brought no token", now)

    def _idle(self, canary: CanaryResult | None, now: float) -> Action:
        if self._failures >= self.limits.failures and not self._is_young(now):
            return self._end_wedged(f"it is idle, and {self._failures} canaries brought no token", now)
        due = self._last_canary is None or now - self._last_canary >= self.limits.idle_canary_s
        if due or (canary is not None and self._failures):
            return self._ask("none has come back lately")
        return Action("none")

    def _end_wedged(self, reason: str, now: float) -> Action:
        if not self.limits.restart_stalled:
            return Action("none", f"not restarted, as told: {reason}")
        return self._restart(reason, now)

    def _is_young(self, now: float) -> bool:
        return self._up_since is not None and now - self._up_since < self.limits.grace_s

    def _ask(self, reason: str) -> Action:
        return Action("canary", reason)

    def _restart(self, reason: str, now: float) -> Action:
        while self._restarts and now - self._restarts[0] > self.limits.window_s:
            self._restarts.popleft()
        self._up_since, self._failures, self._last_canary = None, 0, None
        count = len(self._restarts)
        if count >= len(self.limits.cooldown_s):
            minutes = self.limits.window_s / 60
            return Action("give_up", f"{reason}; it was started again {count} times within {minutes:.0f} minutes")
        self._restarts.append(now)
        return Action("restart", reason, self.limits.cooldown_s[count])
