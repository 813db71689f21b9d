"""What every test of this folder has: a clean environment, and no crash behind an answer that looks good."""

import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture

_PREFIXES = ("GATEWAY_", "SPARKSTACK_", "OTEL_")


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove every variable that a gateway reads: the environment of whoever runs the tests does not reach it."""
    for name in list(os.environ):
        if name.startswith(_PREFIXES) or name == "LOG_LEVEL":
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[Any]]:
    """Give the log lines of the gateways in this process; fail the test in which a request crashed.

    A crash after the client has left, or after the answer, is seen nowhere else.
    """
    capture = LogCapture()
    before = structlog.get_config()
    everything = structlog.make_filtering_bound_logger(logging.NOTSET)
    structlog.configure(processors=[structlog.processors.format_exc_info, capture], wrapper_class=everything)
    yield capture.entries
    structlog.configure(**before)
    crashed = [entry for entry in capture.entries if entry["event"] == "request.crashed"]
    if crashed:
        pytest.fail("\n".join(entry.get("exception", str(entry)) for entry in crashed), pytrace=False)
