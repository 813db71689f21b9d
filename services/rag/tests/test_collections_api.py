"""The collections' own API, in process: uploads, jobs, documents, tenants, and a store that is down."""

import contextlib
import json

import httpx
import pytest

from services.kit.on_behalf import HEADER, sign
from services.rag.app import create_app
from services.rag.settings import RagSettings
from services.rag.tests.fakes import FakeEmbedder, MemoryStore, WordReaders, fake_parts
from tests.testkit.server import running

KEY = "sk-collections"


class Api:
    """A running service and its clients."""

    def __init__(self, url: str, store: MemoryStore, embedder: FakeEmbedder, readers: WordReaders) -> None:
        self.url = url
        self.store = store
        self.embedder = embedder
        self.readers = readers

    def client(self, caller: str = "ada") -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {KEY}", HEADER: sign(caller, KEY)}
        return httpx.AsyncClient(base_url=f"{self.url}/v1", headers=headers, trust_env=False, timeout=10)


@contextlib.asynccontextmanager
async def service(folder, **parts):
    store = parts.get("store") or MemoryStore()
    embedder, readers = FakeEmbedder(), WordReaders()
    settings = RagSettings(state=folder, api_key=KEY, ingest_batch=8, max_file_mb=1, preset="fast", chunker="fixed")
    async with running(create_app(settings, fake_parts(store, embedder, readers))) as url:
        yield Api(url, store, embedder, readers)


@pytest.fixture
async def api(tmp_path):
    async with service(tmp_path) as api:
        yield api


@pytest.fixture
async def client(api):
    async with api.client() as client:
        yield client


async def make(client, name="handbook", **fields):
    answer = await client.post("/collections", json={"name": name, **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def upload(client, files, name="handbook", **query):
    forms = [("files", (each, content.encode())) for each, content in files.items()] or [("attributes", (None, "{}"))]
    answer = await client.post(f"/collections/{name}/documents", files=forms, params=query)
    assert answer.status_code == 202, answer.text
    return answer.json()


async def follow(client, job, name="handbook"):
    """Return the events of a job."""
    events = []
    async with client.stream("GET", f"/collections/{name}/jobs/{job['id']}?stream=true") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        async for line in response.aiter_lines():
            if line.startswith("event: "):
                events.append([line.removeprefix("event: ")])
            elif line.startswith("data: "):
                events[-1].append(json.loads(line.removeprefix("data: ")))
    return events


async def ingest(client, files, name="handbook", **query):
    return (await follow(client, await upload(client, files, name, **query), name))[-1][1]


def error_of(answer):
    return answer.status_code, answer.json()["error"]["code"], answer.json()["error"]["message"]


async def test_a_collection_is_made_filled_searched_and_dropped(client, api):
    made = await make(client, metadata={"team": "blue"})
    assert (made["model"], made["visibility"], made["documents"]["total"]) == ("rag/handbook", "shared", 0)
    assert (await client.get("/models")).json()["data"] == []

    done = await ingest(client, {"docs/pump.md": "the pump is blue", "docs/lamp.md": "the lamp is green"})

    assert (done["documents"]["completed"], done["chunks"], done["stage"]) == (2, 2, "done")
    assert [each["id"] for each in (await client.get("/models")).json()["data"]] == ["rag/handbook"]
    found = (await client.post("/collections/handbook/search", json={"query": "green lamp", "limit": 1})).json()
    assert [passage["name"] for passage in found["data"]] == ["docs/lamp.md"]
    assert all(step["ms"] >= 0 for step in found["steps"])
    assert (await client.delete("/collections/handbook")).json()["deleted"] is True
    assert api.store.points == {}
    assert error_of(await client.get("/collections/handbook"))[:2] == (404, "collection_not_found")


async def test_progress_is_streamed_until_it_is_done(client, api):
    await make(client)
    api.embedder.gate.clear()
    job = await upload(client, {f"{number}.md": f"text {number}" for number in range(5)})
    assert (job["stage"], job["documents"]["in_progress"], job["status"]) == ("reading", 5, "in_progress")
    async with client.stream("GET", f"/collections/handbook/jobs/{job['id']}?stream=true") as response:
        lines = response.aiter_lines()
        assert await anext(lines) == "event: progress"
        assert json.loads((await anext(lines)).removeprefix("data: "))["documents"]["in_progress"] == 5
        api.embedder.gate.set()
        rest = [line async for line in lines]
    assert rest[-3] == "event: done"
    done = json.loads(rest[-2].removeprefix("data: "))
    assert (done["documents"]["completed"], done["eta_s"] or 0) == (5, 0)


async def test_each_bad_file_has_its_own_error_and_the_others_are_there(client):
    await make(client)
    done = await ingest(client, {"good.md": "fine", "bad.md": "!", "big.md": "x" * 1_000_001, "../..": "nothing"})

    errors = {each["name"]: each["code"] for each in done["errors"]}
    assert errors == {"bad.md": "damaged", "big.md": "too_large", "../..": "bad_name"}
    assert (done["documents"]["completed"], done["documents"]["failed"]) == (1, 3)
    assert "RAG_MAX_FILE_MB" in next(each["message"] for each in done["errors"] if each["name"] == "big.md")


async def test_names_never_lead_out_of_the_collection(client):
    await make(client)
    await ingest(client, {"../../etc/passwd": "one", "C:\\docs\\a.md": "two", "/root/b.md": "three"})
    listed = (await client.get("/collections/handbook/documents")).json()["data"]
    assert [each["name"] for each in listed] == ["etc/passwd", "a.md", "root/b.md"]
    shown = await client.get("/collections/handbook/documents/root/b.md")
    assert shown.json()["status"] == "completed"


async def test_a_folder_in_several_requests_is_one_job_that_syncs(client):
    await make(client)
    await ingest(client, {"docs/old.md": "old", "docs/a.md": "a", "other/x.md": "x"})

    first = await upload(client, {"docs/a.md": "a"}, more="true")
    assert first["stage"] == "receiving"
    last = await upload(client, {"docs/b.md": "b"}, job=first["id"], sync="true", prefix="docs/")
    done = (await follow(client, last))[-1][1]

    assert done["id"] == first["id"]
    assert {key: done["documents"][key] for key in ("completed", "unchanged", "deleted")} == {
        "completed": 1,
        "unchanged": 1,
        "deleted": 1,
    }
    listed = (await client.get("/collections/handbook/documents")).json()["data"]
    assert {each["name"] for each in listed} == {"docs/a.md", "docs/b.md", "other/x.md"}
    refused = await client.post(
        "/collections/handbook/documents", files=[("files", ("c.md", b"c"))], params={"job": first["id"]}
    )
    assert error_of(refused)[0] == 400


async def test_documents_are_listed_in_pages_and_removed(client, api):
    await make(client)
    await ingest(client, {f"{number}.md": f"text {number}" for number in range(5)})
    first = (await client.get("/collections/handbook/documents", params={"limit": 2})).json()
    rest = (await client.get("/collections/handbook/documents", params={"after": first["last_id"]})).json()
    assert [each["name"] for each in first["data"] + rest["data"]] == [f"{number}.md" for number in range(5)]
    assert (first["has_more"], rest["has_more"]) == (True, False)

    gone = await client.delete("/collections/handbook/documents/3.md")

    assert gone.json()["deleted"] is True
    assert error_of(await client.get("/collections/handbook/documents/3.md"))[0] == 404
    assert len(api.store.points[(await client.get("/collections/handbook")).json()["id"]]) == 4
    assert (await client.get(f"/files/{first['data'][0]['id']}/content")).content == b"text 0"


async def test_in_a_private_collection_each_caller_is_alone(api):
    async with api.client("ada") as ada, api.client("ben") as ben:
        await make(ada, "notes", visibility="private")
        await ingest(ada, {"a.md": "the secret is blue"}, "notes")
        mine = await ingest(ben, {"a.md": "the secret is green"}, "notes")
        assert mine["documents"]["completed"] == 1

        for client, colour in ((ada, "blue"), (ben, "green")):
            found = (await client.post("/collections/notes/search", json={"query": "secret"})).json()
            assert [passage["text"] for passage in found["data"]] == [f"the secret is {colour}"]
            listed = (await client.get("/collections/notes/documents")).json()["data"]
            assert len(listed) == 1
        (document,) = (await ada.get("/collections/notes/documents")).json()["data"]
        assert error_of(await ben.delete(f"/collections/notes/documents/{document['id']}"))[0] == 404
        assert error_of(await ben.get(f"/files/{document['id']}/content"))[0] == 404
        assert error_of(await ben.delete("/collections/notes"))[:2] == (403, "permission_denied")
        assert (await ben.delete("/collections/notes/documents/a.md")).status_code == 200
        assert len((await ada.get("/collections/notes/documents")).json()["data"]) == 1


async def test_a_name_that_nobody_signed_is_nobodys(api):
    headers = {"authorization": f"Bearer {KEY}", HEADER: sign("ada", "another key")}
    async with httpx.AsyncClient(base_url=f"{api.url}/v1", headers=headers, trust_env=False) as forger:
        assert (await make(forger))["owner"] == "default"


@pytest.mark.parametrize("path", ["/collections", "/files", "/vector_stores", "/models"])
async def test_every_route_wants_the_key(api, path):
    async with httpx.AsyncClient(base_url=f"{api.url}/v1", trust_env=False) as stranger:
        assert error_of(await stranger.get(path))[:2] == (401, "invalid_api_key")


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"name": "no spaces here"}, "no spaces here"),
        ({"name": "a", "chunking": {"tokens": 4000}}, "240"),
        ({"name": "a", "chunking": {"tokens": 100, "overlap_tokens": 90}}, "50"),
        ({"name": "a", "preset": "magic"}, "magic"),
        ({"name": "a", "colour": "blue"}, "colour"),
    ],
)
async def test_a_wrong_collection_is_refused_with_the_limit(client, body, named):
    status, _, message = error_of(await client.post("/collections", json=body))
    assert status == 400
    assert named in message


async def test_two_collections_have_two_names(client):
    await make(client)
    assert "handbook" in error_of(await client.post("/collections", json={"name": "handbook"}))[2]


async def test_another_way_of_cutting_is_a_job(client):
    await make(client, chunking={"tokens": 20, "overlap_tokens": 0})
    await ingest(client, {"a.md": " ".join(f"w{number}" for number in range(40))})
    changed = (await client.patch("/collections/handbook", json={"chunking": {"tokens": 16}})).json()
    assert (changed["chunking"]["tokens"], changed["chunking"]["chunker"]) == (16, "fixed")
    done = (await follow(client, {"id": changed["job"]}))[-1][1]
    assert (done["kind"], done["chunks"]) == ("recut", 3)


async def test_a_store_that_is_down_is_a_503_and_comes_back(client, api):
    await make(client)
    await ingest(client, {"a.md": "the pump is blue"})
    api.store.down = "no answer from the vector store"

    answer = await client.post("/collections/handbook/search", json={"query": "pump"})
    assert error_of(answer)[:2] == (503, "vector_store_unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    made = await client.post("/collections", json={"name": "second"})
    assert error_of(made)[:2] == (503, "vector_store_unavailable")
    async with httpx.AsyncClient(trust_env=False) as anyone:
        ready = await anyone.get(f"{api.url}/readyz")
        assert ready.status_code == 503
        assert ready.json()["checks"]["vector_store"] == "no answer from the vector store"
        assert (await anyone.get(f"{api.url}/livez")).status_code == 200
    assert (await client.get("/collections")).status_code == 200
    job = await upload(client, {"b.md": "the lamp is green"})
    api.store.down = ""

    assert (await follow(client, job))[-1][1]["documents"]["completed"] == 1
    assert len((await client.post("/collections/handbook/search", json={"query": "lamp"})).json()["data"]) == 2


async def test_a_form_that_is_none_is_refused(client):
    await make(client)
    assert "multipart" in error_of(await client.post("/collections/handbook/documents", json={"a": 1}))[2]
    broken = await client.post(
        "/collections/handbook/documents",
        content=b"--x\r\nnothing",
        headers={"content-type": "multipart/form-data; boundary=x"},
    )
    assert error_of(broken)[0] == 400


async def test_attributes_come_with_the_files(client):
    await make(client)
    forms = [("attributes", (None, '{"year": 2024}')), ("files", ("a.md", b"report"))]
    job = (await client.post("/collections/handbook/documents", files=forms)).json()
    await follow(client, job)
    body = {"query": "report", "filters": {"type": "eq", "key": "year", "value": 2024}}
    assert len((await client.post("/collections/handbook/search", json=body)).json()["data"]) == 1
    body["filters"]["value"] = 2023
    assert (await client.post("/collections/handbook/search", json=body)).json()["data"] == []
