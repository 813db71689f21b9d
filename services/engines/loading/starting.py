"""One load, from the first look at the memory to the first token, with a guard beside it and a receipt behind it."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
import structlog

from services.engines.admission import Need
from services.engines.host_memory import HostMemory
from services.engines.loading.ending import Ending
from services.engines.loading.engine_memory import MemoryMeter, tree_memory
from services.engines.loading.guard import GuardLimits, LoadGuard
from services.engines.loading.journal import Journal
from services.engines.loading.launching import Launcher
from services.engines.loading.receipts import Receipt, Receipts
from services.engines.offers import Offer
from services.engines.recipes import RecipeError
from services.engines.runtimes import EngineStartError, LaunchSpec, Runtime, RuntimeUnreachableError
from services.engines.watching.canary import canary
from services.engines.watching.gpu import check_gpu
from services.engines.watching.health import EngineTarget

_log = structlog.get_logger("engines")
_POLL_S = 0.2
_UNSEEN_S = 1.0
_MEASURE_S = 1.0
_HEALTH_TIMEOUT_S = 5.0
_CANARY_TIMEOUT_S = 120.0
_LOG_LINES = 12
_GPU_LOG_LINES = 2000


class LoadFailedError(Exception):
    """The engine did not come to answer; the message says why, with its last words."""


@dataclass
class Engine:
    """One that runs.

    Args:
        taken: bytes by which available memory fell while it was loaded.
        digest: of its command line.
    """

    offer: Offer
    instance: str
    port: int
    target: EngineTarget
    digest: str
    taken: int = 0
    pids: tuple[int, ...] = ()
    on_gpu: bool | None = None
    evidence: tuple[str, ...] = field(default_factory=tuple)


class Starter:
    """Starts engines. One at a time: that is the caller's part."""

    def __init__(
        self,
        *,
        runtime: Runtime,
        launcher: Launcher,
        journal: Journal,
        receipts: Receipts,
        client: httpx.AsyncClient,
        read_memory: Callable[[], HostMemory],
        guard_limits: GuardLimits,
        timeout_s: float,
    ) -> None:
        self.ending = Ending(runtime)
        self._runtime = runtime
        self._launcher = launcher
        self._journal = journal
        self._receipts = receipts
        self._client = client
        self._read_memory = read_memory
        self._guard_limits = guard_limits
        self._timeout_s = timeout_s

    async def start(self, offer: Offer, need: Need, ceiling_tok_per_s: float | None = None) -> Engine:
        """Start an engine and return when it has answered with a token.

        Args:
            ceiling_tok_per_s: of decoding, by the memory plan: an engine that is far below is not on the GPU.

        Raises:
            LoadFailedError: it is gone again then, with all it held.
        """
        began, before = time.monotonic(), await asyncio.to_thread(self._read_memory)
        await asyncio.to_thread(self._journal.begin_load, offer.id)
        meter = MemoryMeter(before.available)
        outcome, reason = "failed", ""
        engine: Engine | None = None
        try:
            spec, health_path, engine = await self._prepare(offer)
            await self._runtime.start(spec)
            await self._watched(engine, health_path, meter)
            engine.on_gpu, engine.evidence = await self._where(engine, ceiling_tok_per_s)
            after = await self._measure(meter, engine.pids)
            engine.taken = max(0, before.available - after.available)
            outcome = "ready"
        except (LoadFailedError, EngineStartError, RuntimeUnreachableError) as error:
            reason = str(error)
            raise LoadFailedError(reason) from None
        except asyncio.CancelledError:
            outcome, reason = "cancelled", "it was told to stop"
            raise
        finally:
            if outcome != "ready" and engine is not None:
                await self._end(engine)
            seconds = time.monotonic() - began
            receipt = Receipt(
                model=offer.id,
                engine=offer.engine,
                started_at=time.time() - seconds,
                predicted_bytes=need.held,
                peak_bytes=meter.peak_bytes,
                settled_bytes=meter.held_bytes if outcome == "ready" else 0,
                load_s=round(seconds, 2),
                outcome=outcome,
                reason=reason,
            )
            try:
                await asyncio.to_thread(self._write_down, receipt)
            except asyncio.CancelledError:  # nobody will know of it
                if outcome == "ready" and engine is not None:
                    await self._end(engine)
                raise
            _log.info("engine.load", model=offer.id, outcome=outcome, seconds=receipt.load_s, reason=reason)
        return engine

    def _write_down(self, receipt: Receipt) -> None:
        self._receipts.add(receipt)
        self._journal.end_load()

    async def _measure(self, meter: MemoryMeter, pids: tuple[int, ...]) -> HostMemory:
        def look() -> HostMemory:
            memory = self._read_memory()
            meter.observe(memory, tree_memory(pids))
            return memory

        return await asyncio.to_thread(look)

    async def _end(self, engine: Engine) -> None:
        await asyncio.shield(self.ending.end(engine.instance, grace_s=0))

    async def _prepare(self, offer: Offer) -> tuple[LaunchSpec, str, Engine]:
        try:
            launch = await asyncio.to_thread(self._launcher.launch, offer)
        except RecipeError as error:
            raise LoadFailedError(str(error)) from None
        spec = launch.spec
        target = EngineTarget(offer.id, offer.engine, launch.url, launch.api_key, launch.upstream_id, spec.gpu)
        return spec, launch.health_path, Engine(offer, spec.name, spec.port, target, launch.digest)

    async def _watched(self, engine: Engine, health_path: str, meter: MemoryMeter) -> None:
        """Wait until the engine answers; end early when the guard says that the host is in danger."""
        guard = LoadGuard()
        watching = asyncio.create_task(
            guard.watch(read=self._read_memory, limits=self._guard_limits, on_sample=lambda _: None)
        )
        answering = asyncio.create_task(self._until_it_answers(engine, health_path, meter))
        try:
            await asyncio.wait({watching, answering}, timeout=self._timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
            elif watching.done():
                raise LoadFailedError(f"the load guard ended {engine.offer.id}: {watching.result().reason}")
            else:
                raise LoadFailedError(
                    f"{engine.offer.id} did not answer within {self._timeout_s:.0f} s (ENGINES_LOAD_TIMEOUT_S)"
                )
        finally:
            for task in (watching, answering):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, LoadFailedError):
                    await task

    async def _where(self, engine: Engine, ceiling_tok_per_s: float | None) -> tuple[bool | None, tuple[str, ...]]:
        log = await self._log_of(engine, _GPU_LOG_LINES)
        capabilities = engine.offer.recipe.capabilities
        found = await check_gpu(
            self._client, engine.target, capabilities, engine.pids, log, ceiling_tok_per_s=ceiling_tok_per_s
        )
        _log.info("engine.device", model=engine.offer.id, says=found.says, evidence=found.evidence)
        return found.on_gpu, found.evidence

    async def _until_it_answers(self, engine: Engine, health_path: str, meter: MemoryMeter) -> None:
        measured_at = 0.0
        while True:
            try:
                known = (await self._runtime.instances()).get(engine.instance)
            except RuntimeUnreachableError as error:  # supervisord or Docker starts anew: the engine may be well
                _log.warning("engine.unseen", model=engine.offer.id, reason=str(error))
                await asyncio.sleep(_UNSEEN_S)
                continue
            if known is None or known.state == "exited":
                raise LoadFailedError(await self._last_words(engine, known.exit_status if known else None))
            engine.pids = known.pids
            if time.monotonic() - measured_at >= _MEASURE_S:
                await self._measure(meter, engine.pids)
                measured_at = time.monotonic()
            if await self._is_healthy(engine, health_path):
                result = await canary(self._client, engine.target, engine.offer.recipe.capabilities, _CANARY_TIMEOUT_S)
                if result.ok:
                    return
                if result.refused:
                    raise LoadFailedError(f"{engine.offer.id} has loaded, but refuses a first token: {result.reason}")
            await asyncio.sleep(_POLL_S)

    async def _is_healthy(self, engine: Engine, health_path: str) -> bool:
        headers = {"authorization": f"Bearer {engine.target.api_key}"} if engine.target.api_key else {}
        try:
            answer = await self._client.get(engine.target.url + health_path, headers=headers, timeout=_HEALTH_TIMEOUT_S)
        except httpx.HTTPError:
            return False
        return answer.status_code == 200

    async def _log_of(self, engine: Engine, lines: int) -> str:
        try:
            return await self._runtime.logs(engine.instance, lines)
        except RuntimeUnreachableError:
            return ""

    async def _last_words(self, engine: Engine, status: int | None) -> str:
        ended = "is gone" if status is None else f"ended with status {status}" if status >= 0 else _killed(-status)
        words = (await self._log_of(engine, _LOG_LINES)).strip()
        said = f"; its last lines:\n{words}" if words else ""
        return f"the engine of {engine.offer.id} {ended} while it loaded (log: {engine.instance}){said}"


def _killed(signal_number: int) -> str:
    hint = " (out of memory?)" if signal_number == 9 else ""
    return f"was killed by signal {signal_number}{hint}"
