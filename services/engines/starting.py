"""One load, from the first look at the memory to the first token, with a guard beside it and a receipt behind it."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import structlog

from services.engines.admission import Need
from services.engines.canary import canary
from services.engines.guard import GuardLimits, LoadGuard
from services.engines.health import EngineTarget
from services.engines.host_memory import HostMemory
from services.engines.journal import Journal
from services.engines.launching import launch_spec
from services.engines.offers import Offer
from services.engines.ports import free_port
from services.engines.receipts import Receipt, Receipts
from services.engines.recipes import RecipeError
from services.engines.runtimes import EngineStartError, Runtime
from services.engines.store import ModelStore

_log = structlog.get_logger("engines")
_POLL_S = 0.2
_HEALTH_TIMEOUT_S = 5.0
_CANARY_TIMEOUT_S = 120.0
_LOG_LINES = 12


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
        store: ModelStore,
        journal: Journal,
        receipts: Receipts,
        client: httpx.AsyncClient,
        read_memory: Callable[[], HostMemory],
        guard_limits: GuardLimits,
        timeout_s: float,
    ) -> None:
        self._runtime = runtime
        self._store = store
        self._journal = journal
        self._receipts = receipts
        self._client = client
        self._read_memory = read_memory
        self._guard_limits = guard_limits
        self._timeout_s = timeout_s

    async def start(self, offer: Offer, need: Need) -> Engine:
        """Start an engine and return when it has answered with a token.

        Raises:
            LoadFailedError: it is gone again then, with all it held.
        """
        began, before = time.monotonic(), await asyncio.to_thread(self._read_memory)
        await asyncio.to_thread(self._journal.begin_load, offer.id)
        lowest = before.available
        outcome = "failed"
        reason = ""

        def note(memory: HostMemory) -> None:
            nonlocal lowest
            lowest = min(lowest, memory.available)

        engine: Engine | None = None
        try:
            engine, health_path = await self._launch(offer)
            await self._watched(engine, health_path, note)
            outcome = "ready"
        except LoadFailedError as error:
            reason = str(error)
            raise
        except asyncio.CancelledError:
            outcome, reason = "cancelled", "it was told to stop"
            raise
        finally:
            if outcome != "ready" and engine is not None:
                await asyncio.shield(self._runtime.stop(engine.instance, grace_s=0))
            after = await asyncio.to_thread(self._read_memory)
            seconds = time.monotonic() - began
            settled = max(0, before.available - after.available)
            if engine is not None:
                engine.taken = settled
            await asyncio.to_thread(
                self._receipts.add,
                Receipt(
                    model=offer.id,
                    engine=offer.engine,
                    started_at=time.time() - seconds,
                    predicted_bytes=need.held,
                    peak_bytes=max(0, before.available - lowest, settled),
                    settled_bytes=settled,
                    load_s=round(seconds, 2),
                    outcome=outcome,
                    reason=reason,
                ),
            )
            await asyncio.to_thread(self._journal.end_load)
            _log.info("engine.load", model=offer.id, outcome=outcome, seconds=round(seconds, 2), reason=reason)
        return engine

    async def _launch(self, offer: Offer) -> tuple[Engine, str]:
        try:
            path = await asyncio.to_thread(self._store.path_of, offer.recipe)
            port = await asyncio.to_thread(free_port, offer.engine)
            key = secrets.token_urlsafe(24)
            spec, health_path, digest = launch_spec(offer, path, port, key)
            await self._runtime.start(spec)
        except (RecipeError, EngineStartError) as error:
            raise LoadFailedError(str(error)) from None
        url = f"http://127.0.0.1:{port}"
        target = EngineTarget(offer.id, offer.engine, url, key, offer.id)
        return Engine(offer, spec.name, port, target, digest), health_path

    async def _watched(self, engine: Engine, health_path: str, note: Callable[[HostMemory], None]) -> None:
        """Wait until the engine answers; end early when the guard says that the host is in danger."""
        guard = LoadGuard()
        watching = asyncio.create_task(guard.watch(read=self._read_memory, limits=self._guard_limits, on_sample=note))
        answering = asyncio.create_task(self._until_it_answers(engine, health_path))
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

    async def _until_it_answers(self, engine: Engine, health_path: str) -> None:
        while True:
            known = (await self._runtime.instances()).get(engine.instance)
            if known is None or known.state == "exited":
                raise LoadFailedError(await self._last_words(engine, known.exit_status if known else None))
            engine.pids = known.pids
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

    async def _last_words(self, engine: Engine, status: int | None) -> str:
        ended = "is gone" if status is None else f"ended with status {status}" if status >= 0 else _killed(-status)
        words = (await self._runtime.logs(engine.instance, _LOG_LINES)).strip()
        said = f"; its last lines:\n{words}" if words else ""
        return f"the engine of {engine.offer.id} {ended} while it loaded (log: {engine.instance}){said}"


def _killed(signal_number: int) -> str:
    hint = " (out of memory?)" if signal_number == 9 else ""
    return f"was killed by signal {signal_number}{hint}"


def log_file(folder: Path, instance: str) -> Path:
    """Return where an engine's output goes."""
    return folder / f"{instance}.log"
