"""One gateway on a real socket in front of the fake engine, for all contract tests of a process.

Both run in an event loop of their own, in a thread: most clients under test block.
"""

import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import openai
import pytest
import structlog
from fastapi import FastAPI

from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings
from tests.testkit.engine import FakeEngine
from tests.testkit.server import fake_engine, in_thread, running

KEY = "sk-spark-contract-tests"


@dataclass(frozen=True)
class Stack:
    """A gateway, its key, and the engine behind it."""

    url: str
    key: str
    engine: FakeEngine
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
    """Run the fake engine and a gateway in front of it."""
    async with fake_engine(models=("fake-chat", "fake-other")) as engine:
        settings = GatewaySettings(
            api_keys=(f"contract={KEY}",),
            backends={"fake": engine.url},
            aliases={"gpt-4o-mini": "fake-chat"},
            max_body_mb=1,
        )
        app = create_app(settings)
        async with running(app) as url:
            yield Stack(url, KEY, engine, app)


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
