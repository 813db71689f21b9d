"""Start each engine as its recipe says, with a gateway in front of it.

An engine that needs an environment of its own is started by that one's Python; `make test-engines` makes them.
"""

import asyncio
import contextlib
import importlib.metadata
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from services.engines.files.convert import is_converted
from services.engines.files.packaged import locate
from services.engines.recipes import EngineName, PackageSource, Recipe, find_recipe, load_recipes
from services.engines.rendering import render
from services.engines.threads import default_threads
from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings
from tests.conformance.subject import KEY, Place
from tests.testkit.server import fake_engine, free_port, run_process, running

ROOT = Path(__file__).parents[2]
CONVERTED = ROOT / ".state" / "models"
"""Where `sparkstack pull` puts what it has converted, so that a test uses what is there."""
_CONVERSION_S = 300
_START_S = 240


@dataclass(frozen=True)
class Setup:
    """One engine with one model.

    Args:
        engine: of the recipe; the fake one has none.
        recipe: its id.
        environment: folder under `.venvs` whose Python runs it; "" for the tests' own.
        context_tokens: less than the recipe's, so that a prompt above it is soon written.
        extra: more words of the command line, for what is only asked here.
    """

    engine: EngineName
    recipe: str
    environment: str = ""
    context_tokens: int = 1024
    extra: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    def of(self) -> Recipe:
        """Return the recipe."""
        return find_recipe(self.recipe, load_recipes())

    @property
    def lacks(self) -> dict[str, str]:
        """Return what the recipe says that this pair can't do."""
        return self.of().engines[self.engine].lacks

    @property
    def python(self) -> Path:
        """Return the interpreter that runs the engine."""
        return ROOT / ".venvs" / self.environment / "bin" / "python" if self.environment else Path(sys.executable)


SETUPS: dict[str, Setup | None] = {
    "fake": None,
    "llamacpp": Setup(
        "llamacpp",
        "smollm2-135m-instruct-q4_1",
        facts={
            "running_metric": "llamacpp:requests_processing",
        },
    ),
    "vllm": Setup(
        "vllm",
        "smollm2-135m-instruct-bf16",
        environment="vllm-cpu",
        # SmolLM2 does not think: a parser of thoughts that are marked by words, and an expression that makes it write
        # those, show how vLLM spells them.
        extra=(
            "--reasoning-parser=granite",
            '--structured-outputs-config={"backend":"xgrammar","disable_any_whitespace":true,"enable_in_reasoning":true}',
        ),
        facts={
            "running_metric": "vllm:num_requests_running",
            "thinks": {
                "structured_outputs": {
                    "regex": "Here is my thought process: a greeting Here is my response: Hello there"
                }
            },
        },
    ),
}


def version_of(name: str) -> str:
    """Return the version of an engine, as its lock pins it."""
    setup = SETUPS[name]
    if setup is None:
        return ""
    if not setup.environment:
        return importlib.metadata.version("xllamacpp")
    package = setup.environment
    lock = (ROOT / "requirements" / f"{setup.environment}.lock").read_text()
    match = re.search(rf"^{re.escape(package)}==(\S+)", lock, re.MULTILINE)
    assert match, f"{setup.environment}.lock does not pin {package}"
    return match[1]


def place(name: str, folder: Path) -> AbstractAsyncContextManager[Place]:
    """Return what runs an engine and a gateway while it is entered.

    Args:
        folder: for the gateway's catalogue.
    """
    setup = SETUPS[name]
    return _fake() if setup is None else _real(setup, folder)


@contextlib.asynccontextmanager
async def _fake() -> AsyncIterator[Place]:
    settings = {"n_ctx": 512, "tokens_per_s": 400}
    async with fake_engine(**settings) as engine, _gateway(backends={"fake": engine.url}) as url:
        yield Place(
            name="fake",
            version="",
            model="fake-chat",
            gateway_url=url,
            engine_url=engine.url,
            context_tokens=settings["n_ctx"],
            thinks={"reasoning_effort": "low"},
            dictated=False,
        )


@contextlib.asynccontextmanager
async def _real(setup: Setup, folder: Path) -> AsyncIterator[Place]:
    recipe, port = setup.of(), free_port()
    model = await _model(recipe, setup)
    rendered = render(
        recipe,
        setup.engine,
        "process",
        port=port,
        model=str(model),
        context_tokens=setup.context_tokens,
        threads=default_threads() if setup.engine == "llamacpp" else None,
    )
    url = f"http://127.0.0.1:{port}"
    catalogue = folder / "catalogue.json"
    facts = {"id": recipe.id, "aliases": list(recipe.aliases), "capabilities": list(recipe.capabilities)}
    backend = {"name": setup.engine, "engine": setup.engine, "url": url, "models": [facts]}
    catalogue.write_text(json.dumps({"default": recipe.id, "backends": [backend]}))
    async with (
        run_process(
            [str(setup.python), *rendered.command, *setup.extra],
            env=rendered.environment,
            ready_url=url + rendered.health_path,
            timeout_s=_START_S,
            cwd=ROOT,
        ),
        _gateway(catalogue=catalogue) as gateway_url,
    ):
        yield Place(
            name=setup.engine,
            version=version_of(setup.engine),
            model=recipe.id,
            gateway_url=gateway_url,
            engine_url=url,
            context_tokens=setup.context_tokens,
            lacks=setup.lacks,
            **setup.facts,
        )


async def _model(recipe: Recipe, setup: Setup) -> Path:
    """Return the model's file; or the folder that is converted from it, which is made where it isn't there."""
    if isinstance(recipe.source, PackageSource):
        return locate(recipe.source)
    original = find_recipe(recipe.source.recipe, load_recipes())  # type: ignore[union-attr]
    assert isinstance(original.source, PackageSource)
    source, folder = locate(original.source), CONVERTED / recipe.id
    if not is_converted(source, folder):
        command = [str(setup.python), "-m", "services.engines.files.convert", str(source), str(folder)]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        try:
            async with asyncio.timeout(_CONVERSION_S):
                said, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            raise
        assert process.returncode == 0, said.decode()
    return folder


@contextlib.asynccontextmanager
async def _gateway(**settings: Any) -> AsyncIterator[str]:
    app = await asyncio.to_thread(create_app, GatewaySettings(api_keys=(KEY,), **settings))
    async with running(app) as url:
        yield url


def need(name: str) -> None:
    """Skip where the engine's environment is not made."""
    setup = SETUPS[name]
    if setup is not None and setup.environment and not os.access(setup.python, os.X_OK):
        pytest.skip(f"optional: .venvs/{setup.environment} is not made; `make test-engines` makes it")
