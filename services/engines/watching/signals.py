"""Look at one engine from outside: its processes, and what it answers.

An engine may be dead, hang or lie. Nothing of that is an error here: it is what `gather` is there to tell.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx
import psutil

from services.engines.watching.engine_metrics import NAMES, EngineFigures, read_figures
from services.engines.watching.health import EngineTarget, Process, Signals

TIMEOUT_S = 2.0
_LONGEST_ANSWER = 4 * 2**20
_HEALTH_PATHS = {"ollama": "/api/version"}
_NONE_HERE = (200, 401, 403, 404, 405, 501)
"""Statuses of an engine that has no figures for us: not offered, not allowed, or a page of something else."""
_GONE_SOON = (psutil.NoSuchProcess, psutil.ZombieProcess)


@dataclass(frozen=True)
class ProcessFacts:
    """An engine's processes, all together; None for what can't be known."""

    process: Process | None
    cpu_s: float | None = None
    rss_bytes: int | None = None


@dataclass(frozen=True)
class _Answer:
    """What came from one address; status 0 for no answer, -1 for nobody there."""

    status: int
    text: str = ""


async def gather(
    client: httpx.AsyncClient,
    target: EngineTarget,
    pids: Sequence[int],
    open_requests: int,
    *,
    timeout_s: float = TIMEOUT_S,
    clock: Callable[[], float] = time.monotonic,
) -> Signals:
    """Return what is to be seen of an engine now; it takes `timeout_s` at most, and never raises.

    Args:
        pids: of its processes, the main one first; () where the runtime can't know them.
        open_requests: that the gateway has open there.
    """
    metrics_path = NAMES[target.engine].path if target.engine in NAMES else None
    facts, health, metrics, slots, models = await asyncio.gather(
        asyncio.to_thread(process_facts, pids),
        _get(client, target, _HEALTH_PATHS.get(target.engine, "/health"), timeout_s),
        _get(client, target, metrics_path, timeout_s),
        _get(client, target, "/slots" if target.engine == "llamacpp" else None, timeout_s),
        _get(client, target, "/api/ps" if target.engine == "ollama" else None, timeout_s),
    )
    figures = _figures(target.engine, metrics)
    if models.status == 200:
        figures = ollama_figures(models.text)
    if slots.status == 200:
        figures = replace(figures or EngineFigures(), work={**(figures.work if figures else {}), **_slots(slots.text)})
    process = facts.process or ("gone" if health.status == -1 else "running")
    return Signals(
        at=clock(),
        process=process,
        cpu_s=facts.cpu_s,
        answers=_speaks(health) or figures is not None,
        loading=health.status == 503 and _says_loading(health.text),
        tokens=figures.tokens if figures else None,
        running=_count(figures.running) if figures else None,
        waiting=_count(figures.waiting) if figures else None,
        open_requests=open_requests,
        work=figures.work if figures else {},
        offers_figures=_offers_figures(metrics_path, metrics, figures),
        process_seen=facts.process is not None,
        gpu=target.gpu,
        rss_bytes=facts.rss_bytes,
        figures=figures,
    )


def process_facts(pids: Sequence[int]) -> ProcessFacts:
    """Return the state, CPU time and memory of processes with all their children.

    CPU time counts children that have ended, too, so that it only grows. A stopped child counts as stopped: the main
    process of vLLM and SGLang does nothing without its workers.
    """
    if not pids:
        return ProcessFacts(None)
    family: dict[int, psutil.Process] = {}
    for number, pid in enumerate(pids):
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                raise psutil.ZombieProcess(pid)
            family[pid] = process
            family.update({child.pid: child for child in process.children(recursive=True)})
        except _GONE_SOON:
            if number == 0:
                return ProcessFacts("gone")
        except psutil.Error:
            return ProcessFacts("running")  # it is there, and not ours to look into
    return _sum(list(family.values()))


def _sum(family: list[psutil.Process]) -> ProcessFacts:
    cpu_s, rss, stopped = 0.0, 0, False
    for process in family:
        try:
            with process.oneshot():
                status, times = process.status(), process.cpu_times()
                rss += process.memory_info().rss
        except _GONE_SOON:
            continue
        except psutil.Error:
            return ProcessFacts("running")
        stopped = stopped or status == psutil.STATUS_STOPPED
        cpu_s += times.user + times.system + getattr(times, "children_user", 0) + getattr(times, "children_system", 0)
    return ProcessFacts("stopped" if stopped else "running", cpu_s, rss)


async def _get(client: httpx.AsyncClient, target: EngineTarget, path: str | None, timeout_s: float) -> _Answer:
    """Return what an engine answers in time; a body that drips or never ends is cut."""
    if path is None:
        return _Answer(0)
    # A socket of its own: llama.cpp drops kept-alive ones at times, which would look like an engine in trouble.
    headers = {"connection": "close"}
    if target.api_key:
        headers["authorization"] = f"Bearer {target.api_key}"
    try:
        async with (
            asyncio.timeout(timeout_s),
            client.stream("GET", target.url + path, headers=headers, timeout=timeout_s) as response,
        ):
            body = bytearray()
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > _LONGEST_ANSWER:
                    return _Answer(0)
            return _Answer(response.status_code, body.decode("utf-8", "replace"))
    except httpx.ConnectError:
        return _Answer(-1)
    except Exception:  # whatever an engine that hangs or lies can make a client raise
        return _Answer(0)


def _speaks(health: _Answer) -> bool:
    """Say whether a health answer is one of a server that works; 401 is: it guards even that."""
    return health.status in (200, 401, 403, 404)


def _says_loading(text: str) -> bool:
    return "loading" in text.lower() or "starting" in text.lower()


def _figures(engine: str, metrics: _Answer) -> EngineFigures | None:
    if metrics.status != 200:
        return None
    try:
        return read_figures(engine, metrics.text)
    except Exception:  # the parser raises what it likes at what is no Prometheus text
        return None


def _offers_figures(metrics_path: str | None, metrics: _Answer, figures: EngineFigures | None) -> bool:
    """Say whether the engine has figures that would move; one that did not answer this time may well."""
    if metrics_path is None or figures is not None:
        return figures is not None and figures.tokens is not None
    return metrics.status not in _NONE_HERE


def _slots(text: str) -> dict[str, float]:
    """Return how far llama.cpp's slots are, by slot."""
    progress: dict[str, float] = {}
    for number, slot in enumerate(_documents(text)):
        progress[f"slot {number} prompt"] = _number(slot.get("n_prompt_tokens_processed"))
        tokens = slot.get("next_token")
        for token in tokens if isinstance(tokens, list) else []:
            if isinstance(token, dict):
                progress[f"slot {number} decoded"] = _number(token.get("n_decoded"))
    return progress


def ollama_figures(text: str) -> EngineFigures | None:
    """Return what Ollama's `/api/ps` tells: where its models are, and when they expire, which each answer moves on."""
    try:
        models = json.loads(text)["models"]
        sizes = [(_number(model["size"]), _number(model.get("size_vram"))) for model in models]
        expiry = "".join(str(model.get("expires_at")) for model in models)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    on_gpu = sum(vram for _, vram in sizes)
    return EngineFigures(
        work={"expiry": float(int(hashlib.sha256(expiry.encode()).hexdigest()[:12], 16))},
        memory_bytes={"gpu": on_gpu, "cpu": sum(size for size, _ in sizes) - on_gpu} if sizes else {},
    )


def _documents(text: str) -> list[dict[str, Any]]:
    try:
        documents = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return [each for each in documents if isinstance(each, dict)] if isinstance(documents, list) else []


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _count(value: float | None) -> int | None:
    return None if value is None else int(value)
