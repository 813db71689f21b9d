"""The guards of `tests/testkit` watch the services' own tests too: loopback only, no blocked event loop, no silent skips."""

from tests.testkit import guards

pytest_configure = guards.install
