"""What every test of the tree has: the guards, and a fake engine.

Tests in `tests/e2e` and tests marked `slow` may take their time; all others are part of `make test-fast`.
"""

from collections.abc import AsyncIterator

import pytest

from tests.contract import standard_tests
from tests.testkit import guards, server
from tests.testkit.fake_engine import FakeEngine


def pytest_configure(config: pytest.Config) -> None:
    """Switch on the guards, and the report of tests that others publish."""
    guards.install(config)
    config.pluginmanager.register(standard_tests)


@pytest.fixture
async def fake_engine() -> AsyncIterator[FakeEngine]:
    """Give a fake engine of its own to a test; `tests.testkit.server.fake_engine` makes one with settings."""
    async with server.fake_engine() as engine:
        yield engine
