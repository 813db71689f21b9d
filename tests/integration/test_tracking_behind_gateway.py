"""The tracking service behind the gateway: whose word it is, who sees what, and that nobody makes up records."""

import asyncio
import contextlib
import json

import httpx
import msgspec
import pytest

from services.kit.records import RecordBatch, RequestRecord
from services.tracking.app import create_app
from services.tracking.service import Parts
from services.tracking.settings import TrackingSettings
from tests.integration.gateways import gateway
from tests.testkit.server import eventually, running

INTERNAL = "sk-internal-0123456789"
OWNER, ADA = "sk-owner-0123456789", "sk-ada-0123456789"
PATHS = ["/v1/feedback", "/v1/tracking"]


class Front:
    """The gateway's address, and the service behind it."""

    def __init__(self, url, behind, store):
        self.url = url
        self.behind = behind
        self.store = store

    def client(self, key):
        headers = {"authorization": f"Bearer {key}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, trust_env=False, timeout=10)

    async def send(self, *records):
        async with httpx.AsyncClient(trust_env=False) as sender:
            answer = await sender.post(
                f"{self.behind}/v1/tracking/records",
                content=msgspec.json.encode(RecordBatch(records=list(records))),
                headers={"authorization": f"Bearer {INTERNAL}"},
            )
        assert answer.status_code == 202, answer.text
        await eventually(lambda: not self.store.waiting)


def record(**fields):
    values = {"at": 1_795_000_000.0, "model": "m", "operation": "chat", "stream": False, "status": 200, "seconds": 1.0}
    return RequestRecord(**{**values, **fields})


@pytest.fixture
async def front(tmp_path):
    wanted = TrackingSettings(state=tmp_path, api_key=INTERNAL)
    app = await asyncio.to_thread(create_app, wanted, Parts(counters=list))
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(running(app))
        backend = {"name": "tracking", "url": url, "engine": "sparkstack", "paths": PATHS}
        (tmp_path / "catalogue.json").write_text(json.dumps({"backends": [backend]}))
        door = await stack.enter_async_context(
            gateway(catalogue=tmp_path / "catalogue.json", internal_key=INTERNAL, api_keys=(OWNER, f"ada={ADA}"))
        )
        yield Front(door.url, url, app.state.service.store)


async def test_feedback_is_the_word_of_the_key_that_gave_it(front):
    await front.send(record(id="a", key="ada"))
    async with front.client(ADA) as ada, front.client(OWNER) as owner:
        for client in (ada, owner):
            assert (await client.post("/v1/feedback", json={"request_id": "a", "thumb": "up"})).status_code == 201
        everybodys = (await owner.get("/v1/feedback")).json()["data"]
        hers = (await ada.get("/v1/feedback")).json()["data"]

    assert [each["caller"] for each in everybodys] == ["default", "ada"]
    assert [each["caller"] for each in hers] == ["ada"]


async def test_a_key_sees_its_own_requests_and_costs_and_the_owners_sees_all(front):
    await front.send(record(id="a", key="ada"), record(id="d", key="default"))
    async with front.client(ADA) as ada, front.client(OWNER) as owner:
        seen = [(await client.get("/v1/tracking/costs?by=key")).json()["data"] for client in (ada, owner)]
        others = await ada.get("/v1/tracking/requests/d")

    assert [[each["name"] for each in listed] for listed in seen] == [["ada"], ["ada", "default"]]
    assert (others.status_code, others.json()["error"]["code"]) == (404, "request_not_found")


async def test_no_caller_makes_up_records_whatever_headers_it_sends(front):
    body = msgspec.json.encode(RecordBatch(records=[record(id="forged", key="ada")]))
    async with front.client(OWNER) as owner:
        for headers in ({}, {"x-sparkstack-on-behalf-of": ""}, {"x-sparkstack-hops": "1"}):
            answer = await owner.post("/v1/tracking/records", content=body, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")
        assert (await owner.get("/v1/tracking/requests/forged")).status_code == 404


@pytest.mark.parametrize("user", ["ada@example.com", "group/ada", "ada lovelace", "ünïcode?&#"])
async def test_a_user_of_any_name_is_deleted(front, user):
    await front.send(record(id="a", key="ada", user=user), record(id="g", key="ada", user="grace"))
    async with front.client(OWNER) as owner:
        path = httpx.URL(front.url).copy_with(raw_path=b"/v1/tracking/users/" + _quoted(user))
        gone = (await owner.delete(path)).json()
        assert gone["deleted"] == {"requests": 1, "feedback": 0}
        assert (await owner.get("/v1/tracking/requests/g")).status_code == 200


def _quoted(name):
    from urllib.parse import quote

    return quote(name, safe="").encode()
