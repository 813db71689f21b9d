"""`POST /v1/rerank` as Cohere's and Jina's clients use it, over a tiny real cross-encoder and the packaged model."""

from pathlib import Path

import httpx
import pytest

from services.embeddings.app import create_app
from services.embeddings.catalogue import Card, HubFiles, read_cards
from services.embeddings.settings import EmbeddingsSettings
from services.embeddings.tests.ranking_sets import SETS
from services.embeddings.tests.tiny_models import write_cross_encoder
from tests.testkit.server import running

TINY = Card(
    id="tiny",
    aliases=("small",),
    capability="rerank",
    backend="cross_encoder",
    family="tiny",
    context_tokens=16,
    licence="Apache-2.0",
    origin="made by this test",
    hub=HubFiles(repository="none/tiny", revision="main"),
)
QUERY = "how long does green tea steep"
DOCUMENTS = ["the moon", "green tea", "green tea steep", "the sun"]


@pytest.fixture
def app(tmp_path: Path):
    folder = tmp_path / "embeddings" / "tiny"
    folder.mkdir(parents=True)
    (write_cross_encoder(folder) / "config.json").write_text("{}")
    settings = EmbeddingsSettings(
        state=tmp_path, api_key="key", max_documents=50, batch_texts=8, threads=1, preload=False
    )
    cards = [card for card in read_cards() if card.backend == "maxsim"]
    return create_app(settings, [TINY, *cards])


@pytest.fixture
async def client(app):
    async with (
        running(app) as url,
        httpx.AsyncClient(base_url=url, headers={"authorization": "Bearer key"}, timeout=60) as found,
    ):
        yield found


async def ask(client, status=200, **changes):
    body = {"model": "tiny", "query": QUERY, "documents": DOCUMENTS, **changes}
    answer = await client.post("/v1/rerank", json={name: value for name, value in body.items() if value is not None})
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_the_best_comes_first_and_equal_ones_stay_in_their_order(client):
    answer = await ask(client, model="small")
    assert [each["index"] for each in answer["results"]] == [2, 1, 0, 3]
    scores = [each["relevance_score"] for each in answer["results"]]
    assert scores[2] == scores[3]
    assert all(0 <= score <= 1 for score in scores)
    assert scores == sorted(scores, reverse=True)
    assert answer["model"] == "tiny"
    assert answer["object"] == "rerank"
    assert answer["id"].startswith("rerank-")
    assert all("document" not in each for each in answer["results"])


async def test_the_path_of_coheres_newer_client_is_the_same_endpoint(client):
    body = {"model": "tiny", "query": QUERY, "documents": DOCUMENTS}
    answer = await client.post("/v2/rerank", json=body)
    assert answer.json()["results"] == (await ask(client))["results"]


async def test_the_same_request_has_the_same_answer(client):
    first, second = await ask(client), await ask(client)
    assert first["results"] == second["results"]
    assert first["id"] != second["id"]


async def test_top_n_takes_the_best_and_more_than_there_are_takes_all(client):
    assert [each["index"] for each in (await ask(client, top_n=1))["results"]] == [2]
    assert len((await ask(client, top_n=100))["results"]) == 4


async def test_documents_come_back_as_objects_when_they_are_wanted(client):
    answer = await ask(client, return_documents=True, top_n=2)
    assert [each["document"] for each in answer["results"]] == [{"text": "green tea steep"}, {"text": "green tea"}]


async def test_strings_and_objects_may_be_mixed(client):
    objects = [{"text": "the moon", "title": "Moon"}, "green tea", {"text": "green tea steep"}, "the sun"]
    assert (await ask(client, documents=objects))["results"] == (await ask(client))["results"]


async def test_usage_counts_the_query_once_and_each_document(client):
    # Each text with its two special tokens.
    assert (await ask(client))["usage"] == {"total_tokens": (6 + 2) + (2 + 2) + (2 + 2) + (3 + 2) + (2 + 2)}


async def test_a_document_that_is_cut_is_named_and_refused_where_that_is_asked_for(client):
    long = ["green tea", "moon " * 40]
    answer = await ask(client, documents=long)
    assert "1 documents are too long, their ends were not read: 1" in answer["meta"]["warnings"][0]
    refused = await ask(client, 400, documents=long, truncate=False)
    assert refused["error"]["code"] == "context_length_exceeded"
    assert "documents[1] has 42 tokens" in refused["error"]["message"]


@pytest.mark.parametrize(
    ("changes", "words", "param"),
    [
        ({"documents": []}, "length >= 1", "documents"),
        ({"documents": ["tea", "", "moon"]}, "documents[1] is an empty text", "documents"),
        ({"documents": ["tea", {"text": " \n"}]}, "documents[1] is an empty text", "documents"),
        ({"documents": ["tea", 3]}, "documents", "documents[1]"),
        ({"documents": "tea"}, "documents", "documents"),
        ({"documents": ["tea"] * 51}, "the limit is 50", "documents"),
        ({"documents": None}, "documents", "documents"),
        ({"query": ""}, "length >= 1", "query"),
        ({"query": "tea " * 30}, "the query has 32 tokens", "query"),
        ({"top_n": 0}, "top_n", "top_n"),
        ({"top_n": "two"}, "top_n", "top_n"),
    ],
)
async def test_what_is_wrong_is_named_with_its_field(client, changes, words, param):
    error = (await ask(client, 400, **changes))["error"]
    assert words in error["message"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


async def test_an_unknown_model_and_a_missing_key_are_told(client):
    assert (await ask(client, 404, model="nobody"))["error"]["code"] == "model_not_found"
    answer = await client.post("/v1/rerank", json={}, headers={"authorization": ""})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_late_interaction_reads_a_long_document_to_its_end(client):
    query, answer, others = SETS[0]
    filler = " ".join(others) * 8  # more than one window of 256 tokens
    found = await ask(client, model="minilm-maxsim", query=query, documents=[filler, f"{filler} {answer}"])
    assert found["usage"]["total_tokens"] > 2 * 300
    assert [each["index"] for each in found["results"]] == [1, 0]
    assert all(-1 <= each["relevance_score"] <= 1 for each in found["results"])
    assert "meta" not in found


async def test_many_documents_are_computed_in_several_batches_and_keep_their_places(client):
    query, answer, others = SETS[3]
    documents = [f"{others[number % 3]} ({number})" for number in range(45)]
    documents.insert(17, answer)
    found = await ask(client, model="minilm-maxsim", query=query, documents=documents)
    assert found["results"][0]["index"] == 17
    assert sorted(each["index"] for each in found["results"]) == list(range(46))
