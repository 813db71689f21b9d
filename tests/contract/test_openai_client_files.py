"""OpenAI's client drives what the rag service has of its API, through the gateway; and other clients' reranking."""

import io
import time

import httpx
import openai
import pytest

from services.kit.on_behalf import HEADER, verify
from tests.contract.conftest import INTERNAL_KEY
from tests.testkit.fake_services import ANSWER, CITATIONS

TEXT = "The key is printed by `sparkstack key`. 🔑\n".encode()


@pytest.fixture
def file(client):
    """Upload a file."""
    return client.files.create(file=("schlüssel.md", io.BytesIO(TEXT)), purpose="assistants")


def test_files_are_uploaded_listed_read_and_deleted(client, stack, file):
    assert (file.filename, file.bytes, file.purpose) == ("schlüssel.md", len(TEXT), "assistants")
    assert client.files.retrieve(file.id) == file
    assert file.id in [each.id for each in client.files.list()]
    assert client.files.content(file.id).read() == TEXT
    assert client.files.delete(file.id).deleted
    (upload,) = [each for each in stack.rag.requests("/v1/files") if each.method == "POST"][-1:]
    assert upload.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert verify(upload.headers[HEADER], INTERNAL_KEY) == "contract"


def test_a_file_may_be_larger_than_any_other_request_body(client):
    """The limit of other bodies is 1 MB here."""
    assert client.files.create(file=("large.bin", bytes(3_000_000)), purpose="assistants").bytes == 3_000_000


def test_a_file_that_is_not_there_is_told_as_the_service_tells_it(client):
    with pytest.raises(openai.NotFoundError) as raised:
        client.files.retrieve("file-none")
    assert raised.value.code == "file_not_found"


def test_a_vector_store_is_made_filled_searched_and_answers_as_a_model(client, file):
    store = client.vector_stores.create(name="manual")
    assert client.vector_stores.files.create(store.id, file_id=file.id).status == "completed"
    found = client.vector_stores.search(store.id, query="key").data
    assert TEXT.decode() in [part.text for each in found for part in each.content]

    answer = client.chat.completions.create(model="rag/manual", messages=[{"role": "user", "content": "The key?"}])
    message = answer.choices[0].message
    assert answer.model == "rag/manual"
    assert message.content == ANSWER
    assert [each.model_dump(exclude_unset=True) for each in message.annotations] == CITATIONS
    assert client.models.retrieve("rag/manual").id == "rag/manual"

    assert client.vector_stores.delete(store.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="rag/manual", messages=[{"role": "user", "content": "The key?"}])
    give_up_at = time.monotonic() + 60
    while "rag/manual" in {model.id for model in client.models.list()}:
        assert time.monotonic() < give_up_at


def test_citations_come_on_the_last_delta_of_a_stream(client):
    messages = [{"role": "user", "content": "The key?"}]
    chunks = list(client.chat.completions.create(model="rag/handbook", messages=messages, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER
    assert [chunk.choices[0].delta.model_dump().get("annotations") for chunk in chunks[-2:]] == [None, CITATIONS]
    assert chunks[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings_come_from_the_service_that_makes_them(client, stack, encoding):
    answer = client.embeddings.create(model="text-embedding", input=["a", "b"], encoding_format=encoding)
    assert [each.index for each in answer.data] == [0, 1]
    assert answer.usage.prompt_tokens > 0
    assert stack.embeddings.requests("/v1/embeddings")[-1].body["model"] == "mini"


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"], ids=["Jina and Cohere v1", "Cohere v2"])
def test_reranking_in_the_form_of_coheres_and_jinas_clients(stack, path):
    body = {"model": "mini-rank", "query": "the key", "documents": ["nothing", "the key"], "top_n": 1}
    answer = httpx.post(stack.url + path, json=body, headers={"authorization": f"Bearer {stack.key}"})
    assert answer.status_code == 200
    (best,) = answer.json()["results"]
    assert best["index"] == 1
    assert best["relevance_score"] > 0
