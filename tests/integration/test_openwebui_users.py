"""Open WebUI's people, each known by the name that it signs, wherever a request of theirs goes."""

import base64
import hashlib
import hmac
import json
import time

import httpx
import pytest

from services.kit.on_behalf import HEADER as ON_BEHALF_OF
from services.kit.on_behalf import verify
from tests.integration.gateways import CHAT, chat_body, gateway
from tests.integration.own_services import KEY as INTERNAL
from tests.integration.own_services import stack
from tests.integration.test_records import recorded

KEY = "sk-open-webui-0123456789"
SECRET = "a secret that the gateway and Open WebUI share"
BEARER = {"authorization": f"Bearer {KEY}"}
SHARED = {"api_keys": (f"ui={KEY}",), "openwebui_secret": SECRET, "allow_loopback_without_key": False}
ANN = {"sub": "5f0c", "email": "ann@example.org", "name": "Ann", "role": "user", "iss": "open-webui"}


def signed(secret=SECRET, **claims):
    """The header as Open WebUI sends it, beside its key."""
    now = int(time.time())
    parts = [{"alg": "HS256", "typ": "JWT"}, {**ANN, "iat": now, "exp": now + 300, **claims}]
    text = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
    signature = base64.urlsafe_b64encode(hmac.digest(secret.encode(), text, hashlib.sha256)).rstrip(b"=")
    return {**BEARER, "x-openwebui-user-jwt": (text + b"." + signature).decode()}


async def test_each_person_has_an_account_of_their_own(fake_engine):
    async with recorded(fake_engine, **SHARED) as (service, front):
        for name, person in {"one": "5f0c", "two": "77aa"}.items():
            headers = {**signed(sub=person), "x-request-id": name}
            assert (await front.chat(headers=headers, user="somebody else")).status_code == 200
        await front.chat(headers={**BEARER, "x-request-id": "three"})
        records = [await service.one(name) for name in ("one", "two", "three")]
    assert [record.key for record in records] == ["open-webui/5f0c", "open-webui/77aa", "ui"]
    assert records[0].user == "somebody else", "what a client says of itself is not what was signed"


async def test_neither_token_nor_name_goes_to_an_engine_or_into_the_log(fake_engine, logs):
    async with gateway(fake_engine, **SHARED) as front:
        assert (await front.chat(headers=signed())).status_code == 200
        assert (await front.client.post("/api/chat", json=chat_body(), headers=signed())).status_code == 200
    seen = json.dumps(fake_engine.requests())
    assert "openwebui" not in seen.lower()
    assert "ann@example.org" not in seen + str(logs)
    assert [line["client"] for line in logs if line.get("event") == "request.completed" and "client" in line] == [
        "open-webui/5f0c"
    ] * 2


async def test_the_stacks_own_services_work_for_the_person(tmp_path):
    async with stack(tmp_path, **SHARED) as run:
        body = chat_body(model="rag/handbook")
        assert (await run.front.client.post(CHAT, json=body, headers=signed())).status_code == 200
        assert (await run.front.client.get("/v1/files", headers=signed(sub="77aa"))).status_code == 200
    asked = [each for each in run.rag.seen if each.path in (CHAT, "/v1/files")]
    assert [verify(each.headers[ON_BEHALF_OF], INTERNAL) for each in asked] == ["open-webui/5f0c", "open-webui/77aa"]


@pytest.mark.parametrize("path", [CHAT, "/api/chat", "/v1/models", "/v1/files", "/status"])
async def test_a_name_with_another_signature_opens_nothing(tmp_path, path):
    async with stack(tmp_path, **SHARED) as run:
        client: httpx.AsyncClient = run.front.client
        kind = "POST" if "chat" in path else "GET"
        response = await client.request(kind, path, json=chat_body(), headers=signed("not " + SECRET))
    assert response.status_code == 401
    assert "GATEWAY_OPENWEBUI_SECRET must agree" in response.text
    assert not run.engine.requests()


async def test_without_a_shared_secret_all_are_the_one_whose_key_it_is(fake_engine):
    async with recorded(fake_engine, **{**SHARED, "openwebui_secret": ""}) as (service, front):
        await front.chat(headers={**signed(), "x-request-id": "one"})
        assert (await service.one("one")).key == "ui"


# --- what its pages offer -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "field"), [("/v1/models", "data"), ("/api/tags", "models")])
async def test_a_chat_page_is_offered_what_chats(tmp_path, path, field):
    async def names(**headers):
        listed = (await run.front.client.get(path, headers=headers)).json()[field]
        return {each.get("id") or each["name"] for each in listed}

    async with stack(tmp_path) as run:
        everything = await names()
        chats = await names(**{"x-sparkstack-capability": "chat"})
        assert await names(**{"x-sparkstack-capability": ""}) == everything
    assert {"rag/handbook", "fake-chat"} <= chats, "nobody described fake-chat, so it may chat"
    assert everything - chats == {"mini", "mini-rank"}
