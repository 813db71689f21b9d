"""A gateway as a process of its own, as it runs in the stack: its output is the log, its end is a signal."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import services
from tests.testkit.server import ChildProcess, free_port, run_process

_RUN = "from services.gateway.commands import gateway; gateway()"
_RUN_WITH_GRACE = """
from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings
from services.kit.logs import configure_logs
from services.kit.server import bind, serve
from services.kit.settings import load_settings

configure_logs("gateway")
settings = load_settings(GatewaySettings)
serve(create_app(settings), [bind(settings.host, settings.port)], grace_s={grace_s})
"""


class GatewayProcess:
    """A running gateway and its log."""

    def __init__(self, child: ChildProcess, url: str) -> None:
        self.child = child
        self.url = url

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Return the log lines of an event that were written so far."""
        found = (json.loads(line) for line in self.child.lines if line.startswith("{"))
        return [line for line in found if line["event"] == event]

    def requests(self, route: str) -> list[dict[str, Any]]:
        """Return the `request.completed` lines of a route."""
        return [line for line in self.lines("request.completed") if line["route"] == route]

    def terminate(self) -> None:
        """Send SIGTERM, as supervisord, Docker and Kubernetes do."""
        os.kill(self.child.pid, signal.SIGTERM)


@contextlib.asynccontextmanager
async def gateway_process(
    backend: str = "", *, grace_s: int | None = None, env: Mapping[str, str] | None = None
) -> AsyncIterator[GatewayProcess]:
    """Run a gateway in front of one backend; callers need no key.

    Args:
        backend: an address, named `engine`.
        grace_s: what requests in flight get when it ends, instead of the usual.
        env: more variables.
    """
    variables = {
        "GATEWAY_PORT": str(free_port()),
        "GATEWAY_BACKENDS": f"engine={backend}" if backend else "",
        "GATEWAY_ALLOW_LOOPBACK_WITHOUT_KEY": "1",
        **(env or {}),
    }
    code = _RUN if grace_s is None else _RUN_WITH_GRACE.format(grace_s=grace_s)
    url = f"http://127.0.0.1:{variables['GATEWAY_PORT']}"
    async with run_process(
        [sys.executable, "-c", code],
        env=variables,
        ready_url=f"{url}/livez",
        cwd=Path(services.__file__).parents[1],
    ) as child:
        yield GatewayProcess(child, url)
