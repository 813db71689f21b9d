"""Who may come in, from where, and what of it the engines get to see."""

import httpx
import pytest

from services.gateway.settings import GatewaySettings
from services.kit.settings import SettingsError, load_settings
from tests.integration.gateways import CHAT, Gateway, chat_body, gateway

KEY = "sk-spark-0123456789abcdef"
DATA = [
    ("GET", "/v1/models"),
    ("GET", "/v1/models/fake-chat"),
    ("GET", "/status"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/embeddings"),
    ("POST", "/api/chat"),
    ("POST", "/api/generate"),
    ("POST", "/api/embed"),
    ("POST", "/api/show"),
    ("GET", "/api/tags"),
    ("GET", "/api/ps"),
]
OPEN = ["/", "/livez", "/readyz", "/metrics", "/page/app.js", "/openapi.json"]


async def ask(front: Gateway, headers: dict[str, str]) -> httpx.Response:
    return await front.client.post(CHAT, json=chat_body(max_tokens=1), headers=headers)


# --- keys -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), DATA)
@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}], ids=["no key", "a wrong key"])
async def test_data_needs_a_key(fake_engine, method, path, headers):
    async with gateway(fake_engine, api_keys=(KEY,), allow_loopback_without_key=False) as front:
        response = await front.client.request(method, path, json={}, headers=headers)
    assert response.status_code == 401
    error = response.json()["error"]
    assert "Authorization: Bearer" in (error if isinstance(error, str) else error["message"])
    assert not fake_engine.requests()


@pytest.mark.parametrize("path", OPEN)
async def test_what_is_no_data_needs_none(fake_engine, path):
    async with gateway(fake_engine, api_keys=(KEY,), allow_loopback_without_key=False) as front:
        assert (await front.client.get(path)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer {KEY}"},
        {"authorization": f"Bearer   {KEY}"},
        {"x-api-key": KEY},
        {"authorization": "Basic dXNlcg==", "x-api-key": KEY},
    ],
    ids=["bearer", "lower case", "spaces", "x-api-key", "beside a proxy's"],
)
async def test_a_key_is_read_from_where_clients_put_it(fake_engine, headers):
    async with gateway(fake_engine, api_keys=(KEY,), allow_loopback_without_key=False) as front:
        assert (await ask(front, headers)).status_code == 200


@pytest.mark.parametrize(
    "given", [f"Bearer {KEY[:-1]}", f"Bearer {KEY}x", KEY, "Bearer", "Bearer \xff\xfe", f"Basic {KEY}", "Bearer team"]
)
async def test_nearly_a_key_is_none(fake_engine, given):
    async with gateway(fake_engine, api_keys=(f"team={KEY}",), allow_loopback_without_key=False) as front:
        response = await ask(front, {"authorization": given.encode("latin-1")})
    assert response.status_code == 401
    assert KEY not in response.text


async def test_several_keys_have_names_in_the_log(fake_engine, logs):
    keys = (f"alice={KEY}", "bob=sk-bob-0123456789")
    async with gateway(fake_engine, api_keys=keys, allow_loopback_without_key=False) as front:
        await ask(front, {"authorization": f"Bearer {KEY}"})
        await ask(front, {"x-api-key": "sk-bob-0123456789"})
    lines = [entry for entry in logs if entry.get("route") == CHAT]
    assert [line["client"] for line in lines] == ["alice", "bob"]
    assert KEY not in str(logs)
    assert "sk-bob" not in str(logs)


# --- without a key ----------------------------------------------------------------------------------------------


async def test_without_a_key_nobody_comes_in_unless_it_is_allowed(fake_engine):
    async with gateway(fake_engine, allow_loopback_without_key=False) as front:
        response = await ask(front, {})
    assert response.status_code == 401
    assert "GATEWAY_ALLOW_LOOPBACK_WITHOUT_KEY=1" in response.json()["error"]["message"]


async def test_where_it_is_allowed_a_wrong_key_is_still_wrong(fake_engine):
    """It may be meant for another gateway: to say nothing would hide the mistake."""
    async with gateway(fake_engine, api_keys=(KEY,)) as front:
        assert (await ask(front, {})).status_code == 200
        assert (await ask(front, {"authorization": "Bearer sk-other-stack"})).status_code == 401


async def test_a_client_that_must_send_some_key_may_send_any_where_there_is_none(fake_engine):
    async with gateway(fake_engine) as front:
        assert (await ask(front, {"authorization": "Bearer ollama"})).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "localhost.evil.example:8000"},
        {"host": ""},
        {"host": "[::1"},
        {"host": "192.168.1.7"},
        {"origin": "https://evil.example"},
        {"origin": "http://127.0.0.1.evil.example"},
        {"origin": "null"},
        {"origin": "file://"},
        {"x-forwarded-for": "203.0.113.9"},
        {"x-forwarded-for": "127.0.0.1"},
        {"forwarded": "for=203.0.113.9"},
    ],
    ids=lambda headers: "-".join(f"{name} {value}" for name, value in headers.items()),
)
async def test_a_keyless_call_that_may_come_from_elsewhere_is_refused(fake_engine, headers):
    """A page of another site in this machine's browser, a name that points here, a proxy before us."""
    async with gateway(fake_engine, api_keys=(KEY,)) as front:
        refused = await ask(front, headers)
        with_key = await ask(front, {**headers, "authorization": f"Bearer {KEY}"})
    assert refused.status_code in (401, 403)
    assert refused.json()["error"]["type"] in ("authentication_error", "permission_error")
    assert with_key.status_code == 200, "a key opens from anywhere"
    assert len(fake_engine.requests(CHAT)) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "localhost"},
        {"host": "localhost:11434"},
        {"host": "127.0.0.1:8000"},
        {"host": "[::1]:8000"},
        {"origin": "http://localhost:3000"},
        {"origin": "http://127.0.0.1:8000"},
    ],
    ids=lambda headers: "-".join(headers.values()),
)
async def test_a_keyless_call_of_this_machine_passes(fake_engine, headers):
    async with gateway(fake_engine) as front:
        assert (await ask(front, headers)).status_code == 200


async def test_status_and_models_refuse_a_foreign_page_too(fake_engine):
    async with gateway(fake_engine) as front:
        for method, path in DATA:
            response = await front.client.request(method, path, json={}, headers={"origin": "https://evil.example"})
            assert response.status_code == 403, path


# --- the door itself --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "spark.local"])
def test_beyond_loopback_it_refuses_to_start_without_a_key(host):
    with pytest.raises(SettingsError, match=r"SPARKSTACK_API_KEY") as caught:
        load_settings(GatewaySettings, host=host, allow_loopback_without_key=True)
    assert f"GATEWAY_HOST={host}" in str(caught.value)
    assert load_settings(GatewaySettings, host=host, api_keys=(KEY,)).host == host


def test_the_environment_is_read_in_the_same_way(monkeypatch):
    monkeypatch.setenv("GATEWAY_HOST", "0.0.0.0")
    with pytest.raises(SettingsError, match=r"GATEWAY_HOST=0\.0\.0\.0"):
        load_settings(GatewaySettings)
    monkeypatch.setenv("SPARKSTACK_API_KEY", f"{KEY}, alice=sk-2")
    assert load_settings(GatewaySettings).api_keys == (KEY, "alice=sk-2")


# --- pages of other origins -------------------------------------------------------------------------------------

PAGE = "http://localhost:3000"


async def preflight(front: Gateway, origin: str) -> httpx.Response:
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    return await front.client.options(CHAT, headers=headers)


async def test_a_preflight_works_for_a_listed_origin_only(fake_engine):
    async with gateway(fake_engine, api_keys=(KEY,), cors_origins=(PAGE,)) as front:
        listed = await preflight(front, PAGE)
        other = await preflight(front, "https://evil.example")
    assert listed.status_code == 200
    assert listed.headers["access-control-allow-origin"] == PAGE
    assert "authorization" in listed.headers["access-control-allow-headers"].lower()
    assert other.status_code == 400
    assert "access-control-allow-origin" not in other.headers


async def test_without_listed_origins_there_is_no_cors_at_all(fake_engine):
    async with gateway(fake_engine) as front:
        response = await preflight(front, PAGE)
        answered = await ask(front, {"origin": PAGE})
    assert response.status_code == 405
    assert not [name for name in (*response.headers, *answered.headers) if name.startswith("access-control")]


async def test_a_listed_page_reads_answers_streams_and_errors(fake_engine):
    headers = {"origin": PAGE, "authorization": f"Bearer {KEY}"}
    async with gateway(fake_engine, api_keys=(KEY,), cors_origins=(PAGE,), allow_loopback_without_key=False) as front:
        good = await ask(front, headers)
        streamed = (await front.stream(headers=headers)).response
        full = await ask(front, {**headers, "x-fake-status": "503"})
        refused = await ask(front, {"origin": PAGE})
    assert [answer.status_code for answer in (good, streamed, full, refused)] == [200, 200, 503, 401]
    for answer in (good, streamed, full, refused):
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert "retry-after" in answer.headers["access-control-expose-headers"]
        assert answer.headers.get_list("access-control-allow-origin") == [PAGE]


async def test_a_listed_origin_may_call_without_a_key_on_this_machine(fake_engine):
    page = "http://chat.example"
    async with gateway(fake_engine, cors_origins=(page,)) as front:
        assert (await ask(front, {"origin": page})).status_code == 200
        assert (await ask(front, {"origin": "http://other.example"})).status_code == 403
