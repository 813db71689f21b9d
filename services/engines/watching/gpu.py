"""Is an engine really on the GPU? An image for the wrong architecture, or a missing runtime, falls back to the CPU in
silence, and all that a user sees is a slow model.

Three kinds of evidence, in this order: there is a device at all; its driver lists the engine's process, or the engine
says itself where it computes; its speed is what a GPU gives. The memory columns of `nvidia-smi` are "Not Supported"
on a Spark, so being listed is what counts there. Source: `nvidia-smi --help-query-compute-apps`.
"""

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
import psutil

from services.engines.watching.canary import canary
from services.engines.watching.health import EngineTarget

Says = Literal["cpu", "gpu", "unknown"]
Run = Callable[[Sequence[str]], Awaitable[str | None]]
"""Returns what a command writes; None where it isn't there, fails or hangs."""

_COMMAND_TIMEOUT_S = 10.0
_SPEED_TIMEOUT_S = 30.0
_SPEED_TOKENS = 25
_FEWEST_TOKENS = 8
# Realistic decode speeds are two thirds of the ceiling; below a fifth of it something else computes.
_FLOOR_OF_CEILING = 0.2
_DEVICES = re.compile(r"^GPU \d+: (?P<name>[^(]+)", re.MULTILINE)
_LLAMACPP_DEVICES = 'import xllamacpp; print(*(each["name"] for each in xllamacpp.get_device_info()), sep="\\n")'
_NO_GPU_NAMES = re.compile(r"^(CPU|BLAS|RPC)")

_ON_GPU = (
    re.compile(r"offloaded [1-9]\d*/\d+ layers to GPU"),
    re.compile(r"\b(?:CUDA|ROCm|Vulkan|Metal)\w* +(?:KV|model|compute) buffer size"),
    re.compile(r"device_config=cuda\b"),
    re.compile(r"\bdevice=['\"]cuda['\"]"),
    re.compile(r"Automatically detected platform cuda\b"),
)
_ON_CPU = (
    re.compile(r"offloaded 0/\d+ layers to GPU"),
    re.compile(r"no usable GPU found"),
    re.compile(r"device_config=cpu\b"),
    re.compile(r"\bdevice=['\"]cpu['\"]"),
    re.compile(r"Automatically detected platform cpu\b"),
)


@dataclass(frozen=True)
class GpuVerdict:
    """Where an engine computes.

    Args:
        on_gpu: None where nothing tells.
        evidence: sentences, the weightiest first.
        says: the same as `on_gpu` in a word, for tables.
    """

    on_gpu: bool | None
    evidence: tuple[str, ...]
    says: Says


@dataclass(frozen=True)
class GpuFacts:
    """What is known of an engine and the machine's GPUs; None for what could not be found out.

    Args:
        devices: names of the GPUs that the driver lists; () for none.
        listed: the driver lists one of the engine's processes.
        own_word: where the engine says that it computes, with its words.
        tok_per_s: that it generated for one short request.
        ceiling_tok_per_s: that the memory's bandwidth allows.
    """

    devices: tuple[str, ...] | None
    listed: bool | None = None
    own_word: tuple[Says, str] | None = None
    tok_per_s: float | None = None
    ceiling_tok_per_s: float | None = None


async def run_command(command: Sequence[str]) -> str | None:
    """Return what a command writes to stdout; None where it isn't there, fails or hangs."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return None
    try:
        async with asyncio.timeout(_COMMAND_TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()  # a driver in trouble hangs nvidia-smi
        return None
    return output.decode("utf-8", "replace") if process.returncode == 0 else None


async def check_gpu(
    client: httpx.AsyncClient,
    target: EngineTarget,
    capabilities: Iterable[str],
    pids: Sequence[int],
    log: str,
    *,
    ceiling_tok_per_s: float | None = None,
    run: Run = run_command,
    dev: Path = Path("/dev"),
) -> GpuVerdict:
    """Return where an engine that has just come up computes; it never raises.

    Args:
        pids: of its processes; () where the runtime can't know them.
        log: what it wrote while it loaded.
        ceiling_tok_per_s: of the memory plan; its speed is measured only where this is known and there is a device.
    """
    devices = await list_devices(run, dev)
    if devices == ():
        return judge(GpuFacts(devices))
    own_word = await _own_word(client, target, pids, log, run)
    listed = await _is_listed(run, pids)
    speed = await decode_speed(client, target, capabilities) if ceiling_tok_per_s else None
    return judge(GpuFacts(devices, listed, own_word, speed, ceiling_tok_per_s))


def judge(facts: GpuFacts) -> GpuVerdict:
    """Return the verdict that the facts allow: speed alone is a hint, a process that the driver lists is proof."""
    if facts.devices == ():
        return GpuVerdict(False, ("no GPU: nvidia-smi lists none, and /dev has none",), "cpu")
    names = ", ".join(facts.devices or ())
    evidence = [f"the machine has a GPU: {names}" if names else "nvidia-smi names no GPU, but there may be one"]
    says: Says = "unknown"
    if facts.tok_per_s is not None and facts.ceiling_tok_per_s:
        share = facts.tok_per_s / facts.ceiling_tok_per_s
        evidence.append(
            f"one request ran at {facts.tok_per_s:.1f} tokens/s, {share:.0%} of the {facts.ceiling_tok_per_s:.1f} that "
            "the memory's bandwidth allows"
        )
        if share < _FLOOR_OF_CEILING:
            says = "cpu"
            evidence.append(f"under {_FLOOR_OF_CEILING:.0%} of it a GPU is not at work, or not for this engine alone")
    if facts.listed is False:
        evidence.append("the driver lists no process of this engine")
    if facts.own_word is not None:
        says = facts.own_word[0]
        evidence.insert(0, f"the engine says so: {facts.own_word[1]}")
    if facts.listed:
        says = "gpu"
        evidence.insert(0, "the driver lists the engine's process among those that use the GPU")
    return GpuVerdict({"gpu": True, "cpu": False}.get(says), tuple(evidence), says)


async def list_devices(run: Run = run_command, dev: Path = Path("/dev")) -> tuple[str, ...] | None:
    """Return the names of the machine's GPUs; () for none, None where that can't be known by NVIDIA's means."""
    listing = await run(("nvidia-smi", "-L"))
    names = tuple(match["name"].strip() for match in _DEVICES.finditer(listing or ""))
    if names or sys.platform == "darwin":
        return names or None
    return None if await asyncio.to_thread(lambda: any(dev.glob("nvidia[0-9]*"))) else ()


async def _is_listed(run: Run, pids: Sequence[int]) -> bool | None:
    """Say whether the driver lists one of these processes or their children."""
    text = await run(("nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader"))
    if text is None or not pids:
        return None
    listed = {int(word) for line in text.splitlines() if (word := line.partition(",")[0].strip()).isdecimal()}
    return bool(listed & await asyncio.to_thread(_family, pids))


def _family(pids: Sequence[int]) -> set[int]:
    family = set(pids)
    for pid in pids:
        try:
            family.update(child.pid for child in psutil.Process(pid).children(recursive=True))
        except psutil.Error:
            continue
    return family


async def _own_word(
    client: httpx.AsyncClient, target: EngineTarget, pids: Sequence[int], log: str, run: Run
) -> tuple[Says, str] | None:
    """Return where an engine itself says that it computes, by its API, its build or its log."""
    if target.engine == "ollama":
        return await _ollama_word(client, target)
    word = read_log(log)
    if word is None and target.engine == "llamacpp" and await asyncio.to_thread(_is_our_build, pids):
        return await _llamacpp_word(run)
    return word


def read_log(log: str) -> tuple[Says, str] | None:
    """Return what an engine's log says of where it computes, with the words that say so."""
    for pattern in _ON_GPU:
        if found := pattern.search(log):
            return "gpu", found[0]
    for pattern in _ON_CPU:
        if found := pattern.search(log):
            return "cpu", found[0]
    return None


def _is_our_build(pids: Sequence[int]) -> bool:
    """Say whether it is a process of `sparkstack engine`, not one of an image with a llama.cpp of its own."""
    try:
        return bool(pids) and "services.cli.main" in psutil.Process(pids[0]).cmdline()
    except psutil.Error:
        return False


async def _llamacpp_word(run: Run) -> tuple[Says, str] | None:
    """Say `cpu` where this build of llama.cpp knows no other device; that it knows one does not mean it is used."""
    listing = await run((sys.executable, "-c", _LLAMACPP_DEVICES))
    names = (listing or "").split()
    if names and all(_NO_GPU_NAMES.match(name) for name in names):
        return "cpu", f"this build of llama.cpp knows no device but {', '.join(names)}"
    return None


async def _ollama_word(client: httpx.AsyncClient, target: EngineTarget) -> tuple[Says, str] | None:
    try:
        models = (await client.get(f"{target.url}/api/ps", timeout=_COMMAND_TIMEOUT_S)).json()["models"]
        loaded = next(each for each in models if target.upstream_id in (each.get("name"), each.get("model")))
        size, vram = int(loaded["size"]), int(loaded.get("size_vram", 0))
    except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return None
    return ("gpu" if vram else "cpu"), f"/api/ps: {vram} of {size} bytes are on the GPU"


async def decode_speed(client: httpx.AsyncClient, target: EngineTarget, capabilities: Iterable[str]) -> float | None:
    """Return the tokens/s of one short request, by what its further tokens took; None where it has none to tell.

    The same prompt is asked for one token first, so that reading it, and what the first request compiles, count for
    nothing.
    """
    wanted = tuple(capabilities)
    one = await canary(client, target, wanted, _SPEED_TIMEOUT_S)
    many = await canary(client, target, wanted, _SPEED_TIMEOUT_S, max_tokens=_SPEED_TOKENS)
    further, took_ms = many.tokens - one.tokens, many.ms - one.ms
    if not (one.ok and many.ok) or further < _FEWEST_TOKENS or took_ms <= 0:
        return None
    return further / took_ms * 1000
