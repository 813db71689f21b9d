"""The guards of `tests/testkit` watch the services' own tests too."""

from tests.testkit import guards

pytest_configure = guards.install
