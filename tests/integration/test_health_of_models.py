"""A model that fails is its own affair: its neighbours on the same server go on, and no state lies about them."""

import asyncio

import pytest

from tests.integration.gateways import CHAT, gateway
from tests.testkit.server import eventually, fake_engine


@pytest.mark.parametrize(
    "fault",
    [{"status": 500}, {"status": 503}, {"die_head": True}, {"stall_head": True}, {"garbage": "html"}],
    ids=lambda fault: next(iter(fault)),
)
async def test_a_failing_model_does_not_take_its_neighbours_out(fault):
    async with fake_engine(models=("good", "bad", "fine")) as engine:
        engine.script(path=CHAT, model="bad", **fault)
        async with gateway(engine, first_token_timeout_s=1, discovery_interval_s=0.05) as front:
            for _ in range(2):
                bad, good, fine = await asyncio.gather(
                    front.chat(model="bad"), front.stream(model="good"), front.chat(model="fine")
                )
                assert bad.status_code >= 500
                assert good.done
                assert fine.status_code == 200
            listed = (await front.client.get("/v1/models")).json()["data"]
            metrics = await front.metrics()
    assert {model["id"]: model["sparkstack"]["state"] for model in listed} == dict.fromkeys(
        ("good", "bad", "fine", "fake-embed"), "ready"
    )
    assert metrics.value("gateway_exchanges_total", outcome="ok") == 4
    assert metrics.value("gateway_exchanges_total", outcome="failed", gen_ai_request_model="bad") == 2
    assert metrics.value("gateway_backend_up", backend="engine") == 1


async def test_a_model_that_works_again_is_served_at_once(fake_engine):
    """No breaker stays open: a status says nothing of the next request."""
    fake_engine.script(path=CHAT, times=3, status=500)
    async with gateway(fake_engine) as front:
        statuses = [(await front.chat()).status_code for _ in range(5)]
    assert statuses == [502, 502, 502, 200, 200]


async def test_a_server_whose_listing_fails_goes_on_serving_what_it_had_listed(fake_engine):
    async with gateway(fake_engine, discovery_interval_s=0.03) as front:
        fake_engine.script(path="/v1/models", status=500)
        await eventually(lambda: front.door.backends["engine"].state == "unreachable")
        listed = (await front.client.get("/v1/models")).json()["data"]
        response = await front.chat()
        fake_engine.clear_script()
        await eventually(lambda: front.door.backends["engine"].state == "ready")
    assert [model["id"] for model in listed] == ["fake-chat", "fake-embed"]
    assert response.status_code == 200


@pytest.mark.parametrize("fault", [{"garbage": "html"}, {"garbage": "json"}, {"garbage": "text"}])
async def test_a_listing_of_garbage_leaves_the_models_that_were_known(fake_engine, fault):
    async with gateway(fake_engine, discovery_interval_s=0.03) as front:
        fake_engine.script(path="/v1/models", **fault)
        await eventually(lambda: front.door.backends["engine"].state == "unreachable")
        listed = (await front.client.get("/v1/models")).json()["data"]
        message = front.door.backends["engine"].message
    assert [model["id"] for model in listed] == ["fake-chat", "fake-embed"]
    assert "/v1/models" in message


async def test_fifty_requests_that_all_fail_leave_the_server_in_service(fake_engine):
    fake_engine.script(path=CHAT, times=100, die_head=True)
    async with gateway(fake_engine, discovery_interval_s=0.05) as front:
        answers = await asyncio.gather(*(front.chat() for _ in range(50)))
        assert {answer.status_code for answer in answers} == {502}
        assert (await front.chat()).status_code == 200
        assert (await front.client.get("/readyz")).status_code == 200
