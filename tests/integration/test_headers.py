"""Which headers cross the gateway, and what it adds of its own."""

import json

import pytest

from tests.integration.children import gateway_process
from tests.integration.gateways import CHAT, chat_body, gateway
from tests.integration.raw_client import raw_client
from tests.integration.raw_engine import raw_engine, say
from tests.testkit.server import eventually, free_port

KEY = "sk-spark-0123456789abcdef"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_no_credential_of_the_caller_reaches_the_engine(fake_engine):
    secrets = {
        "authorization": f"Bearer {KEY}",
        "x-api-key": KEY,
        "api-key": KEY,
        "cookie": f"session={KEY}",
        "proxy-authorization": f"Basic {KEY}",
        "x-auth-token": KEY,
        "x-goog-api-key": KEY,
        "x-amz-security-token": KEY,
        "x-csrf-token": KEY,
        "x-jwt-assertion": KEY,
        "x-openwebui-user-email": "ann@example.org",
        "x-forwarded-for": "203.0.113.9",
        "x-real-ip": "203.0.113.9",
        "referer": f"http://127.0.0.1/#key={KEY}",
        "origin": "http://localhost:3000",
        "user-agent": "curl/8",
        "x-stainless-lang": "python",
        "x-sparkstack-on-behalf-of": "ann",
    }
    async with gateway(fake_engine, api_keys=(KEY,)) as front:
        assert (await front.chat(headers=secrets)).status_code == 200
        assert (await front.stream(headers=secrets)).done
    for request in fake_engine.requests(CHAT):
        seen = request["headers"]
        assert not secrets.keys() & seen.keys()
        assert KEY not in json.dumps(request)
        assert "ann" not in json.dumps(request["headers"])


async def test_trace_request_id_and_the_clients_own_harmless_headers_go_on(fake_engine):
    given = {
        "traceparent": TRACE,
        "tracestate": "vendor=1",
        "baggage": "user=7",
        "x-request-id": "my-id.7",
        "x-priority": "low",
    }
    async with gateway(fake_engine) as front:
        response = await front.chat(headers=given)
    seen = fake_engine.requests(CHAT)[-1]["headers"]
    assert seen.items() >= given.items()
    assert response.headers["x-request-id"] == "my-id.7"


async def test_hop_by_hop_headers_and_those_that_connection_names_end_here(fake_engine):
    lines = {"Connection": "X-Mine, Keep-Alive", "X-Mine": "1", "Keep-Alive": "5", "TE": "trailers", "Upgrade": "h2c"}
    async with gateway(fake_engine) as front, raw_client(front.url) as client:
        await client.send("POST", CHAT, json.dumps(chat_body(max_tokens=1)).encode(), lines)
        assert await client.read_head() == 200
    seen = fake_engine.requests(CHAT)[-1]["headers"]
    assert not {"x-mine", "te", "upgrade", "keep-alive"} & seen.keys()
    assert seen["host"] == fake_engine.url.removeprefix("http://")


async def test_the_engine_is_asked_for_plain_bytes_of_json(fake_engine):
    """A compressed stream could not be read beside the relay."""
    async with gateway(fake_engine) as front:
        await front.chat(headers={"accept-encoding": "gzip, br", "accept": "text/html"})
    seen = fake_engine.requests(CHAT)[-1]["headers"]
    assert seen["accept-encoding"] == "identity"
    assert seen["content-type"] == "application/json"


async def test_of_the_engines_headers_its_own_figures_go_on_and_the_rest_stays():
    body = b'{"choices": []}'
    lines = (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json; charset=utf-8\r\nserver: llama.cpp\r\n"
        b"set-cookie: a=b\r\naccess-control-allow-origin: *\r\nx-request-id: engines-own\r\n"
        b"X-Process-Time: 7\r\nopenai-processing-ms: 9\r\nstrict-transport-security: max-age=1\r\n"
        b"keep-alive: timeout=5\r\ncontent-length: %d\r\n\r\n" % len(body)
    )
    async with raw_engine(say(lines + body)) as engine, gateway(backends={"raw": engine.url}) as front:
        response = await front.chat(headers={"x-request-id": "mine"})
    assert response.headers["x-process-time"] == "7"
    assert response.headers["openai-processing-ms"] == "9"
    assert response.headers.get_list("x-request-id") == ["mine"]
    assert response.headers["content-type"] == "application/json"
    for name in ("server", "set-cookie", "access-control-allow-origin", "strict-transport-security", "keep-alive"):
        assert name not in response.headers


@pytest.mark.parametrize("given", [None, "", "has spaces", "a" * 129, "naïve".encode(), 'quote"'])
async def test_a_request_without_a_sane_id_gets_one(fake_engine, given):
    headers = {} if given is None else {"x-request-id": given}
    async with gateway(fake_engine) as front:
        response = await front.chat(headers=headers)
    made = response.headers["x-request-id"]
    assert len(made) == 32
    assert int(made, 16) >= 0
    assert fake_engine.requests(CHAT)[-1]["headers"]["x-request-id"] == made


async def test_errors_carry_the_id_too(fake_engine):
    async with gateway(fake_engine) as front:
        for path in ("/v1/nothing", "/v1/models/nobody"):
            assert (await front.client.get(path, headers={"x-request-id": "e-1"})).headers["x-request-id"] == "e-1"
        refused = await front.chat(model="nobody", headers={"x-request-id": "e-2"})
        failed = await front.chat(headers={"x-request-id": "e-3", "x-fake-status": "500"})
    assert (refused.headers["x-request-id"], failed.headers["x-request-id"]) == ("e-2", "e-3")


# --- hops -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "seen"), [(None, "1"), ("0", "1"), ("3", "4"), ("many", "1"), ("-1", "1")])
async def test_hops_are_counted(fake_engine, given, seen):
    headers = {} if given is None else {"x-sparkstack-hops": given}
    async with gateway(fake_engine) as front:
        assert (await front.chat(headers=headers)).status_code == 200
    assert fake_engine.requests(CHAT)[-1]["headers"]["x-sparkstack-hops"] == seen


@pytest.mark.parametrize("given", ["4", "5", "999"])
async def test_the_fifth_hop_is_refused(fake_engine, given):
    async with gateway(fake_engine) as front:
        response = await front.chat(headers={"x-sparkstack-hops": given})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "too_many_hops")
    assert "the limit is 4" in response.json()["error"]["message"]
    assert not fake_engine.requests()


@pytest.mark.slow
async def test_a_model_that_leads_back_to_the_gateway_ends_after_four_rounds(tmp_path):
    """A gateway that is its own backend."""
    port = free_port()
    own = {"name": "self", "url": f"http://127.0.0.1:{port}", "models": [{"id": "loop"}]}
    catalogue = tmp_path / "catalogue.json"
    catalogue.write_text(json.dumps({"backends": [own]}))
    env = {"GATEWAY_PORT": str(port), "GATEWAY_CATALOGUE": str(catalogue)}
    async with gateway_process(env=env) as front, raw_client(own["url"]) as client:
        await client.send("POST", CHAT, json.dumps(chat_body(model="loop")).encode())
        assert await client.read_head() == 400
        error = json.loads(await client.read_body())["error"]
        rounds = await eventually(lambda: front.requests(CHAT)[4:] and front.requests(CHAT))
    assert "went through the gateway 4 times" in error["message"]
    assert len(rounds) == 5, "the caller's own request and four rounds"
