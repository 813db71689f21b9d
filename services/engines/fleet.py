"""The engines that run: written down, taken over, looked at."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import httpx
import structlog

from services.engines.loading.ending import Ending
from services.engines.loading.journal import Journal, Running
from services.engines.loading.launching import Launch, Launcher
from services.engines.loading.starting import Engine
from services.engines.offers import Offer
from services.engines.recipes import RecipeError
from services.engines.runtimes import EngineStartError, Instance, Runtime
from services.engines.watching.canary import CanaryResult, canary
from services.engines.watching.health import EngineTarget, ProgressWatch, Signals, Verdict
from services.engines.watching.signals import gather
from services.engines.watching.watchdog import Watchdog, WatchdogLimits

_log = structlog.get_logger("engines")
_LOOK_S = 2.0
_STOP_GRACE_S = 10.0
_CANARY_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Death:
    """An engine that has to go.

    Args:
        retry_after_s: when it may be loaded again; None for not by itself.
    """

    model: str
    reason: str
    retry_after_s: float | None


class Fleet:
    """The engines of this stack, by model."""

    def __init__(
        self,
        *,
        runtime: Runtime,
        launcher: Launcher,
        journal: Journal,
        client: httpx.AsyncClient,
        restart_stalled: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engines: dict[str, Engine] = {}
        self.signals: dict[str, Signals] = {}
        self.verdicts: dict[str, Verdict] = {}
        self.ending = Ending(runtime)
        self._runtime = runtime
        self._launcher = launcher
        self._journal = journal
        self._client = client
        self._restart_stalled = restart_stalled
        self._clock = clock
        self._watches: dict[str, ProgressWatch] = {}
        self._watchdogs: dict[str, Watchdog] = {}
        self._canaries: dict[str, asyncio.Task[CanaryResult]] = {}
        self._look_now = asyncio.Event()

    async def adopt(self, offers: Mapping[str, Offer]) -> list[Engine]:
        """Take over the engines that an earlier service has left running; end those that nobody knows.

        Raises:
            RuntimeUnreachableError: nothing is known of the engines' processes.
        """
        instances = await self._runtime.instances()
        kept = []
        for record in await asyncio.to_thread(self._journal.running):
            instance = instances.get(record.instance)
            offer = offers.get(record.model)
            if offer is None or instance is None or instance.state != "running":
                continue
            launch = await asyncio.to_thread(self._launch_as, offer, record)
            if launch is None:
                continue
            kept.append(await self._take_over(offer, record, launch, instance))
            del instances[record.instance]
        for name in instances:
            _log.warning("engine.unknown", instance=name, doing="ending it")
            await self.ending.end(name, grace_s=_STOP_GRACE_S)
        await self._write()
        return kept

    async def _take_over(self, offer: Offer, record: Running, launch: Launch, instance: Instance) -> Engine:
        upstream_id, on_gpu = launch.upstream_id, bool(record.on_gpu)
        target = EngineTarget(offer.id, offer.engine, launch.url, record.api_key, upstream_id, on_gpu)
        engine = Engine(offer, record.instance, record.port, target, record.digest, record.taken, instance.pids)
        engine.on_gpu = record.on_gpu
        self.engines[offer.id] = engine
        _log.info("engine.adopted", model=offer.id, port=record.port)
        return engine

    def _launch_as(self, offer: Offer, record: Running) -> Launch | None:
        """Return how it would be started today; None where that is another way."""
        try:
            launch = self._launcher.launch(offer, port=record.port, api_key=record.api_key)
        except (RecipeError, EngineStartError):
            return None
        return launch if launch.digest == record.digest else None

    async def add(self, engine: Engine) -> None:
        """Note an engine that answers."""
        self.engines[engine.offer.id] = engine
        await self._write()

    async def remove(self, model_id: str, *, at_once: bool = False) -> None:
        """End an engine and forget it; one that isn't there is no error."""
        engine = self.engines.pop(model_id, None)
        for memory in (self.signals, self.verdicts, self._watches):
            memory.pop(model_id, None)
        asked = self._canaries.pop(model_id, None)
        if asked is not None:
            asked.cancel()
        if engine is not None:
            await self.ending.end(engine.instance, grace_s=0 if at_once else _STOP_GRACE_S)
            await self._write()

    def look_now(self) -> None:
        """Have the next look at once."""
        self._look_now.set()

    async def until_next_look(self) -> None:
        """Wait for the time of the next look, or until somebody misses an engine."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_S):
                await self._look_now.wait()
        self._look_now.clear()

    async def look(self, open_requests: Callable[[str], int]) -> list[Death]:
        """Look at every engine once; return those that have to go.

        Raises:
            RuntimeUnreachableError: nothing is known of the engines' processes.
        """
        instances = await self._runtime.instances()
        looks = [
            self._look_at(model_id, engine, instances.get(engine.instance), open_requests(model_id))
            for model_id, engine in list(self.engines.items())
        ]
        return [death for death in await asyncio.gather(*looks) if death is not None]

    async def _look_at(
        self, model_id: str, engine: Engine, instance: Instance | None, open_requests: int
    ) -> Death | None:
        runs = instance is not None and instance.state == "running"
        engine.pids = instance.pids if instance is not None and runs else ()
        signals = await gather(self._client, engine.target, engine.pids, open_requests)
        if not runs:
            signals = replace(signals, process="gone", process_seen=True)
        elif instance is not None and instance.paused:
            signals = replace(signals, process="stopped", process_seen=True)
        self.signals[model_id] = signals
        verdict = self._watch(model_id).observe(signals)
        self.verdicts[model_id] = verdict
        asked = self._canaries.get(model_id)
        if asked is not None and not asked.done() and verdict.state != "dead":
            return None  # the next decision is about its answer
        return self._decide(model_id, engine, instance, self._answer_of(model_id))

    def _decide(
        self, model_id: str, engine: Engine, instance: Instance | None, answer: CanaryResult | None
    ) -> Death | None:
        action = self._watchdog(model_id).decide(self.verdicts[model_id], answer, self._clock())
        if action.kind == "canary":
            _log.info("engine.canary", model=model_id, reason=action.reason)
            asking = canary(self._client, engine.target, engine.offer.recipe.capabilities, _CANARY_TIMEOUT_S)
            task = self._canaries[model_id] = asyncio.create_task(asking)
            task.add_done_callback(lambda _: self.look_now())
        elif action.kind == "restart":
            return Death(model_id, _reason(action.reason, instance), action.retry_after_s)
        elif action.kind == "give_up":
            return Death(model_id, _reason(action.reason, instance), None)
        return None

    def _answer_of(self, model_id: str) -> CanaryResult | None:
        """Return the answer of the canary that was asked last, once."""
        asked = self._canaries.pop(model_id, None)
        if asked is None or not asked.done() or asked.cancelled():
            return None
        answer = asked.result()
        if answer.ok:
            self._watch(model_id).vouch()
        else:
            _log.warning("engine.canary", model=model_id, outcome=answer.outcome, reason=answer.reason)
        return answer

    def _watch(self, model_id: str) -> ProgressWatch:
        return self._watches.setdefault(model_id, ProgressWatch())

    def _watchdog(self, model_id: str) -> Watchdog:
        limits = WatchdogLimits(restart_stalled=self._restart_stalled)
        return self._watchdogs.setdefault(model_id, Watchdog(limits))

    async def _write(self) -> None:
        running = [
            Running(
                model=engine.offer.id,
                instance=engine.instance,
                engine=engine.offer.engine,
                port=engine.port,
                api_key=engine.target.api_key,
                taken=engine.taken,
                digest=engine.digest,
                on_gpu=engine.on_gpu,
            )
            for engine in self.engines.values()
        ]
        await asyncio.to_thread(self._journal.write_running, running)


def _reason(reason: str, instance: Instance | None) -> str:
    if instance is None or instance.state != "exited" or instance.exit_status is None:
        return reason
    status = instance.exit_status
    return f"{reason}: {f'killed by signal {-status}' if status < 0 else f'it ended with status {status}'}"
