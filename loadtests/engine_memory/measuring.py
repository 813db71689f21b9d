"""One engine at one setting: started, filled with requests, measured, ended."""

import contextlib
import json
import os
import random
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from loadtests.engine_memory.settings import Setting
from services.engines.files import packaged
from services.engines.files.store import ModelStore
from services.engines.llamacpp import PROMPT_CACHE_BYTES
from services.engines.loading.engine_memory import tree_memory
from services.engines.offers import engine_python
from services.engines.recipes import PackageSource, Recipe, RecipeError, find_recipe, load_recipes
from services.engines.rendering import render
from services.kit.processes import find_process, living, tree_of
from tests.testkit.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
_START_S, _TRAFFIC_S, _CONVERT_S, _STOP_S = 300.0, 600.0, 300.0, 10.0
_SAMPLE_S = 0.5
_SETTLE_S = 3.0  # of no requests, before what is held is read
_ANSWER_TOKENS = 4
_SHARED = 0.45
# Ordinary words of the vocabulary.
_TOKENS = range(1000, 40_000)


class MeasuringError(Exception):
    """An engine did not start or answer; the message has the end of its output."""


@dataclass(frozen=True)
class Measured:
    """What an engine held: the PSS of its process tree, in bytes.

    Args:
        ready_bytes: before the first request.
        held_bytes: after requests have filled everything that grows.
        peak_bytes: the most, from its launch to its end, looked at twice a second.
    """

    ready_bytes: int
    held_bytes: int
    peak_bytes: int
    requests: int
    tokens: int
    load_s: float
    traffic_s: float


def measure(setting: Setting, folder: Path) -> Measured:
    """Start an engine, fill it with requests, return what it held.

    Args:
        folder: an empty one, for its output and for the model where that must be copied or converted.

    Raises:
        MeasuringError: it is not installed, or did not start or answer in time.
    """
    began = time.monotonic()
    with _running(setting, _model(setting, folder), folder) as engine, _watching(engine) as peak:
        engine.wait_ready()
        ready, load_s = engine.held(), time.monotonic() - began
        began = time.monotonic()
        requests, tokens = _fill(engine, setting)
        traffic_s = time.monotonic() - began
        time.sleep(_SETTLE_S)
        held = engine.held()
    most = max(peak.bytes, ready, held)
    return Measured(ready, held, most, requests, tokens, round(load_s, 1), round(traffic_s, 1))


@dataclass(frozen=True)
class _Engine:
    process: subprocess.Popen[bytes]
    url: str
    output: Path

    def held(self) -> int:
        return tree_memory([self.process.pid])

    def failed(self, why: str) -> MeasuringError:
        lines = self.output.read_text(errors="replace").splitlines()[-15:]
        return MeasuringError("\n".join([f"{why}; the end of its output:", *lines]))

    def wait_ready(self) -> None:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise self.failed(f"the engine ended with status {self.process.returncode}")
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=5):
                return
            time.sleep(0.25)
        raise self.failed(f"the engine was not ready within {_START_S:.0f} s")

    def complete(self, model: str, prompt: list[int]) -> int:
        """Return how many tokens a request has taken, its prompt's and its answer's."""
        body = {"model": model, "prompt": prompt, "max_tokens": _ANSWER_TOKENS, "ignore_eos": True}
        request = urllib.request.Request(
            f"{self.url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=_TRAFFIC_S) as answer:
                return int(json.load(answer)["usage"]["total_tokens"])
        except (OSError, ValueError, KeyError) as error:
            said = error.read().decode(errors="replace") if isinstance(error, urllib.error.HTTPError) else str(error)
            raise self.failed(f"a request failed: {said}") from None


def _model(setting: Setting, folder: Path) -> Path:
    """Return the model's file or folder, of which this engine alone maps pages: shared ones count in part."""
    recipe = setting.recipe()
    if isinstance(recipe.source, PackageSource):
        return Path(shutil.copy(packaged.locate(recipe.source), folder / "model.gguf"))
    try:
        return ModelStore(ROOT / ".state").path_of(recipe)
    except RecipeError:
        return _convert(setting, recipe, folder / "model")


def _convert(setting: Setting, recipe: Recipe, target: Path) -> Path:
    source = find_recipe(recipe.source.recipe, load_recipes())  # type: ignore[union-attr]
    command = [str(_python(setting)), "-m", "services.engines.files.convert"]
    assert isinstance(source.source, PackageSource)
    done = subprocess.run(
        [*command, str(packaged.locate(source.source)), str(target)], cwd=ROOT, timeout=_CONVERT_S, capture_output=True
    )
    if done.returncode:
        raise MeasuringError(f"the model could not be converted: {done.stderr.decode(errors='replace')[-1000:]}")
    return target


def _python(setting: Setting) -> Path:
    python = engine_python(setting.engine)
    if python is None:
        raise MeasuringError(f"{setting.engine} is not installed here; see docs/engine-matrix.md")
    return python


@contextlib.contextmanager
def _running(setting: Setting, model: Path, folder: Path) -> Iterator[_Engine]:
    recipe, port = setting.recipe(), free_port()
    rendered = render(
        recipe,
        setting.engine,
        "process",
        port=port,
        model=str(model),
        context_tokens=setting.context_tokens,
        sequences=setting.sequences,
    )
    output = folder / "output.log"
    with output.open("wb") as log:
        process = subprocess.Popen(
            [str(_python(setting)), *rendered.command],
            cwd=ROOT,
            env={**os.environ, **rendered.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield _Engine(process, f"http://127.0.0.1:{port}", output)
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    main = find_process(process.pid)
    tree = tree_of(main) if main is not None else []
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    for left in living(tree):
        with contextlib.suppress(psutil.Error):
            left.kill()
    process.wait(_STOP_S)


@dataclass
class _Peak:
    bytes: int = field(default=0)


@contextlib.contextmanager
def _watching(engine: _Engine) -> Iterator[_Peak]:
    peak, over = _Peak(), threading.Event()

    def watch() -> None:
        while not over.wait(_SAMPLE_S):
            peak.bytes = max(peak.bytes, engine.held())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def _fill(engine: _Engine, setting: Setting) -> tuple[int, int]:
    """Send prompts that fill every sequence to its context, as many at a time as there are sequences.

    llama.cpp keeps the prompts that a slot has answered before, up to a limit: as many more are sent as reach it.
    """
    dice = random.Random(setting.key)
    length = setting.context_tokens - _ANSWER_TOKENS - 1
    count = setting.sequences
    if setting.engine == "llamacpp":
        count += 2 + PROMPT_CACHE_BYTES // (length * setting.plan().kv_bytes_per_token)
    # A slot whose next prompt shares less than half of the last one keeps that one; what they share isn't read again.
    common = dice.choices(_TOKENS, k=int(length * _SHARED))
    prompts = [[*common, *dice.choices(_TOKENS, k=length - len(common))] for _ in range(count)]
    deadline = time.monotonic() + _TRAFFIC_S

    def send(prompt: list[int]) -> int:
        if time.monotonic() > deadline:
            raise engine.failed(f"the requests took more than {_TRAFFIC_S:.0f} s")
        return engine.complete(setting.recipe().id, prompt)

    pool = ThreadPoolExecutor(setting.sequences)
    try:
        return count, sum(pool.map(send, prompts))
    finally:
        # Not waited for: who stops this ends the engine next, and with it the requests.
        pool.shutdown(wait=False, cancel_futures=True)
