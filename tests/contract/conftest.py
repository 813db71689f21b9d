"""One gateway on a real socket in front of the fake engine and of fake embeddings and rag services, for all contract
tests of a process.

They run in an event loop of their own, in a thread: most clients under test block.
"""

import contextlib
import json
import logging
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import structlog
from fastapi import FastAPI

from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings
from tests.testkit.engine import FakeEngine
from tests.testkit.fake_services import FakeRag, FakeService, fake_embeddings, fake_rag
from tests.testkit.server import fake_engine, in_thread, running

KEY = "sk-spark-contract-tests"
INTERNAL_KEY = "sk-internal-contract-tests"
MODELS = {"fake-chat", "fake-other", "fake-embed", "mini", "mini-rank", "rag/handbook"}


@dataclass(frozen=True)
class Stack:
    """A gateway, its key, and the engine behind it."""

    url: str
    key: str
    engine: FakeEngine
    embeddings: FakeService
    rag: FakeRag
    app: FastAPI

    def last_body(self, path: str = "/v1/chat/completions") -> dict[str, Any]:
        """Return the body of the last request that came to `path` of the engine."""
        body = self.engine.requests(path)[-1]["body"]
        assert isinstance(body, dict)
        return body

    def last_headers(self, path: str = "/v1/chat/completions") -> dict[str, str]:
        """Return the headers of the last request that came to `path` of the engine."""
        headers = self.engine.requests(path)[-1]["headers"]
        assert isinstance(headers, dict)
        return headers


@contextlib.asynccontextmanager
async def running_stack() -> AsyncIterator[Stack]:
    """Run the fakes and a gateway in front of them."""
    async with (
        fake_engine(models=("fake-chat", "fake-other")) as engine,
        fake_embeddings(key=INTERNAL_KEY) as embeddings,
        fake_rag(key=INTERNAL_KEY) as rag,
    ):
        with tempfile.TemporaryDirectory() as folder:
            catalogue = Path(folder, "catalogue.json")
            catalogue.write_text(json.dumps({"backends": [embeddings.listed(), rag.listed()]}))
            settings = GatewaySettings(
                api_keys=(f"contract={KEY}",),
                backends={"fake": engine.url},
                catalogue=catalogue,
                internal_key=INTERNAL_KEY,
                aliases={"gpt-4o-mini": "fake-chat"},
                max_body_mb=1,
            )
            app = create_app(settings)
        async with running(app) as url:
            yield Stack(url, KEY, engine, embeddings, rag, app)


@pytest.fixture(scope="package", autouse=True)
def quiet_log() -> Iterator[None]:
    """Log warnings alone: a request's line comes after its answer, when pytest may no longer capture its test."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    yield
    structlog.configure(**before)


@pytest.fixture(scope="package")
def shared_stack() -> Iterator[Stack]:
    """Run the gateway that all tests share."""
    with in_thread(running_stack()) as stack:
        yield stack


@pytest.fixture
def stack(shared_stack: Stack) -> Iterator[Stack]:
    """Give the shared gateway, its engine without memory and without a script."""
    shared_stack.engine.clear_requests()
    yield shared_stack
    shared_stack.engine.clear_script()


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    """Give OpenAI's client as a user points it at the gateway, but without retries."""
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.key, max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(stack: Stack) -> AsyncIterator[openai.AsyncOpenAI]:
    """Give the asynchronous client."""
    async with openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key=stack.key, max_retries=0) as client:
        yield client
