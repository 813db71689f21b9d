"""An engine that answers 200 on /health and gives no token is found; its canary and its watchdog do the rest.

The engine is the fake one, as a process of its own, so that there is a CPU time to be flat.
"""

import asyncio
import contextlib
import json
import signal
import sys
import time
from dataclasses import dataclass, field

import httpx
import pytest

from services.engines.watching.canary import CanaryResult, canary
from services.engines.watching.health import EngineTarget, HealthLimits, ProgressWatch, Verdict
from services.engines.watching.signals import gather
from services.engines.watching.watchdog import Action, Watchdog, WatchdogLimits
from tests.testkit.server import run_process

pytestmark = pytest.mark.slow  # processes that are started, stopped and waited for

FAST = HealthLimits(suspect_s=0.6, stall_s=1.2, idle_cores=0.3, idle_burst_s=0.2)
FAST_DOG = WatchdogLimits(grace_s=0.0, idle_canary_s=1.0)
CHAT = {"model": "fake-model", "messages": [{"role": "user", "content": "hello"}]}


@dataclass
class Watched:
    """An engine, and who looks at it as the engines service does."""

    client: httpx.AsyncClient
    target: EngineTarget
    pid: int
    limits: HealthLimits
    dog_limits: WatchdogLimits
    look_s: float
    canary_s: float
    open_requests: int = 0
    seen: list[tuple[float, Verdict, Action]] = field(default_factory=list)
    canaries: list[CanaryResult] = field(default_factory=list)

    async def watch(self):
        watch, dog, result = ProgressWatch(self.limits), Watchdog(self.dog_limits), None
        while True:
            began = time.monotonic()
            verdict = watch.observe(await gather(self.client, self.target, (self.pid,), self.open_requests))
            action = dog.decide(verdict, result, time.monotonic())
            self.seen.append((time.monotonic(), verdict, action))
            result = None
            if action.kind == "canary":
                result = await canary(self.client, self.target, ("chat",), self.canary_s)
                self.canaries.append(result)
                if result.ok:
                    watch.vouch()
            await asyncio.sleep(max(0.0, began + self.look_s - time.monotonic()))

    async def until(self, condition, *, timeout_s):
        """Return the first look that fulfils a condition, and when it was."""
        looked_at = len(self.seen)
        async with asyncio.timeout(timeout_s):
            while True:
                for at, verdict, action in self.seen[looked_at:]:
                    if condition(verdict, action):
                        return at
                looked_at = len(self.seen)
                await asyncio.sleep(0.02)

    def states(self):
        return {verdict.state for _, verdict, _ in self.seen}

    def actions(self):
        return {action.kind for _, _, action in self.seen}


@contextlib.asynccontextmanager
async def watched(*, limits=FAST, dog_limits=FAST_DOG, look_s=0.2, canary_s=0.5):
    command = [sys.executable, "-m", "tests.testkit.fake_engine", "--port", "0", "--any-model"]
    async with run_process(command, ready=r'"url": "(.+?)"') as child, httpx.AsyncClient(trust_env=False) as client:
        target = EngineTarget("m", "vllm", child.match[1], "", "m")
        engine = Watched(client, target, child.pid, limits, dog_limits, look_s, canary_s)
        watching = asyncio.create_task(engine.watch())
        try:
            yield engine, child
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching


@contextlib.asynccontextmanager
async def request(engine, **headers):
    """Hold a request open; `headers` are what goes wrong with it."""

    async def ask():
        body = {**CHAT, "stream": True}
        names = {f"x-fake-{name.replace('_', '-')}": value for name, value in headers.items()}
        async with engine.client.stream(
            "POST", f"{engine.target.url}/v1/chat/completions", json=body, headers=names, timeout=None
        ) as response:
            async for _ in response.aiter_bytes():
                pass

    asking = asyncio.create_task(ask())
    engine.open_requests += 1
    try:
        yield time.monotonic()
    finally:
        engine.open_requests -= 1
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError, httpx.HTTPError):
            await asking


async def wedge(engine):
    """Have it give no token any more, and answer 200 on /health as before."""
    script = {"path": "/v1/chat/completions", "stall_head": True}
    (await engine.client.post(f"{engine.target.url}/fake/script", json=script)).raise_for_status()
    assert (await engine.client.get(f"{engine.target.url}/health")).status_code == 200


async def test_a_wedged_engine_is_found_and_restarted_after_two_canaries():
    async with watched() as (engine, _):
        await engine.until(lambda verdict, _: verdict.state == "ready", timeout_s=60)
        await wedge(engine)
        async with request(engine):
            await engine.until(lambda verdict, _: verdict.state == "stalled", timeout_s=60)
            await engine.until(lambda _, action: action.kind == "restart", timeout_s=60)
        assert [each.outcome for each in engine.canaries[-2:]] == ["timeout", "timeout"]


async def test_a_wedged_engine_is_found_while_nobody_uses_it():
    async with watched() as (engine, _):
        await wedge(engine)
        await engine.until(lambda _, action: action.kind == "restart", timeout_s=60)


async def test_a_stopped_engine_is_stalled_and_is_well_again_when_it_continues():
    # A bound that no machine in trouble reaches: it is the recovery that is looked at.
    async with watched(dog_limits=WatchdogLimits(grace_s=3600)) as (engine, child):
        await engine.until(lambda verdict, _: verdict.state == "ready", timeout_s=60)
        async with request(engine, tokens_per_s="5", tokens="100000"):
            child.send_signal(signal.SIGSTOP)
            await engine.until(lambda verdict, _: verdict.state == "stalled", timeout_s=60)
            child.send_signal(signal.SIGCONT)
            await engine.until(lambda verdict, _: verdict.state == "busy", timeout_s=60)
        await engine.until(lambda verdict, _: verdict.state == "ready", timeout_s=60)


async def test_a_killed_engine_is_dead_and_restarted():
    async with watched() as (engine, child):
        await engine.until(lambda verdict, _: verdict.state == "ready", timeout_s=60)
        child.send_signal(signal.SIGKILL)
        await engine.until(lambda verdict, action: (verdict.state, action.kind) == ("dead", "restart"), timeout_s=60)


async def test_a_key_that_the_engine_does_not_know_is_never_acted_on():
    async with watched(dog_limits=WatchdogLimits(grace_s=0.0, idle_canary_s=0.2)) as (engine, _):
        script = {"path": "/v1/chat/completions", "status": 401}
        (await engine.client.post(f"{engine.target.url}/fake/script", json=script)).raise_for_status()
        async with asyncio.timeout(60):
            while len(engine.canaries) < 4:
                await asyncio.sleep(0.02)
        assert all(each.unauthorized for each in engine.canaries)
        assert engine.actions() <= {"none", "canary"}


async def test_a_slow_client_of_a_well_engine_is_no_stall():
    async with watched() as (engine, _):
        async with request(engine, stall_after="1"):  # this one answer ends in silence; others are fine
            async with asyncio.timeout(60):
                while len(engine.canaries) < 3:
                    await asyncio.sleep(0.02)
        assert all(each.ok for each in engine.canaries)
        assert "stalled" not in engine.states()
        assert engine.actions() <= {"none", "canary"}


@pytest.mark.slow
async def test_with_the_real_limits_a_wedge_is_found_within_30_s_of_its_first_stuck_request():
    async with watched(limits=HealthLimits(), dog_limits=WatchdogLimits(grace_s=0), look_s=2.0, canary_s=10.0) as (
        engine,
        _,
    ):
        await engine.until(lambda verdict, _: verdict.state == "ready", timeout_s=60)
        await wedge(engine)
        async with request(engine) as began:
            found = await engine.until(lambda verdict, _: verdict.state == "stalled", timeout_s=60)
            confirmed = await engine.until(lambda _, action: action.kind == "restart", timeout_s=60)
        assert found - began < 30
        assert engine.canaries[0].outcome == "timeout"  # the first has told by then
        assert confirmed - began < 45
        assert json.dumps(sorted(engine.states())) == '["busy", "ready", "stalled"]'
