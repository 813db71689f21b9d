"""The stack's own services as the gateway sees them, embeddings and rag: what they list, answer and are told.

async with fake_embeddings(key=KEY) as embeddings, fake_rag(key=KEY) as rag:
    path.write_text(json.dumps({"backends": [embeddings.listed(), rag.listed()]}))
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.testkit.answers import BadRequest
from tests.testkit.embeddings import embed, embeddings_document
from tests.testkit.server import running

RAG_PATHS = ("/v1/files", "/v1/vector_stores", "/v1/collections")
ANSWER = "Keys are printed by `sparkstack key` [1]. It wants no network [2]."
CITATIONS = [
    {
        "type": "file_citation",
        "index": ANSWER.index("[1]"),
        "file_id": "file-1",
        "filename": "keys.md",
        "sparkstack": {"number": 1, "title": "Keys", "page": None, "quote": "`sparkstack key` prints it", "score": 0.9},
    },
    {
        "type": "file_citation",
        "index": ANSWER.index("[2]"),
        "file_id": "file-2",
        "filename": "offline.pdf",
        "sparkstack": {"number": 2, "title": "Offline <b>", "page": 7, "quote": "no outside connection", "score": 0.5},
    },
]


@dataclass
class Seen:
    """A request that came."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: Any = None


@dataclass
class FakeService:
    """A running service; `refuse` makes it answer every request so: status and envelope's code."""

    name: str
    key: str
    paths: tuple[str, ...] = ()
    url: str = ""
    models: list[dict[str, Any]] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    refuse: tuple[int, str] | None = None

    def listed(self) -> dict[str, Any]:
        """Return the backend of a `catalogue.json`."""
        return {"name": self.name, "url": self.url, "engine": "sparkstack", "paths": list(self.paths), "models": []}

    def requests(self, path: str) -> list[Seen]:
        """Return the requests that came to a path, but for those that were refused for their key."""
        return [each for each in self.seen if each.path == path]

    def check(self, request: Request) -> Response | None:
        """Return the refusal of a request without the key, or a scripted one; note the others."""
        if request.headers.get("authorization") != f"Bearer {self.key}":
            return refusal(401, "invalid_api_key", "authentication_error")
        headers = dict(request.headers)
        self.seen.append(Seen(request.method, request.url.path, request.url.query, headers))
        return refusal(*self.refuse) if self.refuse is not None and request.url.path != "/v1/models" else None

    async def list_models(self, request: Request) -> Response:
        """GET /v1/models."""
        return self.check(request) or JSONResponse({"object": "list", "data": self.models})


def refusal(status: int, code: str, kind: str = "overloaded_error") -> Response:
    """Return an error in the envelope."""
    error = {"message": f"{code} of the fake", "type": kind, "param": None, "code": code}
    return JSONResponse({"error": error}, status_code=status, headers={"retry-after": "3"} if status > 401 else {})


def model(name: str, *capabilities: str, **facts: Any) -> dict[str, Any]:
    """Return an item of `/v1/models` as our own services write it."""
    own = {"capabilities": list(capabilities), "context_tokens": 256, "aliases": [], **facts}
    return {"id": name, "object": "model", "created": 1_790_000_000, "owned_by": "sparkstack", "sparkstack": own}


# --- embeddings -------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def fake_embeddings(*, key: str) -> AsyncIterator[FakeService]:
    """Run an embeddings service with one model that embeds and one that reranks."""
    service = FakeService("embeddings", key)
    service.models = [
        model("mini", "embeddings", dimensions=8, family="bert", licence="apache-2.0", aliases=["text-embedding"]),
        model("mini-rank", "rerank", family="bert"),
    ]

    async def vectors(request: Request) -> Response:
        refused = service.check(request)
        body = service.seen[-1].body = await request.json() if refused is None else None
        if refused is not None:
            return refused
        try:
            return JSONResponse(embeddings_document(body, body["model"], 8, usage=True))
        except BadRequest as error:
            return refusal(400, str(error), "invalid_request_error")

    async def ranking(request: Request) -> Response:
        refused = service.check(request)
        if refused is not None:
            return refused
        body = service.seen[-1].body = await request.json()
        return JSONResponse(rank(body))

    routes = [
        Route("/v1/models", service.list_models),
        Route("/v1/embeddings", vectors, methods=["POST"]),
        Route("/v1/rerank", ranking, methods=["POST"]),
    ]
    async with running(Starlette(routes=routes)) as url:
        service.url = url
        yield service


def rank(body: dict[str, Any]) -> dict[str, Any]:
    """Return the answer of `/v1/rerank`: documents that share words with the query come first."""
    texts = [each if isinstance(each, str) else each["text"] for each in body["documents"]]
    asked = set(body["query"].lower().split())
    scores = [len(asked & set(text.lower().split())) / (1 + len(asked)) for text in texts]
    order = sorted(range(len(texts)), key=lambda index: -scores[index])[: body.get("top_n")]
    results: list[dict[str, Any]] = [{"index": index, "relevance_score": scores[index]} for index in order]
    if body.get("return_documents"):
        results = [{**each, "document": {"text": texts[each["index"]]}} for each in results]
    tokens = sum(len(text.split()) for text in [body["query"], *texts])
    usage = {"total_tokens": tokens}
    return {"id": "rerank-1", "object": "rerank", "model": body["model"], "results": results, "usage": usage}


# --- rag --------------------------------------------------------------------------------------------------------


@dataclass
class FakeRag(FakeService):
    """A rag service.

    Args:
        gateway: where it asks for the answer, with `answers_by` as the model; without it the answer is `ANSWER`.
        received_bytes: of the upload that is coming, or came last.
        events: what the streams of progress say next; None ends them.
        open_streams: of progress, that have a listener.
    """

    gateway: str = ""
    answers_by: str = "default"
    received_bytes: int = 0
    left_uploads: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Uploads are read, and answers end, while it is set."""
    events: "asyncio.Queue[str | None]" = field(default_factory=asyncio.Queue)
    open_streams: int = 0
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    stores: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add_collection(self, name: str) -> None:
        """Let a collection have its first searchable document."""
        self.models.append(model(f"rag/{name}", "chat", "rag"))

    def drop_collection(self, name: str) -> None:
        """Remove a collection."""
        self.models = [each for each in self.models if each["id"] != f"rag/{name}"]


@contextlib.asynccontextmanager
async def fake_rag(*, key: str) -> AsyncIterator[FakeRag]:
    """Run a rag service with the collection `handbook`."""
    rag = FakeRag("rag", key, RAG_PATHS)
    rag.gate.set()
    rag.add_collection("handbook")
    routes = [
        Route("/v1/models", rag.list_models),
        Route("/v1/chat/completions", _Chat(rag), methods=["POST"]),
        *_FileRoutes(rag).routes(),
        *_StoreRoutes(rag).routes(),
    ]
    async with running(Starlette(routes=routes)) as url:
        rag.url = url
        yield rag


class _Chat:
    """POST /v1/chat/completions, as a raw ASGI callable."""

    def __init__(self, rag: FakeRag) -> None:
        self._rag = rag

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        answer = self._rag.check(request)
        if answer is None:
            body = self._rag.seen[-1].body = await request.json()
            answer = await self._answer(request, body)
        await answer(scope, receive, send)

    async def _answer(self, request: Request, body: dict[str, Any]) -> Response:
        rag = self._rag
        if body["model"] not in {each["id"] for each in rag.models}:
            return refusal(404, "collection_not_found", "not_found_error")
        text, usage = ANSWER, {"prompt_tokens": 900, "completion_tokens": 90, "total_tokens": 990}
        if rag.gateway:
            inner = await self._ask_the_gateway(request, body)
            if inner.status_code != 200:
                return Response(inner.content, inner.status_code, media_type="application/json")
            text, usage = inner.json()["choices"][0]["message"]["content"], inner.json()["usage"]
        if body.get("stream"):
            asked = (body.get("stream_options") or {}).get("include_usage")
            events = _events(body["model"], text, usage if asked else None, rag.gate)
            return StreamingResponse(events, media_type=_EVENTS)
        message = {"role": "assistant", "content": text, "annotations": CITATIONS}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return JSONResponse({**_head(body["model"], "chat.completion"), "choices": [choice], "usage": usage})

    async def _ask_the_gateway(self, request: Request, body: dict[str, Any]) -> httpx.Response:
        """Ask for the answer as the real service does: with the same four headers."""
        names = ("x-sparkstack-on-behalf-of", "x-sparkstack-hops", "x-request-id", "traceparent")
        headers = {name: request.headers[name] for name in names if name in request.headers}
        headers["authorization"] = f"Bearer {self._rag.key}"
        inner = {"model": self._rag.answers_by, "messages": body["messages"]}
        async with httpx.AsyncClient(base_url=self._rag.gateway, trust_env=False, verify=False, timeout=10) as client:
            return await client.post("/v1/chat/completions", json=inner, headers=headers)


_EVENTS = "text/event-stream"


def _head(name: str, kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-rag", "object": kind, "created": 1_790_000_000, "model": name}


async def _events(name: str, text: str, usage: dict[str, int] | None, gate: asyncio.Event) -> AsyncIterator[bytes]:
    head = _head(name, "chat.completion.chunk")
    for word in text.split(" "):
        piece = word if word == text.split(" ")[0] else f" {word}"
        yield _event({**head, "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
    await gate.wait()
    delta = {"annotations": CITATIONS, "of_its_own": {"kept": True}}
    yield _event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": "stop"}], "sparkstack": {"x": 1}})
    if usage is not None:
        yield _event({**head, "choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


def _event(document: Any) -> bytes:
    return f"data: {json.dumps(document)}\n\n".encode()


class _FileRoutes:
    """/v1/files as OpenAI's client uses it, and an upload that is only counted."""

    def __init__(self, rag: FakeRag) -> None:
        self._rag = rag

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/v1/files", self.create, methods=["POST"]),
            Route("/v1/files", self.list),
            Route("/v1/files/{id}", self.one, methods=["GET", "DELETE", "PATCH"]),
            Route("/v1/files/{id}/content", self.content),
            Route("/v1/collections/{name}/documents", self.count, methods=["POST", "PUT"]),
            Route("/v1/collections/{name}/jobs/{job}/events", self.progress),
        ]

    async def create(self, request: Request) -> Response:
        """POST /v1/files: a form with `file` and `purpose`."""
        refused = self._rag.check(request)
        if refused is not None:
            return refused
        async with request.form() as form:
            file = form["file"]
            assert not isinstance(file, str)
            content = await file.read()
            identity = f"file-{len(self._rag.files) + 1}"
            self._rag.contents[identity] = content
            self._rag.files[identity] = {
                "id": identity,
                "object": "file",
                "bytes": len(content),
                "created_at": int(time.time()),
                "filename": file.filename,
                "purpose": form["purpose"],
                "status": "processed",
            }
        return JSONResponse(self._rag.files[identity])

    async def list(self, request: Request) -> Response:
        """GET /v1/files."""
        data = list(self._rag.files.values())
        return self._rag.check(request) or JSONResponse({"object": "list", "data": data, "has_more": False})

    async def one(self, request: Request) -> Response:
        """GET, PATCH or DELETE of a file."""
        refused = self._rag.check(request)
        identity = request.path_params["id"]
        if refused is not None:
            return refused
        if identity not in self._rag.files:
            return refusal(404, "file_not_found", "not_found_error")
        if request.method == "DELETE":
            del self._rag.files[identity]
            return JSONResponse({"id": identity, "object": "file", "deleted": True})
        return JSONResponse(self._rag.files[identity])

    async def content(self, request: Request) -> Response:
        """GET the bytes of a file."""
        content = self._rag.contents.get(request.path_params["id"], b"")
        return self._rag.check(request) or Response(content, media_type="application/octet-stream")

    async def count(self, request: Request) -> Response:
        """Read an upload as it comes, and while it may."""
        rag = self._rag
        refused = rag.check(request)
        if refused is not None:
            return refused
        rag.received_bytes = 0
        try:
            async for piece in request.stream():
                rag.received_bytes += len(piece)
                await rag.gate.wait()
        except ClientDisconnect:
            rag.left_uploads += 1
            raise
        return JSONResponse({"received_bytes": rag.received_bytes}, status_code=202)

    async def progress(self, request: Request) -> Response:
        """GET the progress of a job as events."""
        return self._rag.check(request) or StreamingResponse(self._said(), media_type=_EVENTS)

    async def _said(self) -> AsyncIterator[bytes]:
        self._rag.open_streams += 1
        try:
            while (word := await self._rag.events.get()) is not None:
                yield _event({"progress": word})
        finally:
            self._rag.open_streams -= 1


class _StoreRoutes:
    """/v1/vector_stores as OpenAI's client uses it."""

    def __init__(self, rag: FakeRag) -> None:
        self._rag = rag

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/v1/vector_stores", self.create, methods=["POST"]),
            Route("/v1/vector_stores/{id}", self.one, methods=["GET", "DELETE"]),
            Route("/v1/vector_stores/{id}/files", self.attach, methods=["POST"]),
            Route("/v1/vector_stores/{id}/search", self.search, methods=["POST"]),
        ]

    async def create(self, request: Request) -> Response:
        """POST /v1/vector_stores: a collection of this name, servable at once."""
        refused = self._rag.check(request)
        if refused is not None:
            return refused
        body = await request.json()
        store = {"id": f"vs_{body['name']}", "object": "vector_store", "name": body["name"], "created_at": 1}
        self._rag.stores[store["id"]] = store
        self._rag.add_collection(body["name"])
        return JSONResponse(store)

    async def one(self, request: Request) -> Response:
        """GET or DELETE a store."""
        refused = self._rag.check(request)
        store = self._rag.stores.get(request.path_params["id"])
        if refused is not None:
            return refused
        if store is None:
            return refusal(404, "collection_not_found", "not_found_error")
        if request.method == "DELETE":
            self._rag.drop_collection(store["name"])
            return JSONResponse({"id": store["id"], "object": "vector_store.deleted", "deleted": True})
        return JSONResponse(store)

    async def attach(self, request: Request) -> Response:
        """POST a file to a store."""
        refused = self._rag.check(request)
        if refused is not None:
            return refused
        body = await request.json()
        file = {"id": body["file_id"], "object": "vector_store.file", "status": "completed", "created_at": 1}
        return JSONResponse({**file, "vector_store_id": request.path_params["id"]})

    async def search(self, request: Request) -> Response:
        """POST a query to a store."""
        refused = self._rag.check(request)
        if refused is not None:
            return refused
        query = (await request.json())["query"]
        found = [
            {
                "file_id": identity,
                "filename": file["filename"],
                "score": embed(f"{query}{identity}", 2)[0],
                "attributes": {},
                "content": [{"type": "text", "text": self._rag.contents[identity].decode()}],
            }
            for identity, file in self._rag.files.items()
        ]
        page = {"object": "vector_store.search_results.page", "search_query": [query], "data": found, "has_more": False}
        return JSONResponse(page)
