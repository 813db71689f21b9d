"""A real llama.cpp: a long prefill is busy, a stopped worker is stalled, a killed one is dead, and it is on the CPU."""

import asyncio
import contextlib
import signal
import time
from dataclasses import replace

import httpx
import psutil
import pytest

from services.engines.files.packaged import locate
from services.engines.loading.launching import launch_spec
from services.engines.offers import find_offer, offers_here
from services.engines.recipes import load_recipes
from services.engines.watching.canary import canary
from services.engines.watching.gpu import check_gpu, decode_speed, list_devices
from services.engines.watching.health import EngineTarget, HealthLimits, ProgressWatch
from services.engines.watching.signals import gather
from tests.testkit.server import free_port, run_process

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
KEY = "engine-key"
# Far stricter than the real ones: whoever stays busy under these does so under those.
STRICT = HealthLimits(suspect_s=2.0, stall_s=4.0)
PROMPT_WORDS = 1000
CHAT = ("chat",)


def prepare(variables):
    offer = find_offer("smollm2", offers_here(load_recipes(), variables))
    return offer, launch_spec(offer, locate(offer.recipe.source), free_port(), KEY, variables=variables)[0]


@contextlib.asynccontextmanager
async def running_llamacpp(**variables):
    """Run one slot with one thread that reads prompts: a few thousand tokens then take their time anywhere."""
    variables = {"LLAMACPP_SLOTS": "1", "LLAMACPP_CONTEXT": "8192", "LLAMACPP_THREADS_BATCH": "1", **variables}
    offer, spec = await asyncio.to_thread(prepare, variables)
    url = f"http://127.0.0.1:{spec.port}"
    async with (
        run_process(list(spec.command), env=spec.environment, ready_url=f"{url}/health", timeout_s=60) as child,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        yield client, EngineTarget(offer.id, "llamacpp", url, KEY, offer.id), child


@contextlib.asynccontextmanager
async def request(client, target, content, max_tokens):
    """Hold a request open until it has ended, or until the body is left; gives its task."""
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": max_tokens, "cache_prompt": False}
    headers = {"authorization": f"Bearer {target.api_key}"}
    asking = asyncio.create_task(
        client.post(f"{target.url}/v1/chat/completions", json=body, headers=headers, timeout=None)
    )
    try:
        yield asking
    finally:
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError, httpx.HTTPError):
            await asking


async def test_a_prefill_of_thousands_of_tokens_in_the_only_slot_is_busy_all_the_time():
    async with running_llamacpp() as (client, target, child):
        watch, seen = ProgressWatch(STRICT), []
        assert watch.observe(await gather(client, target, (child.pid,), 0)).state == "ready"
        prompt = " ".join(f"word{number}" for number in range(PROMPT_WORDS))
        async with request(client, target, prompt, 2) as asking:
            began = time.monotonic()
            while not asking.done():
                signals = await gather(client, target, (child.pid,), 1)
                seen.append((watch.observe(signals), signals))
                await asyncio.sleep(0.25)
            took_s = time.monotonic() - began
            usage = asking.result().json()["usage"]
        assert usage["prompt_tokens"] > 3000
        assert {verdict.state for verdict, _ in seen} == {"busy"}, [verdict for verdict, _ in seen]
        assert took_s > STRICT.stall_s
        assert {signals.tokens for _, signals in seen[:-1]} <= {0.0, None}  # its counters told of nothing meanwhile
        assert watch.observe(await gather(client, target, (child.pid,), 0)).state == "ready"


async def test_a_stopped_worker_is_stalled_within_30_s_and_well_when_it_continues():
    async with running_llamacpp() as (client, target, child):
        watch = ProgressWatch()
        async with request(client, target, "Tell me a long story.", 4000):
            while watch.observe(await gather(client, target, (child.pid,), 1)).state != "busy":
                await asyncio.sleep(0.1)
            child.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            while (verdict := watch.observe(await gather(client, target, (child.pid,), 1))).state != "stalled":
                assert time.monotonic() - began < 30, verdict
                await asyncio.sleep(2)
            assert time.monotonic() - began < 30
            assert (await canary(client, target, CHAT, 1.0)).outcome == "timeout"
            child.send_signal(signal.SIGCONT)
            async with asyncio.timeout(60):
                while watch.observe(await gather(client, target, (child.pid,), 1)).state != "busy":
                    await asyncio.sleep(0.2)


async def test_a_killed_worker_is_dead_at_the_next_look():
    async with running_llamacpp() as (client, target, child):
        watch = ProgressWatch()
        assert watch.observe(await gather(client, target, (child.pid,), 0)).state == "ready"
        child.send_signal(signal.SIGKILL)
        await asyncio.to_thread(psutil.wait_procs, [psutil.Process(child.pid)], 10)
        assert watch.observe(await gather(client, target, (child.pid,), 1)).state == "dead"
        assert (await canary(client, target, CHAT, 5.0)).outcome == "unreachable"


async def test_at_rest_it_uses_far_less_cpu_than_counts_as_work():
    async with running_llamacpp() as (client, target, child):
        assert (await canary(client, target, CHAT, 60.0)).ok
        first = await gather(client, target, (child.pid,), 0)
        for _ in range(5):
            await asyncio.sleep(1)
            last = await gather(client, target, (child.pid,), 0)
        assert last.cpu_s - first.cpu_s < HealthLimits().idle_cores * (last.at - first.at) / 2
        assert last.work == first.work
        assert last.tokens == first.tokens


async def test_its_canary_wants_the_key_and_it_says_cpu_where_there_is_no_gpu():
    async with running_llamacpp() as (client, target, child):
        result = await canary(client, target, CHAT, 60.0)
        assert (result.ok, result.tokens) == (True, 1)
        assert (await canary(client, replace(target, api_key="wrong"), CHAT, 60.0)).unauthorized
        signals = await gather(client, target, (child.pid,), 0)
        assert signals.tokens > 1
        assert signals.rss_bytes > 100_000_000
        speed = await decode_speed(client, target, CHAT)
        assert speed is None or speed > 0.5
        verdict = await check_gpu(client, target, CHAT, (child.pid,), child.output)
        if await list_devices() == ():
            assert (verdict.says, verdict.on_gpu) == ("cpu", False)
        assert verdict.evidence
        # As if the machine had a GPU that this build of llama.cpp can't use:
        verdict = await check_gpu(client, target, CHAT, (child.pid,), child.output, run=_with_a_gpu)
        assert (verdict.says, verdict.on_gpu) == ("cpu", False)
        assert "knows no device but CPU" in verdict.evidence[0]


async def _with_a_gpu(command):
    from services.engines.watching.gpu import run_command

    if command[0] != "nvidia-smi":
        return await run_command(command)
    return "GPU 0: NVIDIA GB10 (UUID: GPU-0)\n" if command[1] == "-L" else ""
