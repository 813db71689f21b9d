"""A pytest plugin for suites of tests that others publish: what is left out stands in one table, with its reason.

A test of such a suite that skips itself fails unless the table has it, and the terminal's summary shows the counts.
"""

from typing import Any

import pytest

SUITE = "TestChatOpenAIAgainstTheGateway"
"""The class that inherits LangChain's standard tests."""
LEFT_OUT = {
    "test_stream_time": "measures the replay of traffic recorded from a provider; loadtests/ measures this gateway",
}
"""Names of LangChain's tests, and why each is not run."""


def _is_of_suite(node_id: str) -> bool:
    return f"::{SUITE}::" in node_id


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what the table has."""
    left_out = [each for each in items if _is_of_suite(each.nodeid) and getattr(each, "originalname", "") in LEFT_OUT]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [each for each in items if each not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Fail a test of the suite that skips itself."""
    report = yield
    if report.skipped and _is_of_suite(item.nodeid):
        report.outcome = "failed"
        report.longrepr = f"skipped, but not in tests/contract/standard_tests.py: {report.longrepr[2]}"
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many of the suite passed, failed and were left out."""
    counts = {
        outcome: sum(_is_of_suite(getattr(report, "nodeid", "")) for report in terminalreporter.stats.get(outcome, ()))
        for outcome in ("passed", "failed", "error")
    }
    if not any(counts.values()):
        return
    terminalreporter.section("LangChain's standard tests of a chat model")
    terminalreporter.line(
        f"{counts['passed']} passed, {counts['failed'] + counts['error']} failed, {len(LEFT_OUT)} left out:"
    )
    for name, reason in LEFT_OUT.items():
        terminalreporter.line(f"  {name}: {reason}")
