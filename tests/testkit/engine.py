"""The fake engine as an object: its sockets, its script, and what it has seen."""

import asyncio
import time
from collections import deque
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import msgspec

from services.kit.server import bind
from tests.testkit.endpoints import Endpoints
from tests.testkit.faults import NO_FAULTS, Faults, Progress, error_steps, plain_steps, read_headers
from tests.testkit.ports import free_listener
from tests.testkit.rendering import encode
from tests.testkit.settings import FakeEngineSettings
from tests.testkit.wire import Answer, Break, Connection, Outcome, Request

_REMEMBERED_REQUESTS = 256


@dataclass(frozen=True)
class Rule:
    """Faults for all requests of a path and a model (None: any), or for the first `times` of them."""

    faults: Faults
    path: str | None = None
    model: str | None = None
    times: int | None = None


@dataclass
class Cancellation:
    """A client that left before its answer ended."""

    path: str
    model: str
    chunks_sent: int
    noticed_at_s: float
    """By `time.monotonic()`, which all processes of a machine share."""


@dataclass
class EngineState:
    """What the engine has done. POSTs under `/v1/` count, streamed or not."""

    open_streams: int = 0
    started: int = 0
    finished: int = 0
    broken: int = 0
    """Ended by a scripted failure or by the engine's stop."""
    cancelled: int = 0
    cancellations: list[Cancellation] = field(default_factory=list)
    open_connections: int = 0
    accepted_connections: int = 0


class FakeEngine:
    """An engine that listens on a port of its own. `start` and `stop` belong into one event loop."""

    def __init__(self, settings: FakeEngineSettings) -> None:
        self.settings = settings
        self.url = ""
        self._port = settings.port
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._requests: deque[dict[str, Any]] = deque(maxlen=_REMEMBERED_REQUESTS)
        self._rules: list[Rule] = []
        self._state = EngineState()
        self._endpoints = Endpoints(settings)

    async def start(self) -> None:
        """Listen; after a `stop`, on the same port again."""
        listener = bind(self.settings.host, self._port) if self._port else free_listener(self.settings.host)
        self._port = listener.getsockname()[1]
        self.url = f"http://{self.settings.host}:{self._port}"
        self._server = await asyncio.get_running_loop().create_server(self._connect, sock=listener, backlog=2048)

    async def stop(self) -> None:
        """Die: refuse new connections and reset those that are open."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for connection in list(self._connections):
            connection.abort(Break.RESET)
        await server.wait_closed()

    def _connect(self) -> Connection:
        self._state.accepted_connections += 1
        return Connection(self._answer, self._connections)

    # --- what it has seen ---------------------------------------------------------------------------------------

    def requests(self, path: str | None = None) -> list[dict[str, Any]]:
        """Return the last 256 requests, oldest first: `method path query headers body`, the body as JSON.

        Without a path the GETs are left out: a gateway's discovery runs in the background of a test.
        """
        seen = list(self._requests)
        if path is not None:
            return [each for each in seen if each["path"] == path]
        return [each for each in seen if each["method"] != "GET"]

    def clear_requests(self) -> None:
        """Forget the requests."""
        self._requests.clear()

    def state(self) -> EngineState:
        """Return a copy of the counts."""
        cancellations = list(self._state.cancellations)
        return replace(self._state, cancellations=cancellations, open_connections=len(self._connections))

    # --- the script ---------------------------------------------------------------------------------------------

    def script(
        self, *, path: str | None = None, model: str | None = None, times: int | None = None, **faults: Any
    ) -> None:
        """Let requests that match fail without a header: `script(path="/v1/models", status=503, times=2)`.

        The first rule that matches holds; a request's own headers come on top of it.
        """
        self._rules.append(Rule(Faults(**faults), path, model, times))

    def clear_script(self) -> None:
        """Forget the rules."""
        self._rules.clear()

    def _faults_of(self, request: Request, model: str) -> Faults:
        base = NO_FAULTS
        for rule in self._rules:
            if rule.path in (None, request.path) and rule.model in (None, model):
                base = rule.faults
                self._use(rule)
                break
        return read_headers(request.headers, base)

    def _use(self, rule: Rule) -> None:
        if rule.times is None:
            return
        position = self._rules.index(rule)
        left = rule.times - 1
        self._rules[position : position + 1] = [replace(rule, times=left)] if left else []

    # --- requests -----------------------------------------------------------------------------------------------

    def _answer(self, request: Request) -> Answer:
        if request.path.startswith("/fake/"):
            return self._control(request)
        body = _parse(request.body)
        self._remember(request, body)
        model = str(body.get("model", "")) if isinstance(body, dict) else ""
        try:
            faults = self._faults_of(request, model)
        except ValueError as error:
            return Answer(error_steps(400, str(error), NO_FAULTS))
        progress = Progress()
        steps = self._endpoints.steps(request.method, request.path, body, faults, progress)
        answer = Answer(steps, drop_keepalive=faults.drop_keepalive)
        if request.method == "POST" and request.path.startswith("/v1/"):
            self._state.started += 1
            self._state.open_streams += 1
            answer.on_end = lambda outcome: self._ended(outcome, progress, request.path, model)
        return answer

    def _ended(self, outcome: Outcome, progress: Progress, path: str, model: str) -> None:
        state = self._state
        state.open_streams -= 1
        if outcome is Outcome.CANCELLED:
            state.cancelled += 1
            state.cancellations.append(Cancellation(path, model, progress.chunks_sent, time.monotonic()))
        elif outcome is Outcome.BROKEN or progress.interrupted:
            state.broken += 1
        else:
            state.finished += 1

    def _remember(self, request: Request, body: Any) -> None:
        self._requests.append(
            {
                "method": request.method,
                "path": request.path,
                "query": request.query,
                "headers": request.headers,
                "body": body,
            }
        )

    def _control(self, request: Request) -> Answer:
        answer: Any = {"status": "ok"}
        match request.method, request.path:
            case "GET", "/fake/requests":
                answer = self.requests(request.query.get("path"))
            case "DELETE", "/fake/requests":
                self.clear_requests()
            case "GET", "/fake/state":
                answer = asdict(self.state())
            case "POST", "/fake/script":
                try:
                    self.script(**_parse(request.body))
                except (TypeError, ValueError) as error:
                    return Answer(error_steps(400, str(error), NO_FAULTS))
            case "DELETE", "/fake/script":
                self.clear_script()
            case _:
                return Answer(error_steps(404, "File Not Found", NO_FAULTS))
        return Answer(plain_steps(200, encode(answer), NO_FAULTS, 0.0))


def _parse(body: bytes) -> Any:
    """Return the body as JSON, as text where it is none, None where it is empty."""
    if not body:
        return None
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return body.decode("utf-8", "replace")
