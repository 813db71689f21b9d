"""The engines service as its clients see it, scripted: loads that take as long as a test says, refusals, drains,
lapses, deaths. Its engines are fake engines on sockets of their own.

async with fake_engines() as engines:
    model = await engines.add("small", load_s=0.2)
    ... GatewaySettings(engines_url=engines.url, engines_key=engines.key)
    engines.calls("POST", "/leases"); model.refusal = (503, "insufficient_memory", "…"); await engines.stop()
"""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from services.kit.server import bind
from tests.testkit.engine import FakeEngine
from tests.testkit.ports import free_listener
from tests.testkit.settings import FakeEngineSettings

_TYPES = {404: "not_found_error", 503: "overloaded_error", 401: "authentication_error", 500: "api_error"}
_PROGRESS_S = 2.0


@dataclass
class FakeModel:
    """A model, its engine, and what the service does with it; tests set the fields while it runs."""

    id: str
    engine: FakeEngine
    aliases: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ("chat",)
    load_s: float = 0.0
    state: str = "stopped"
    refusal: tuple[int, str, str] | None = None
    """(status, code, sentence) with which a lease is refused at once."""
    failure: str = ""
    """Why a load that has begun fails in the end."""
    position: int = 0
    eta_s: float | None = None
    """None: what is left of `load_s`."""
    on_gpu: bool = False
    pinned: bool = False
    expires_at: float | None = None
    key: str = ""
    waiters: int = 0
    remembered: int = 0
    loads: int = 0
    since: float = 0.0
    loading: asyncio.Task[None] | None = None
    pulled: tuple[dict[str, Any], ...] = ({"status": "pulling manifest"}, {"status": "success"})

    @property
    def left_s(self) -> float:
        """Return the seconds that the load still takes."""
        if self.eta_s is not None:
            return self.eta_s
        return max(0.0, self.load_s - (time.monotonic() - self.since)) if self.state == "loading" else self.load_s


@dataclass
class FakeLease:
    """A lease, and what its holder said last."""

    id: str
    model: str
    in_flight: int = 0
    draining: bool = False


@dataclass
class Call:
    """A request that came: `at_s` by `time.monotonic()`, which all processes of a machine share."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    at_s: float = field(default_factory=time.monotonic)


class FakeEnginesService:
    """The control API; `start` and `stop` belong into one event loop."""

    def __init__(self, key: str = "sk-engines", default: str = "") -> None:
        self.url = ""
        self.key = key
        self.default = default
        self.models: dict[str, FakeModel] = {}
        self.leases: dict[str, FakeLease] = {}
        self.keep_alive: dict[str, float] = {}
        """The last idle time that was set, by model."""
        self.progress_s = _PROGRESS_S
        self.silent = False
        """Take requests and answer none, as a process that is stopped does."""
        self.log: list[Call] = []
        self._port = 0
        self._runner: web.AppRunner | None = None
        self._change = asyncio.Event()

    # --- the script ---------------------------------------------------------------------------------------------

    async def add(self, model_id: str, *, engine: dict[str, Any] | None = None, **fields: Any) -> FakeModel:
        """Add a model; `engine` are settings of its fake engine, `fields` those of `FakeModel`."""
        fake = FakeEngine(FakeEngineSettings(models=(model_id,), embedding_models=(), **(engine or {})))
        model = self.models[model_id] = FakeModel(model_id, fake, **fields)
        self.default = self.default or model_id
        if model.state == "ready":
            model.state = "stopped"
            await self._load(model)
        return model

    async def kill(self, model_id: str, *, noticed: bool = True) -> None:
        """End a model's engine as a SIGKILL would; `noticed`: the service knows at once."""
        model = self.models[model_id]
        await model.engine.stop()
        if noticed:
            self.notice(model_id)

    def notice(self, model_id: str) -> None:
        """Let the service find that a model's engine is gone."""
        self._over(model_id)
        self.models[model_id].state = "stopped"
        self.changed()

    def drain(self, model_id: str) -> None:
        """Let a model's leases drain, for another model that waits."""
        for lease in self._of(model_id):
            lease.draining = True

    def lapse(self, model_id: str) -> None:
        """Forget a model's leases."""
        self._over(model_id)

    def leases_of(self, model_id: str) -> list[FakeLease]:
        """Return a model's leases that are alive."""
        return self._of(model_id)

    def calls(self, method: str, path: str = "") -> list[Call]:
        """Return what came, oldest first, by method and the beginning of the path."""
        return [call for call in self.log if call.method == method and call.path.startswith(path)]

    def changed(self) -> None:
        """Wake those who wait: they look again at the models' fields."""
        self._change.set()
        self._change = asyncio.Event()

    async def start(self) -> None:
        """Listen; after a `stop`, on the same port again, with no lease known."""
        listener = bind("127.0.0.1", self._port) if self._port else free_listener()
        self._port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        app = web.Application(middlewares=[self._observe])
        app.add_routes(
            [
                web.get("/models", self._list),
                web.post("/leases", self._lease),
                web.put("/leases/{id}", self._renew),
                web.delete("/leases/{id}", self._release),
                web.post("/leases/{id}/lost", self._lost),
                web.post("/models/{id}/load", self._load_on_purpose),
                web.post("/models/{id}/unload", self._unload_on_purpose),
                web.post("/pull", self._pull),
                web.delete("/models/{id}/files", self._delete_files),
            ]
        )
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.05, access_log=None)
        await self._runner.setup()
        await web.SockSite(self._runner, listener).start()

    async def stop(self) -> None:
        """Die: refuse connections, cut those that are open, forget every lease. The engines live on."""
        runner, self._runner = self._runner, None
        self.leases.clear()
        if runner is not None:
            await runner.cleanup()

    async def end(self) -> None:
        """Stop, and end all engines."""
        for model in self.models.values():
            if model.loading is not None:
                model.loading.cancel()
            await model.engine.stop()
        await self.stop()

    # --- inside -------------------------------------------------------------------------------------------------

    def _of(self, model_id: str) -> list[FakeLease]:
        return [lease for lease in self.leases.values() if lease.model == model_id]

    def _over(self, model_id: str) -> None:
        for lease in self._of(model_id):
            del self.leases[lease.id]

    def _want(self, model: FakeModel) -> None:
        if model.state in ("stopped", "failed"):
            model.state, model.since = "loading", time.monotonic()
            model.loading = asyncio.create_task(self._load_slowly(model))

    async def _load_slowly(self, model: FakeModel) -> None:
        await asyncio.sleep(model.load_s)
        if model.failure:
            model.state = "failed"
            self.changed()
        else:
            await self._load(model)

    async def _load(self, model: FakeModel) -> None:
        await model.engine.stop()
        await model.engine.start()
        model.key = uuid.uuid4().hex
        model.loads += 1
        model.state = "ready"
        self.changed()

    async def _unload(self, model: FakeModel) -> None:
        self._over(model.id)
        await model.engine.stop()
        model.state = "stopped"
        self.changed()

    def _grant(self, model: FakeModel) -> dict[str, Any] | None:
        if model.state != "ready" or any(lease.draining for lease in self._of(model.id)):
            return None
        lease = FakeLease(uuid.uuid4().hex, model.id)
        self.leases[lease.id] = lease
        return {
            "lease": lease.id,
            "model": model.id,
            "engine": "llamacpp",
            "url": model.engine.url,
            "upstream_id": model.id,
            "api_key": model.key,
            "expires_in_s": 15,
        }

    def _find(self, name: str) -> FakeModel:
        for model in self.models.values():
            if name == model.id or name in model.aliases:
                return model
        raise _Failure(404, "model_not_found", f"there is no model {name!r}")

    # --- the API ------------------------------------------------------------------------------------------------

    @web.middleware
    async def _observe(self, request: web.Request, handler: Any) -> web.StreamResponse:
        text = await request.text()
        body = json.loads(text) if text else None
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.log.append(Call(request.method, request.path, dict(request.query), body, headers))
        if self.silent:
            await asyncio.Event().wait()
        if request.headers.get("Authorization") != f"Bearer {self.key}":
            return _envelope(401, "invalid_api_key", "send `Authorization: Bearer $ENGINES_API_KEY`")
        try:
            response: web.StreamResponse = await handler(request)
        except _Failure as failure:
            return _envelope(*failure.args)
        return response

    async def _list(self, _request: web.Request) -> web.Response:
        data = [self._document(model) for model in self.models.values()]
        return web.json_response({"object": "list", "default": self.default, "data": data})

    def _document(self, model: FakeModel) -> dict[str, Any]:
        there = model.state == "ready"
        in_flight = sum(lease.in_flight for lease in self._of(model.id))
        return {
            "id": model.id,
            "aliases": list(model.aliases),
            "capabilities": list(model.capabilities),
            "context_tokens": 4096,
            "size_bytes": 1000,
            "parameters": 135_000_000,
            "quantization": "Q4_1",
            "family": "llama",
            "format": "gguf",
            "licence": "Apache-2.0",
            "digest": None,
            "created": 1_700_000_000,
            "engine": "llamacpp",
            "state": "busy" if there and in_flight else model.state,
            "reason": model.failure if model.state == "failed" else "",
            "url": model.engine.url if there else None,
            "upstream_id": model.id,
            "pinned": model.pinned,
            "need_bytes": 2000,
            "held_bytes": 2000 if there else None,
            "in_flight": in_flight,
            "queue_position": model.position if model.state in ("queued", "loading") else None,
            "eta_s": model.left_s if model.state in ("queued", "loading") else None,
            "expires_at": model.expires_at,
            "on_gpu": model.on_gpu if there else None,
            "since_s": None,
            "pids": [],
        }

    async def _lease(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        model = self._find(asked["model"])
        if model.refusal is not None:
            raise _Failure(*model.refusal)
        if model.state == "missing":
            raise _Failure(404, "model_not_pulled", f"{model.id} is not here: sparkstack pull {model.id}")
        self._want(model)
        if asked.get("wait"):
            return await self._lease_when_ready(request, model)
        granted = self._grant(model)
        if granted is not None:
            return web.json_response(granted)
        model.remembered += 1
        headers = {
            "Retry-After": str(int(model.left_s) + 1),
            "x-sparkstack-queue-position": str(model.position),
            "x-sparkstack-eta-s": f"{model.left_s:.1f}",
        }
        return _envelope(503, "model_loading", f"{model.id} is being loaded", headers)

    async def _lease_when_ready(self, request: web.Request, model: FakeModel) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        began = time.monotonic()
        model.waiters += 1
        try:
            while True:
                change = self._change
                granted = self._grant(model)
                if granted is not None:
                    await response.write(_event("granted", granted))
                    return response
                if model.state == "failed":
                    await response.write(_event("error", _failed(model)))
                    return response
                await response.write(_event("progress", self._progress(model, time.monotonic() - began)))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.progress_s):
                        await change.wait()
        finally:
            model.waiters -= 1

    def _progress(self, model: FakeModel, elapsed_s: float) -> dict[str, Any]:
        return {
            "state": model.state if model.state in ("queued", "loading") else "unloading",
            "position": model.position,
            "eta_s": model.left_s,
            "elapsed_s": elapsed_s,
            "message": f"{model.id} is being loaded",
        }

    def _lease_of(self, request: web.Request) -> FakeLease:
        lease = self.leases.get(request.match_info["id"])
        if lease is None:
            raise _Failure(404, "lease_not_found", "there is no such lease: it has lapsed")
        return lease

    async def _renew(self, request: web.Request) -> web.Response:
        lease = self._lease_of(request)
        lease.in_flight = (await request.json())["in_flight"]
        return web.json_response({"expires_in_s": 15, "draining": lease.draining})

    async def _release(self, request: web.Request) -> web.Response:
        lease = self._lease_of(request)
        del self.leases[lease.id]
        keep = request.query.get("keep_alive_s")
        if keep is not None:
            self.keep_alive[lease.model] = float(keep)
            if float(keep) == 0 and not self._of(lease.model):
                await self._unload(self.models[lease.model])
        self.changed()
        return web.Response(status=204)

    async def _lost(self, request: web.Request) -> web.Response:
        lease = self._lease_of(request)
        del self.leases[lease.id]
        assert (await request.json())["reason"]
        self.changed()
        return web.json_response({"looking": True}, status=202)

    async def _load_on_purpose(self, request: web.Request) -> web.Response:
        asked = await request.json()
        model = self._find(request.match_info["id"])
        if asked.get("pin") is not None:
            model.pinned = asked["pin"]
        self._want(model)
        while asked.get("wait") and model.state == "loading":
            await self._change.wait()
        return web.json_response(self._document(model))

    async def _unload_on_purpose(self, request: web.Request) -> web.Response:
        model = self._find(request.match_info["id"])
        if not self._of(model.id):
            await self._unload(model)
        return web.json_response(self._document(model))

    async def _pull(self, request: web.Request) -> web.StreamResponse:
        model = self._find((await request.json())["model"])
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        for line in model.pulled:
            await response.write(json.dumps(line).encode() + b"\n")
        if model.state == "missing" and "error" not in model.pulled[-1]:
            model.state = "stopped"
        return response

    async def _delete_files(self, request: web.Request) -> web.Response:
        model = self._find(request.match_info["id"])
        await self._unload(model)
        model.state = "missing"
        return web.Response(status=204)


class _Failure(Exception):
    """(status, code, sentence)."""


def _failed(model: FakeModel) -> dict[str, Any]:
    error = {"message": model.failure, "type": "overloaded_error", "param": None, "code": "model_failed"}
    return {"error": error, "status": 503, "retry_after_s": 5}


def _envelope(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    error = {"message": message, "type": _TYPES[status], "param": None, "code": code}
    return web.json_response({"error": error}, status=status, headers=headers)


def _event(name: str, document: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(document)}\n\n".encode()


@contextlib.asynccontextmanager
async def fake_engines(**settings: Any) -> AsyncIterator[FakeEnginesService]:
    """Run the service on a free port; `settings` are its arguments."""
    service = FakeEnginesService(**settings)
    await service.start()
    try:
        yield service
    finally:
        await service.end()
