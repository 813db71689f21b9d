"""Run apps, the fake engine and child processes on real sockets and free ports, and end them cleanly.

async with running(create_app(settings)) as url: ...
async with fake_engine(tokens_per_s=50) as engine: ... engine.url, engine.requests(), engine.state()
with in_thread(running(app)) as url: ...            # for clients that block
async with run_process([sys.executable, "-m", ...], ready=r'"url": "(.+?)"') as child: ... child.match[1]
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import uvicorn
from anyio.from_thread import start_blocking_portal

from services.kit.server import bind
from tests.testkit.engine import FakeEngine
from tests.testkit.ports import free_listener, free_port
from tests.testkit.processes import ChildProcess, run_process
from tests.testkit.settings import FakeEngineSettings

__all__ = ["ChildProcess", "eventually", "fake_engine", "free_port", "in_thread", "run_process", "running"]

T = TypeVar("T")
_POLL_S = 0.005


async def eventually(condition: Callable[[], T], *, timeout_s: float = 60.0) -> T:
    """Wait until `condition()` is true and return what it returned.

    Raises:
        AssertionError: it was still false, with its last value, after `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"still {value!r} after {timeout_s} s")
        await asyncio.sleep(_POLL_S)


@contextlib.asynccontextmanager
async def fake_engine(**settings: Any) -> AsyncIterator[FakeEngine]:
    """Run a fake engine; `settings` are the fields of `FakeEngineSettings`."""
    engine = FakeEngine(FakeEngineSettings(**settings))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


@contextlib.contextmanager
def in_thread(manager: AbstractAsyncContextManager[T], *, use_uvloop: bool = False) -> Iterator[T]:
    """Enter an asynchronous context manager in an event loop of its own, in a thread of its own."""
    with (
        start_blocking_portal(backend_options={"use_uvloop": use_uvloop}) as portal,
        portal.wrap_async_context_manager(manager) as value,
    ):
        yield value


@contextlib.asynccontextmanager
async def running(app: Any, *, grace_s: float = 2.0, listen_at: int = 0, **config: Any) -> AsyncIterator[str]:
    """Serve an ASGI app on a free loopback port in this event loop; yields its URL without a slash at the end.

    It has started up when the body begins: connections are accepted, the lifespan is entered.

    Args:
        app: an ASGI app.
        grace_s: what answers in progress get to end when the body is left; then they are cancelled.
        listen_at: port of one that is started again; 0 takes a free one.
        config: arguments of `uvicorn.Config`.

    Raises:
        Exception: what the app's own start-up raised.
    """
    watched = _LifespanWatch(app)
    options = {"log_config": None, "access_log": False, "lifespan": "on", "server_header": False, **config}
    server = _Server(uvicorn.Config(watched, **options))
    listener = bind("127.0.0.1", listen_at) if listen_at else free_listener()
    try:
        await server.start(listener, watched)
        host, port = listener.getsockname()[:2]
        yield f"http://{host}:{port}"
    finally:
        await server.end(grace_s)
        listener.close()
    if watched.error is not None:
        raise watched.error


class _LifespanWatch:
    """Pass everything on and keep what the app's lifespan raises: uvicorn only logs it."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.error: BaseException | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self._app(scope, receive, send)
        except BaseException as error:
            if scope["type"] == "lifespan":
                self.error = error
            raise


class _Server(uvicorn.Server):
    """uvicorn without its main loop: no signal handlers, no exit of the process, no sleeps when it ends."""

    async def start(self, listener: Any, watched: _LifespanWatch) -> None:
        self.config.load()
        self.lifespan = self.config.lifespan_class(self.config)
        try:
            await self.startup(sockets=[listener])
        except SystemExit:  # how uvicorn tells of a failed start
            raise watched.error or RuntimeError("the app refused to start and did not say why") from None
        await self.on_tick(0)  # sets the default headers

    async def end(self, grace_s: float) -> None:
        if not self.started:
            return
        for server in self.servers:
            server.close()
        state = self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        with contextlib.suppress(AssertionError):
            await eventually(lambda: not state.tasks, timeout_s=grace_s)
        for task in list(state.tasks):
            task.cancel()
        await asyncio.gather(*state.tasks, return_exceptions=True)
        for connection in list(state.connections):
            connection.transport.abort()
        await eventually(lambda: not state.connections)
        await self.lifespan.shutdown()
