"""The service over real sockets: who may do what, what is answered, and how fast whatever the disk does."""

import asyncio
import contextlib
import sqlite3
import time

import httpx
import msgspec
import pytest

from services.kit.on_behalf import HEADER, sign
from services.tracking.app import create_app
from services.tracking.service import Parts
from services.tracking.settings import TrackingSettings
from services.tracking.tests.samples import batch, record
from tests.testkit.server import eventually, running

pytestmark = pytest.mark.slow

KEY = "sk-tracking"


class Api:
    """A running service and its clients."""

    def __init__(self, url, app):
        self.url = url
        self.service = app.state.service
        self.folder = app.state.settings.folder

    def client(self, caller="default"):
        """A caller of the gateway; None: one of the stack's services for itself."""
        signed = {HEADER: sign(caller, KEY)} if caller is not None else {}
        headers = {"authorization": f"Bearer {KEY}", **signed}
        return httpx.AsyncClient(base_url=self.url, headers=headers, trust_env=False, timeout=10)

    async def send(self, *records, **fields):
        """Send records as the gateway does; when this returns they are stored."""
        async with self.client(None) as gateway:
            answer = await gateway.post("/v1/tracking/records", content=msgspec.json.encode(batch(*records, **fields)))
        assert answer.status_code == 202, answer.text
        await eventually(lambda: not self.service.store.waiting)
        return answer.json()


@contextlib.asynccontextmanager
async def service(folder, **settings):
    wanted = TrackingSettings(state=folder, api_key=KEY, **settings)
    app = await asyncio.to_thread(create_app, wanted, Parts(counters=list))  # it reads files, before there is a loop
    async with running(app) as url:
        await eventually(lambda: app.state.service.store.state == "ok")
        yield Api(url, app)


@pytest.fixture
async def api(tmp_path):
    async with service(tmp_path) as api:
        yield api


@pytest.fixture
async def client(api):
    async with api.client() as client:
        yield client


# --- at the door


async def test_nothing_but_health_is_told_without_the_key(api):
    async with httpx.AsyncClient(base_url=api.url, trust_env=False) as stranger:
        for path in ("/v1/models", "/v1/tracking/summary", "/v1/tracking/costs", "/v1/feedback"):
            assert (await stranger.get(path)).status_code == 401
        assert (await stranger.post("/v1/tracking/records", content=b"{}")).status_code == 401
        assert (await stranger.get("/readyz")).status_code == 200
        assert (await stranger.get("/metrics")).status_code == 200


async def test_it_has_no_models(client):
    assert (await client.get("/v1/models")).json() == {"object": "list", "data": []}


async def test_a_caller_of_the_gateway_cannot_make_up_records(client):
    answer = await client.post("/v1/tracking/records", content=msgspec.json.encode(batch(record())))

    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"records": [{"id": 1}]}', b"\xff"])
async def test_what_is_no_batch_is_refused(api, body):
    async with api.client(None) as gateway:
        answer = await gateway.post("/v1/tracking/records", content=body)

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


async def test_a_batch_is_taken_within_milliseconds_while_the_file_is_locked(tmp_path):
    async with service(tmp_path) as api, api.client(None) as gateway:
        other = sqlite3.connect(api.folder / "records.db", isolation_level=None, check_same_thread=False)
        await asyncio.to_thread(other.execute, "BEGIN IMMEDIATE")
        content = msgspec.json.encode(batch(*(record() for _ in range(100))))
        took = []
        for _ in range(20):
            started = time.perf_counter()
            assert (await gateway.post("/v1/tracking/records", content=content)).status_code == 202
            took.append(time.perf_counter() - started)
        await asyncio.to_thread(other.execute, "ROLLBACK")
        other.close()

        assert sorted(took)[10] < 0.05
        await eventually(lambda: not api.service.store.waiting, timeout_s=10)


async def test_what_the_queue_cannot_hold_is_told_and_counted(tmp_path):
    async with service(tmp_path, queue_records=100) as api, api.client(None) as gateway:
        many = msgspec.json.encode(batch(*(record() for _ in range(150)), dropped=5))
        answer = await gateway.post("/v1/tracking/records", content=many)

        assert answer.json() == {"accepted": 100, "dropped": 50}
        text = (await gateway.get("/metrics")).text
        assert 'tracking_records_total{outcome="dropped"} 50.0' in text
        assert 'tracking_records_total{outcome="dropped_by_sender"} 5.0' in text


async def test_readyz_and_metrics_say_that_the_file_is_damaged_and_records_are_still_taken(tmp_path):
    (tmp_path / "tracking").mkdir()
    (tmp_path / "tracking" / "records.db").write_bytes(b"no database at all" * 100)
    app = create_app(TrackingSettings(state=tmp_path, api_key=KEY), Parts(counters=list))
    async with running(app) as url:
        api = Api(url, app)
        await eventually(lambda: "damaged" in app.state.service.store.state)
        async with api.client(None) as gateway:
            ready = await gateway.get("/readyz")
            taken = await gateway.post("/v1/tracking/records", content=msgspec.json.encode(batch(record())))
            read = await gateway.get("/v1/tracking/summary")
            told = await gateway.post("/v1/feedback", json={"request_id": "x", "thumb": "up"})
            metrics = await gateway.get("/metrics")
    assert (ready.status_code, "move it aside" in ready.text) == (503, True)
    assert taken.status_code == 202
    assert [answer.json()["error"]["code"] for answer in (read, told)] == ["records_unavailable"] * 2
    assert "tracking_store_up 0.0" in metrics.text


# --- numbers


async def test_the_summary_tells_of_the_last_hours(api, client):
    now = time.time()
    await api.send(
        *(record(at=now - 60, seconds=float(number), first_token_s=0.1) for number in range(1, 11)),
        record(at=now - 60, status=503, outcome="failed"),
        record(at=now - 60, status=200, outcome="failed", error="engine_disconnected"),
        record(at=now - 60, status=499, outcome="cancelled"),
        record(at=now - 60, hops=1, billed=False),
        record(at=now - 48 * 3600),
        dropped=3,
    )

    found = (await client.get("/v1/tracking/summary")).json()
    assert (found["requests"], found["failed"], found["completion_tokens"]) == (13, 2, 650)
    assert found["outcomes"] == {"ok": 10, "failed": 2, "cancelled": 1}
    costs = (await client.get("/v1/tracking/costs")).json()["total"]
    assert (costs["requests"], costs["failed"]) == (14, 2), "one is of the day before yesterday"
    assert found["seconds"] == {"p50": 6.0, "p95": 10.0, "p99": 10.0}
    assert (found["service"]["records"], found["service"]["dropped"]) == ("ok", 3)


async def test_a_request_is_found_by_its_id_and_by_its_trace(api, client):
    await api.send(
        record(id="abc", trace_id="t" * 32, model="rag/handbook"),
        record(id="abc", trace_id="t" * 32, at=record().at + 1, hops=1, user="ada"),
    )

    for name in ("abc", "t" * 32):
        found = (await client.get(f"/v1/tracking/requests/{name}")).json()
        assert [each["model"] for each in found["requests"]] == ["rag/handbook", "smollm2"]
        assert found["requests"][1]["user"] != "ada"
    missing = await client.get("/v1/tracking/requests/nobody")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "request_not_found")


async def test_costs_by_key_model_and_day(api, client):
    first, second = 1_795_000_000.0, 1_795_000_000.0 + 86_400
    await api.send(
        record(at=first, key="ada"), record(at=first, key="grace", model="other"), record(at=second, key="ada")
    )

    async def costs(**query):
        found = (await client.get("/v1/tracking/costs", params=query)).json()
        return {each["name"]: each["completion_tokens"] for each in found["data"]}, found["total"]["completion_tokens"]

    assert await costs(by="key") == ({"ada": 100, "grace": 50}, 150)
    assert await costs(by="model") == ({"smollm2": 100, "other": 50}, 150)
    assert await costs(by="day") == ({"2026-11-18": 100, "2026-11-19": 50}, 150)
    assert await costs(by="key", **{"from": "2026-11-19"}) == ({"ada": 50}, 50)
    assert await costs(by="key", to="2026-11-18") == ({"ada": 50, "grace": 50}, 100)
    wrong = await client.get("/v1/tracking/costs", params={"from": "2026-11-20", "to": "2026-11-19"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "from")


async def test_costs_say_what_is_not_measured_and_has_no_price(api, client):
    await api.send(record())

    found = (await client.get("/v1/tracking/costs")).json()
    assert (found["total"]["joules"], found["total"]["money"], found["currency"]) == (None, None, None)
    assert found["energy_sources"] == []


async def test_prices_make_money(tmp_path):
    tariff = tmp_path / "prices.yaml"
    tariff.write_text('currency: EUR\nmodels: {"smollm*": {prompt: 10, completion: 20}}\n')
    async with service(tmp_path, tariff=tariff) as api, api.client() as client:
        await api.send(record(prompt_tokens=1_000_000, completion_tokens=500_000), record(model="other"))
        found = (await client.get("/v1/tracking/costs")).json()

        assert (found["currency"], found["total"]["money"], found["unpriced_models"]) == ("EUR", 20.0, ["other"])


async def test_cost_is_in_the_metrics_by_key_and_model(tmp_path):
    tariff = tmp_path / "prices.yaml"
    tariff.write_text('currency: EUR\nmodels: {"*": {prompt: 10000}}\n')
    async with service(tmp_path, tariff=tariff) as api, api.client() as client:
        await api.send(record(key="ada"), record(key="ada"))
        await api.service.read_costs()
        text = (await client.get("/metrics")).text

    assert 'tracking_cost_tokens_total{key="ada",model="smollm2",type="input"} 200.0' in text
    assert 'tracking_cost_money_total{currency="EUR",key="ada",model="smollm2"} 2.0' in text
    assert 'tracking_cost_requests_total{key="ada",model="smollm2"} 2.0' in text


class Steady:
    """A counter of a machine that uses 50 W."""

    name = "gpu0"

    def joules(self):
        return 50.0 * time.monotonic()


async def test_measured_energy_is_shared_among_keys_and_the_rest_is_idle(tmp_path):
    wanted = TrackingSettings(state=tmp_path, api_key=KEY, power_interval_s=0.02)
    app = await asyncio.to_thread(create_app, wanted, Parts(counters=lambda: [Steady()]))
    meter = app.state.service.meter
    async with running(app) as url:
        await eventually(lambda: meter.total_joules)
        started = time.time()
        await eventually(lambda: time.time() > started + 0.1)
        await Api(url, app).send(record(at=started, seconds=0.1, key="ada"))
    # What is not shared out yet is when the service ends.
    again = await asyncio.to_thread(create_app, wanted, Parts(counters=list))
    async with running(again) as url, Api(url, again).client() as client:
        found = (await client.get("/v1/tracking/costs?by=key")).json()
    joules = {each["name"]: each["joules"] for each in found["data"]}

    assert joules["ada"] == pytest.approx(5.0, rel=0.05)
    assert joules["ada"] + joules[""] == pytest.approx(meter.total_joules, abs=0.2)


async def test_a_key_that_is_no_operators_sees_its_own_alone(api):
    await api.send(record(id="a", key="ada"), record(id="g", key="grace"))
    async with api.client("ada") as ada:
        assert [each["name"] for each in (await ada.get("/v1/tracking/costs?by=key")).json()["data"]] == ["ada"]
        assert (await ada.get("/v1/tracking/requests/g")).status_code == 404
        assert (await ada.get("/v1/tracking/requests/a")).status_code == 200
        assert "service" not in (await ada.get("/v1/tracking/summary")).json()
        assert (await ada.delete("/v1/tracking/keys/grace")).status_code == 403
        assert (await ada.get("/v1/feedback/models")).status_code == 403


async def test_a_signature_that_is_not_good_opens_nothing(api):
    await api.send(record(id="a"))
    headers = {"authorization": f"Bearer {KEY}", HEADER: sign("default", "another key")}
    async with httpx.AsyncClient(base_url=api.url, headers=headers, trust_env=False) as forger:
        assert (await forger.get("/v1/tracking/requests/a")).status_code == 404


# --- deletion


def everything(api):
    return b"".join(path.read_bytes() for path in api.folder.iterdir() if path.name.startswith("records.db"))


async def test_deleting_a_user_is_exact_and_counted(tmp_path):
    async with service(tmp_path, store_text=True) as api, api.client() as client:
        sample = {"sampled": True, "prompt": "the secret recipe", "answer": "of pancakes"}
        await api.send(record(id="a1", user="ada", **sample), record(id="a2", user="ada"), record(id="g", user="grace"))
        for name in ("a1", "g"):
            await client.post("/v1/feedback", json={"request_id": name, "thumb": "up", "comment": f"about {name}"})
        before = (await client.get("/v1/tracking/costs?by=day")).json()["data"]
        assert b"the secret recipe" in everything(api)

        answer = await client.delete("/v1/tracking/users/ada")

        assert answer.json()["deleted"] == {"requests": 2, "feedback": 1}
        assert (await client.get("/v1/tracking/requests/a1")).status_code == 404
        assert (await client.get("/v1/tracking/requests/g")).status_code == 200
        assert [each["comment"] for each in (await client.get("/v1/feedback")).json()["data"]] == ["about g"]
        # Not in the rows, nor in what a file keeps of rows that were deleted.
        assert b"the secret recipe" not in everything(api)
        assert b"about a1" not in everything(api)
        assert (await client.get("/v1/tracking/costs?by=day")).json()["data"] == before
        assert (await client.delete("/v1/tracking/users/ada")).json()["deleted"] == {"requests": 0, "feedback": 0}


async def test_a_deletion_that_names_nobody_deletes_nothing(api, client):
    await api.send(record(id="a"))

    assert (await client.delete("/v1/tracking/users/")).json()["error"]["param"] == "user"
    assert (await client.delete("/v1/tracking/keys/")).json()["deleted"] == {"requests": 0, "feedback": 0}
    assert (await client.get("/v1/tracking/requests/a")).status_code == 200


async def test_what_was_on_its_way_about_a_deleted_user_is_not_stored(api, client):
    late = record(id="late", at=time.time() - 1, user="ada", model="m")
    await client.delete("/v1/tracking/users/ada")
    await api.send(late, record(id="later", at=time.time() + 60, user="ada", model="m"))

    assert (await client.get("/v1/tracking/requests/late")).status_code == 404
    assert (await client.get("/v1/tracking/requests/later")).status_code == 200
    assert (await client.get("/v1/tracking/costs")).json()["total"]["completion_tokens"] == 100


async def test_deleting_right_after_sending_deletes_what_waits(api, client):
    async with api.client(None) as gateway:
        content = msgspec.json.encode(batch(*(record(user="ada") for _ in range(2000))))
        await gateway.post("/v1/tracking/records", content=content)
        answer = await client.delete("/v1/tracking/users/ada")

    assert answer.json()["deleted"]["requests"] == 2000


async def test_a_caller_deletes_users_of_its_own_key_alone(api, client):
    await api.send(record(id="a", key="ada", user="u/1"), record(id="g", key="grace", user="u/1"))
    async with api.client("ada") as ada:
        assert (await ada.delete("/v1/tracking/users/u/1")).json()["deleted"]["requests"] == 1

    assert (await client.get("/v1/tracking/requests/g")).status_code == 200


async def test_deleting_a_key_keeps_the_sums_without_its_name(api, client):
    await api.send(record(id="a", key="ada"), record(id="g", key="grace"))

    assert (await client.delete("/v1/tracking/keys/ada")).json()["deleted"] == {"requests": 1, "feedback": 0}
    found = (await client.get("/v1/tracking/costs?by=key")).json()
    assert {each["name"]: each["requests"] for each in found["data"]} == {"(deleted)": 1, "grace": 1}
    assert (await client.get("/v1/tracking/requests/a")).status_code == 404


async def test_a_key_that_deletes_its_own_records_keeps_its_sums(api, client):
    await api.send(record(id="a", key="ada"))
    async with api.client("ada") as ada:
        assert (await ada.delete("/v1/tracking/keys/ada")).json()["deleted"] == {"requests": 1, "feedback": 0}
    await api.send(record(id="late", at=time.time() - 60, key="ada"))

    found = (await client.get("/v1/tracking/costs?by=key")).json()
    assert {each["name"]: each["requests"] for each in found["data"]} == {"ada": 2}
    assert (await client.get("/v1/tracking/requests/late")).status_code == 404


async def test_what_is_too_old_goes_and_its_sums_stay(tmp_path):
    async with service(tmp_path, store_text=True, keep_days=30, keep_text_days=7) as api, api.client() as client:
        day, now = 86_400, time.time()
        text = {"sampled": True, "prompt": "what was said", "answer": "once"}
        await api.send(
            record(id="old", at=now - 31 * day, **text),
            record(id="middle", at=now - 10 * day, **text),
            record(id="new", at=now - day, **text),
        )

        await api.service.retain()

        assert (await client.get("/v1/tracking/requests/old")).status_code == 404
        middle, new = [(await client.get(f"/v1/tracking/requests/{name}")).json() for name in ("middle", "new")]
        assert (middle["requests"][0]["prompt"], new["requests"][0]["prompt"]) == (None, "what was said")
        assert (await client.get("/v1/tracking/costs")).json()["total"]["requests"] == 3


# --- feedback


async def test_the_last_word_of_each_caller_on_each_request_counts(api, client):
    await api.send(record(id="a", trace_id="f" * 32))
    for body in ({"request_id": "a", "thumb": "up"}, {"trace_id": "f" * 32, "score": -0.5, "comment": "ada@x.org"}):
        answer = await client.post("/v1/feedback", json=body)
        assert (answer.status_code, answer.json()["known"]) == (201, True)
    async with api.client("grace") as grace:
        await grace.post("/v1/feedback", json={"request_id": "a", "score": 1, "labels": ["short"]})
        assert len((await grace.get("/v1/feedback")).json()["data"]) == 1

    found = (await client.get("/v1/feedback")).json()["data"]
    assert [(each["caller"], each["score"], each["comment"]) for each in found] == [
        ("grace", 1.0, ""),
        ("default", -0.5, "[EMAIL]"),
    ]
    (liked,) = (await client.get("/v1/feedback/models")).json()["data"]
    assert liked == {"model": "smollm2", "count": 2, "mean_score": 0.25, "up": 1, "down": 1}


async def test_feedback_that_comes_before_its_record_is_one_with_what_comes_after(api, client):
    early = await client.post("/v1/feedback", json={"trace_id": "e" * 32, "thumb": "down"})
    await api.send(record(id="a", trace_id="e" * 32))
    await client.post("/v1/feedback", json={"request_id": "a", "thumb": "up"})

    assert early.json()["known"] is False
    assert [each["score"] for each in (await client.get("/v1/feedback")).json()["data"]] == [1.0]


async def test_feedback_that_comes_before_its_record_learns_whose_it_is(api, client):
    await client.post("/v1/feedback", json={"trace_id": "e" * 32, "thumb": "down"})
    await client.post("/v1/feedback", json={"request_id": "b", "thumb": "down"})
    await api.send(record(id="a", trace_id="e" * 32, user="ada"), record(id="b"))

    found = (await client.get("/v1/feedback")).json()["data"]
    assert [(each["model"], each["request_id"]) for each in found] == [("smollm2", "b"), ("smollm2", "a")]
    assert (await client.delete("/v1/tracking/users/ada")).json()["deleted"] == {"requests": 1, "feedback": 1}


async def test_deletion_and_feedback_that_cannot_be_written_have_changed_nothing_and_say_so(api, client):
    await api.send(record(id="a", user="ada"))
    other = sqlite3.connect(api.folder / "records.db", isolation_level=None, check_same_thread=False)
    await asyncio.to_thread(other.execute, "BEGIN IMMEDIATE")
    answers = [await client.delete("/v1/tracking/users/ada"), await client.post("/v1/feedback", json=_WORD)]
    await asyncio.to_thread(other.execute, "ROLLBACK")
    other.close()

    for answer in answers:
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "records_unavailable")
        assert "retry-after" in answer.headers
    await eventually(lambda: api.service.store.state == "ok", timeout_s=10)
    assert (await client.get("/v1/tracking/requests/a")).status_code == 200
    assert (await client.post("/v1/feedback", json=_WORD)).status_code == 201


_WORD = {"request_id": "a", "thumb": "up"}


@pytest.mark.parametrize(
    "body",
    [
        {"thumb": "up"},
        {"request_id": "a"},
        {"request_id": "a", "thumb": "up", "score": 1},
        {"request_id": "a", "score": 1.5},
        {"request_id": "a", "thumb": "sideways"},
        {"request_id": "a", "thumb": "up", "labels": ["x"] * 17},
        {"request_id": "a", "thumb": "up", "stars": 5},
    ],
)
async def test_feedback_that_says_nothing_or_too_much_is_refused(client, body):
    answer = await client.post("/v1/feedback", json=body)

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


async def test_a_sample_carries_the_mean_of_its_feedback(api, client):
    await api.send(record(id="a", sampled=True), record(id="b", sampled=True))
    await client.post("/v1/feedback", json={"request_id": "a", "score": -1})
    async with api.client("grace") as grace:
        await grace.post("/v1/feedback", json={"request_id": "a", "score": 0})

    samples = await asyncio.to_thread(api.service.store.sampled, 0, 10)
    assert [sample.score for sample in samples] == [-0.5, None]
