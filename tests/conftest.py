"""What every test of the tree has: the guards, and a fake engine.

Tests in `tests/e2e` and tests marked `slow` may take their time; all others are part of `make test-fast`.
"""

import gc
import os
from collections.abc import AsyncIterator

import pytest

from tests.contract import standard_tests
from tests.testkit import guards, server
from tests.testkit.fake_engine import FakeEngine


def pytest_configure(config: pytest.Config) -> None:
    """Switch on the guards, and the report of tests that others publish."""
    guards.install(config)
    config.pluginmanager.register(standard_tests)


def pytest_collection_finish() -> None:
    """Keep the garbage collector from going through thousands of tests and all imported modules again and again."""
    gc.collect()
    gc.freeze()


def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes run the fast tests: three on two cores, since half of a test is waiting for sockets."""
    return min(8, (os.cpu_count() or 1) * 3 // 2)


@pytest.fixture
async def fake_engine() -> AsyncIterator[FakeEngine]:
    """Give a fake engine of its own to a test; `tests.testkit.server.fake_engine` makes one with settings."""
    async with server.fake_engine() as engine:
        yield engine
