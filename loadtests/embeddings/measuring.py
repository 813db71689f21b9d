"""The run: service and bare backend both up, measured in turns, so that the machine's noise falls on both."""

import asyncio
import base64
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.embeddings.children import Bound, ChildError, Service, bound, service
from loadtests.embeddings.subjects import Subject, prepare
from loadtests.embeddings.texts import make
from loadtests.gateway_overhead.arithmetic import percentile
from loadtests.gateway_overhead.processes import machine_busy_s, tree_cpu_s, tree_peak_rss_bytes

CONCURRENCIES = (1, 4, 16)
CANDIDATES = (10, 50, 100)
_REQUESTS = {"short": (32, 48), "passage": (16, 32), "chunk": (8, 32)}
"""Texts in a request and requests in a load, for each kind of text."""
_SINGLES = 512
_LONE = 100
_QUERY = "Which river does the old stone bridge near the harbour cross, and who built it?"


@dataclass(frozen=True)
class Plan:
    """How often everything is measured; `share` of the requests of a whole load are sent."""

    repetitions: int = 5
    share: float = 1.0

    def requests(self, kind: str) -> int:
        """Return the requests of one load: at least as many as are sent at once."""
        return max(CONCURRENCIES[-1], round(_REQUESTS[kind][1] * self.share))


@dataclass
class Found:
    """One subject's figures: of each a value a repetition.

    Args:
        direct: texts a second without the service, by kind of text.
        http: texts a second through it, by kind and concurrency.
        singles: texts a second where each comes in a request of its own, 16 at a time.
        latency: milliseconds of one short text alone: `direct` and `http`, `p50` and `p99`.
        rerank: milliseconds of a request by `kind/candidates`: `direct`, `http`, and `again` with the same documents.
    """

    start_s: list[float] = field(default_factory=list)
    peak_rss_bytes: int = 0
    direct: dict[str, list[float]] = field(default_factory=dict)
    http: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    singles: list[float] = field(default_factory=list)
    latency: dict[str, list[float]] = field(default_factory=dict)
    rerank: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    others_cores: list[float] = field(default_factory=list)


def measure(subject: Subject, plan: Plan) -> Found:
    """Return a subject's figures.

    Raises:
        ChildError: a process did not start, or an answer was wrong.
    """
    return asyncio.run(_measure(subject, plan))


async def _measure(subject: Subject, plan: Plan) -> Found:
    found = Found()
    async with AsyncExitStack() as stack:
        state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="embeddings-")))
        catalogue = prepare(state)
        alone = stack.enter_context(bound(subject, subject.model, state, catalogue))
        served = await stack.enter_async_context(service(subject, state, catalogue))
        found.start_s.append(served.start_s)
        reranking = (
            stack.enter_context(bound(subject, subject.reranker, state, catalogue)) if subject.reranker else None
        )
        await _require_the_same_vectors(served, subject)
        for number in range(plan.repetitions):
            _say(f"{subject.name}: {number + 1}/{plan.repetitions}")
            await _throughput(found, subject, served, alone, plan, number)
            await _latency(found, subject, served, alone, number)
            if reranking is not None:
                await _rerank(found, subject, served, reranking, number)
        found.peak_rss_bytes = tree_peak_rss_bytes(served.pid)
    return found


async def _require_the_same_vectors(served: Service, subject: Subject) -> None:
    """Make sure that what is timed is an answer: vectors of norm 1, the same as base64 and as numbers."""
    texts = make("short", 3)
    answers = [
        json.loads(await served.post("/v1/embeddings", _body(subject, texts, form))) for form in ("base64", "float")
    ]
    coded = [_floats(each["embedding"]) for each in answers[0]["data"]]
    plain = [each["embedding"] for each in answers[1]["data"]]
    for one, other in zip(coded, plain, strict=True):
        if not math.isclose(sum(a * b for a, b in zip(one, other, strict=True)), 1, abs_tol=1e-3):
            raise ChildError("base64 and float have different vectors, or their norm is not 1")


def _floats(coded: str) -> Sequence[float]:
    return memoryview(base64.b64decode(coded)).cast("f")


async def _throughput(found: Found, subject: Subject, served: Service, alone: Bound, plan: Plan, number: int) -> None:
    for kind, (size, _requests) in _REQUESTS.items():
        texts = make(kind, size * plan.requests(kind), seed=number)
        bodies = [_body(subject, texts[start : start + size]) for start in range(0, len(texts), size)]
        if not number:  # threads, caches and the processor's clock come up once
            alone.call("embed", texts=texts[:size])
            await _load(served, bodies[:1], 1)
        seconds = alone.call("embed", texts=texts)
        found.direct.setdefault(kind, []).append(len(texts) / seconds)
        for concurrency in CONCURRENCIES:
            seconds = await _load(served, bodies, concurrency, found)
            found.http.setdefault(kind, {}).setdefault(str(concurrency), []).append(len(texts) / seconds)
    singles = make("short", round(_SINGLES * plan.share), seed=-number - 1)
    seconds = await _load(served, [_body(subject, [text]) for text in singles], CONCURRENCIES[-1], found)
    found.singles.append(len(singles) / seconds)


async def _load(served: Service, bodies: list[bytes], concurrency: int, found: Found | None = None) -> float:
    """Return the seconds from the first request to the last answer, `concurrency` of them on their way at a time."""
    waiting = iter(bodies)
    before = _all_but_ours_s(served)

    async def client() -> None:
        for body in waiting:
            await served.post("/v1/embeddings", body)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(client())
    seconds = time.perf_counter() - started
    if found is not None:
        found.others_cores.append(max(0.0, (_all_but_ours_s(served) - before) / seconds))
    return seconds


def _all_but_ours_s(served: Service) -> float:
    """Return the CPU seconds of everything on the machine but the service and this process."""
    return machine_busy_s() - tree_cpu_s(served.pid) - time.process_time()


async def _latency(found: Found, subject: Subject, served: Service, alone: Bound, number: int) -> None:
    texts = make("short", _LONE, seed=1000 + number)
    direct = alone.call("embed_each", texts=texts)
    http = [await _timed(served, "/v1/embeddings", _body(subject, [text])) for text in texts]
    for name, seconds in (("direct", direct), ("http", http)):
        for percent in (50, 99):
            found.latency.setdefault(f"{name}_p{percent}", []).append(percentile(seconds, percent) * 1000)


async def _rerank(found: Found, subject: Subject, served: Service, alone: Bound, number: int) -> None:
    for kind in ("passage", "chunk"):
        for candidates in CANDIDATES:
            row = found.rerank.setdefault(f"{kind}/{candidates}", {})
            # New documents each time, for the service and for the bare backend: both keep token vectors.
            documents = make(kind, 2 * candidates, seed=2000 + 1000 * number + candidates)
            direct = alone.call("rerank", query=_QUERY, documents=documents[candidates:])
            body = json.dumps(
                {"model": subject.reranker, "query": _QUERY, "documents": documents[:candidates]}
            ).encode()
            first = await _timed(served, "/v1/rerank", body)
            again = await _timed(served, "/v1/rerank", body)
            for name, seconds in (("direct", direct), ("http", first), ("again", again)):
                row.setdefault(name, []).append(seconds * 1000)


async def _timed(served: Service, path: str, body: bytes) -> float:
    started = time.perf_counter()
    await served.post(path, body)
    return time.perf_counter() - started


def _body(subject: Subject, texts: list[str], form: str = "base64") -> bytes:
    return json.dumps({"model": subject.model, "input": texts, "encoding_format": form}).encode()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
