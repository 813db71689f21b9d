"""The paths of a service go on as they come: every method, uploads and streams of any length, and what goes wrong."""

import asyncio
import contextlib
import json
import time

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from services.gateway.settings import GatewaySettings
from services.kit.on_behalf import verify
from services.kit.settings import SettingsError
from tests.integration.gateways import CHAT, gateway
from tests.integration.own_services import KEY, stack
from tests.integration.raw_client import raw_client
from tests.testkit.fake_services import fake_rag
from tests.testkit.server import eventually, fake_engine, running

USER = "sk-user-0123456789"
UPLOAD = "/v1/collections/handbook/documents"
PROGRESS = "/v1/collections/handbook/jobs/1/events"
MB = 1_000_000
CLOSED_WITHIN_S = 0.1


@contextlib.asynccontextmanager
async def alone(folder, app, *paths, **settings):
    """Run a gateway in front of an app of the test's own that has these paths."""
    async with running(app) as url:
        backend = {"name": "own", "url": url, "engine": "sparkstack", "paths": list(paths)}
        (folder / "own.json").write_text(json.dumps({"backends": [backend]}))
        async with gateway(catalogue=folder / "own.json", **settings) as front:
            yield front


def mirror():
    """Return an app that answers any request with what it was."""

    async def answer(request):
        body = await request.body()
        said = {
            "method": request.method,
            "path": request.scope["raw_path"].decode(),
            "query": request.url.query,
            "headers": dict(request.headers),
            "body": body.decode(),
        }
        return JSONResponse(said, status_code=207, headers={"x-own": "1", "etag": '"a"', "set-cookie": "a=b"})

    return Starlette(routes=[Route("/{rest:path}", answer, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])])


# --- as they come -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_every_method_goes_on_with_its_query_and_its_body(tmp_path, method):
    target = "/v1/files/a%2Fb/c%20d%C3%A9?limit=2&after=f%26g&tag=x&tag=y+z"
    async with alone(tmp_path, mirror(), "/v1/files") as front:
        response = await front.client.request(method, target, content="body" if method != "GET" else None)
    said = response.json()
    assert response.status_code == 207
    assert (said["method"], said["path"] + "?" + said["query"]) == (method, target)
    assert said["body"] == ("body" if method != "GET" else "")
    assert (response.headers["x-own"], response.headers["etag"]) == ("1", '"a"')
    assert "set-cookie" not in response.headers


async def test_the_service_learns_who_asks_and_not_with_which_key(tmp_path):
    given = {
        "authorization": f"Bearer {USER}",
        "content-type": "multipart/form-data; boundary=x",
        "accept": "text/event-stream",
        "cookie": "session=1",
        "x-sparkstack-on-behalf-of": "eve",
        "x-request-id": "r-1",
        "openai-beta": "assistants=v2",
    }
    async with alone(tmp_path, mirror(), "/v1/files", internal_key=KEY, api_keys=(f"ann={USER}",)) as front:
        headers = (await front.client.post("/v1/files", content=b"--x--", headers=given)).json()["headers"]
    assert headers["authorization"] == f"Bearer {KEY}"
    assert verify(headers["x-sparkstack-on-behalf-of"], KEY) == "ann"
    assert (headers["x-request-id"], headers["x-sparkstack-hops"]) == ("r-1", "1")
    kept = ("content-type", "accept", "openai-beta")
    assert [headers[name] for name in kept] == [given[name] for name in kept]
    assert headers["content-length"] == "5"
    assert "cookie" not in headers


async def test_a_request_without_a_body_has_none(tmp_path):
    async with alone(tmp_path, mirror(), "/v1/files") as front:
        said = (await front.client.get("/v1/files")).json()
    assert {"content-type", "content-length", "transfer-encoding"} & set(said["headers"]) == set()


async def test_they_want_a_key(tmp_path):
    async with alone(tmp_path, mirror(), "/v1/files", api_keys=(USER,), allow_loopback_without_key=False) as front:
        answers = [await front.client.request(method, "/v1/files/a") for method in ("GET", "POST", "DELETE")]
    assert [each.json()["error"]["code"] for each in answers] == ["invalid_api_key"] * 3


async def test_the_head_of_an_answer_is_told_without_its_body(tmp_path):
    app = Starlette(routes=[Route("/v1/files/a", lambda _: Response(b"12345", media_type="text/plain"))])
    async with alone(tmp_path, app, "/v1/files") as front:
        response = await front.client.head("/v1/files/a")
    assert (response.status_code, response.headers["content-length"], response.content) == (200, "5", b"")


async def test_a_redirect_leads_to_the_gateway_and_not_past_it(tmp_path):
    def elsewhere(request):
        return RedirectResponse(str(request.url.replace(path="/v1/files")))

    app = Starlette(routes=[Route("/v1/files/", elsewhere)])
    async with alone(tmp_path, app, "/v1/files") as front:
        response = await front.client.get("/v1/files/")
    assert (response.status_code, response.headers["location"]) == (307, "/v1/files")


async def test_the_longest_path_is_the_one_that_is_meant_and_the_gateways_own_come_first(tmp_path):
    claimed = ["/v1/collections/other", "/v1/chat/completions", "/v1/models"]
    async with stack(tmp_path, engine_paths=claimed) as run:
        inner = await run.front.client.get("/v1/collections/other/a")
        near = await run.front.client.get("/v1/collections/others/a")
        chat = await run.front.client.post(CHAT, json={"model": "fake-chat", "messages": []})
        models = await run.front.client.get("/v1/models")
    assert [each["path"] for each in run.engine.requests("/v1/collections/other/a")] == ["/v1/collections/other/a"]
    assert inner.status_code == near.status_code == 404
    assert chat.json()["error"]["param"] == "messages"
    assert models.json()["data"][0]["id"] == "rag/handbook"


@pytest.mark.parametrize(
    "path", ["/v1/files/../../status", "/v1/files/%2e%2e/a", "/v1/files/a%2F..%2Fb", "/v1/files/."]
)
async def test_a_path_cannot_lead_out_of_itself(tmp_path, path):
    async with alone(tmp_path, mirror(), "/v1/files") as front, raw_client(front.url) as client:
        await client.send("GET", path)
        status = await client.read_head()
        error = json.loads(await client.read_body())["error"]
    assert (status, error["code"]) == (400, "invalid_request")


async def test_without_such_a_service_a_sentence_says_so(fake_engine):
    async with gateway(fake_engine) as front:
        response = await front.client.post("/v1/files", content=b"x")
    assert response.status_code == 404
    assert "come with the service" in response.json()["error"]["message"]
    assert response.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/files", "/v1", "/v1/", "/v1/files/", "/v1/fi les", "/v1/{x}", "v1/files"])
async def test_what_is_no_path_is_refused_at_the_start(tmp_path, path):
    with pytest.raises(SettingsError, match="is not a path such as /v1/files"):
        async with alone(tmp_path, mirror(), path):
            pass


async def test_requests_are_counted_by_the_path_that_the_file_names(tmp_path, logs):
    async with stack(tmp_path) as run:
        await run.front.client.get("/v1/files/one")
        await run.front.client.get("/v1/files")
        routes = (await run.front.metrics()).labels("http_requests_total", "route")
    assert {"/v1/files", "/v1/files/{rest}"} <= routes
    line = next(entry for entry in logs if entry.get("route") == "/v1/files/{rest}")
    assert (line["backend"], line["client"], line["status"]) == ("rag", "loopback", 404)


# --- uploads ------------------------------------------------------------------------------------------------------


async def test_an_upload_reaches_the_service_while_it_is_sent(tmp_path):
    async with stack(tmp_path) as run, raw_client(run.front.url) as client:
        head = f"POST {UPLOAD} HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        client.writer.write(head.encode() + b"5\r\nfirst\r\n")
        await eventually(lambda: run.rag.received_bytes == 5)
        client.writer.write(b"6\r\nsecond\r\n0\r\n\r\n")
        assert await client.read_head() == 202
        assert json.loads(await client.read_body()) == {"received_bytes": 11}


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
async def test_a_large_upload_is_never_held_whole(tmp_path, declared):
    total, ahead = 64 * MB, []
    async with stack(tmp_path) as run:

        async def pieces():
            for sent in range(0, total, MB):
                ahead.append(sent - run.rag.received_bytes)
                yield bytes(MB)

        headers = {"content-length": str(total)} if declared else {}
        response = await run.front.client.post(UPLOAD, content=pieces(), headers=headers, timeout=30)
    assert response.json() == {"received_bytes": total}
    assert run.rag.requests(UPLOAD)[0].headers.get("content-length") == (str(total) if declared else None)
    assert max(ahead) < 16 * MB


async def test_an_upload_that_says_it_is_too_large_is_refused_at_once(tmp_path):
    async with stack(tmp_path, max_upload_mb=1) as run:
        response = await run.front.client.post(UPLOAD, content=bytes(MB + 1))
        small = await run.front.client.post(UPLOAD, content=bytes(MB))
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (413, "body_too_large")
    assert "GATEWAY_MAX_UPLOAD_MB" in error["message"]
    assert small.status_code == 202
    assert len(run.rag.requests(UPLOAD)) == 1


async def test_one_that_does_not_say_so_is_cut_off(tmp_path):
    async def pieces():
        for _ in range(3):
            yield bytes(MB // 2)

    async with stack(tmp_path, max_upload_mb=1) as run:
        response = await run.front.client.post(UPLOAD, content=pieces())
        await eventually(lambda: run.rag.left_uploads == 1)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")
    assert run.rag.received_bytes <= MB


async def test_an_upload_whose_client_leaves_ends_at_the_service(tmp_path):
    async with stack(tmp_path) as run, raw_client(run.front.url) as client:
        head = f"POST {UPLOAD} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n"
        client.writer.write(head.encode() + bytes(10))
        await eventually(lambda: run.rag.received_bytes == 10)
        client.leave()
        await eventually(lambda: run.rag.left_uploads == 1)


async def test_a_service_that_takes_nothing_more_is_given_up(tmp_path):
    async with stack(tmp_path, idle_timeout_s=0.2) as run:
        run.rag.gate.clear()
        response = await run.front.client.post(UPLOAD, content=bytes(64 * MB))
        run.rag.gate.set()
    assert response.status_code == 504
    assert "rag took nothing of the upload for 0.2 s (GATEWAY_IDLE_TIMEOUT_S)" in response.json()["error"]["message"]


async def test_a_service_that_does_not_answer_is_given_up(tmp_path):
    async with stack(tmp_path, response_timeout_s=0.2, idle_timeout_s=60) as run:
        run.rag.gate.clear()
        response = await run.front.client.post(UPLOAD, content=b"small")
        run.rag.gate.set()
    assert response.status_code == 504
    assert "GATEWAY_RESPONSE_TIMEOUT_S" in response.json()["error"]["message"]


# --- answers that are streams -------------------------------------------------------------------------------------


async def test_progress_is_told_as_it_comes_and_a_client_that_leaves_ends_it(tmp_path):
    async with stack(tmp_path) as run, raw_client(run.front.url) as client:
        await client.send("GET", PROGRESS, headers={"Accept": "text/event-stream"})
        await client.read_head()
        for step in ("1 of 2", "2 of 2"):
            run.rag.events.put_nowait(step)
            assert json.loads((await client.read_piece()).data.removeprefix(b"data: ")) == {"progress": step}
        assert client.headers["content-type"].startswith("text/event-stream")
        assert client.headers["x-accel-buffering"] == "no"
        left_at_s = client.leave()
        await eventually(lambda: run.rag.open_streams == 0)
        assert time.monotonic() - left_at_s < CLOSED_WITHIN_S


async def test_a_stream_that_falls_silent_ends_with_an_error_event(tmp_path):
    async with stack(tmp_path, idle_timeout_s=0.2) as run:
        run.rag.events.put_nowait("1 of 2")
        response = await run.front.client.get(PROGRESS)
        await eventually(lambda: run.rag.open_streams == 0)
    *_, last = response.text.strip().split("\n\n")
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_timeout"


async def test_a_stream_that_breaks_off_ends_with_an_error_event(tmp_path):
    async def half():
        yield b"data: 1\n\n"
        raise ConnectionResetError

    app = Starlette(routes=[Route("/v1/files/x", lambda _: StreamingResponse(half(), media_type="text/event-stream"))])
    async with alone(tmp_path, app, "/v1/files") as front:
        response = await front.client.get("/v1/files/x")
    first, last = response.text.strip().split("\n\n")
    assert first == "data: 1"
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_unreachable"


async def test_a_download_that_breaks_off_is_seen_to_be_cut(tmp_path, logs):
    async def half():
        yield bytes(10)
        raise ConnectionResetError

    app = Starlette(routes=[Route("/v1/files/x", lambda _: StreamingResponse(half()))])
    async with alone(tmp_path, app, "/v1/files") as front:
        with pytest.raises(httpx.RemoteProtocolError):
            await front.client.get("/v1/files/x")
        assert (await front.client.get("/livez")).status_code == 200
    assert next(entry for entry in logs if entry.get("route") == "/v1/files/{rest}")["error"] == "engine_unreachable"


# --- what goes wrong ----------------------------------------------------------------------------------------------


async def test_a_service_that_is_down_is_named_and_leaves_the_others_unharmed(tmp_path):
    async with contextlib.AsyncExitStack() as services, gateway_of_rag_and_engine(tmp_path, services) as front:
        assert (await front.client.get("/v1/files")).status_code == 200
        await services.aclose()
        for method in ("GET", "POST"):
            response = await front.client.request(method, "/v1/files", content=b"x" if method == "POST" else None)
            error = response.json()["error"]
            assert (response.status_code, error["code"]) == (502, "engine_unreachable")
            assert error["message"].startswith("rag at http://127.0.0.1")
            assert error["message"].endswith("see `sparkstack status`")
        answers = await asyncio.gather(*(front.chat() for _ in range(5)))
    assert [each.status_code for each in answers] == [200] * 5


@contextlib.asynccontextmanager
async def gateway_of_rag_and_engine(folder, services):
    """Run a gateway whose rag ends with `services`."""
    rag = await services.enter_async_context(fake_rag(key=KEY))
    async with fake_engine() as engine:
        backends = [rag.listed(), {"name": "engine", "url": engine.url}]
        (folder / "catalogue.json").write_text(json.dumps({"backends": backends}))
        async with gateway(catalogue=folder / "catalogue.json", internal_key=KEY) as front:
            yield front


async def test_a_service_that_refuses_the_gateways_key_is_not_the_callers_fault(tmp_path):
    async with stack(tmp_path) as run:
        run.rag.key = "another"
        response = await run.front.client.get("/v1/files")
    assert response.status_code == 502
    assert "GATEWAY_INTERNAL_KEY" in response.json()["error"]["message"]


async def test_what_the_service_says_of_a_failure_is_told_byte_for_byte(tmp_path):
    async with stack(tmp_path) as run:
        run.rag.refuse = (503, "vector_store_unavailable")
        response = await run.front.client.get("/v1/vector_stores/a")
    assert (response.status_code, response.headers["retry-after"]) == (503, "3")
    assert response.json()["error"]["code"] == "vector_store_unavailable"


async def test_a_request_that_has_been_through_the_gateway_too_often_ends(tmp_path):
    async with stack(tmp_path) as run:
        response = await run.front.client.get("/v1/files", headers={"x-sparkstack-hops": "4"})
    assert response.json()["error"]["code"] == "too_many_hops"


async def test_a_collection_that_is_made_or_removed_here_is_listed_at_once(tmp_path):
    async with stack(tmp_path) as run:

        def names():
            return {entry.target.public_id for entry in run.front.door.catalogue.entries()}

        await run.front.client.post("/v1/vector_stores", json={"name": "new"})
        await eventually(lambda: "rag/new" in names())
        await run.front.client.delete("/v1/vector_stores/vs_new")
        await eventually(lambda: "rag/new" not in names())


def test_the_services_key_is_no_callers_key():
    with pytest.raises(ValueError, match="GATEWAY_INTERNAL_KEY is also in SPARKSTACK_API_KEY"):
        GatewaySettings(api_keys=(f"ann={KEY}",), internal_key=KEY)
