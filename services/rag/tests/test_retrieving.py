from dataclasses import replace

import pytest

from services.kit.errors import InvalidRequest
from services.rag.errors import EmbeddingsUnavailable, VectorStoreUnavailable
from services.rag.ports import Caller
from services.rag.retrieving.client_filters import parse_filter
from services.rag.retrieving.fusion import reciprocal_ranks
from services.rag.retrieving.rewriting import Turn
from services.rag.retrieving.steps.neighbours import without_overlap
from services.rag.tests.scripted import CALLER, COLLECTION, MemoryStore, make_tools, new_metrics, retriever
from tests.testkit.spans import RecordedSpans


@pytest.fixture
def store():
    store = MemoryStore()
    store.add("The gateway listens on port 8000.", document="gateway", attributes={"year": 2025})
    store.add("Embeddings listen on port 8011.", document="embeddings", attributes={"year": 2026})
    store.add("Bread needs flour, water and salt.", document="bread", attributes={"year": 2026})
    return store


async def test_a_trace_names_each_step_with_its_milliseconds_and_what_it_did(store):
    metrics = new_metrics()
    found = await retriever("embed, hybrid, {top: {limit: 2}}", make_tools(store), metrics).retrieve(
        "Which port has the gateway?", COLLECTION, CALLER
    )
    assert [step.name for step in found.steps] == ["embed", "hybrid", "top"]
    assert all(step.ms >= 0 and step.detail for step in found.steps)
    assert found.steps[-1].detail == "2 of 3"
    assert found.passages[0].document_id == "gateway"
    for step in ("embed", "hybrid", "top"):
        counted = metrics.retrieval_step.labels(step)
        assert counted._sum.get() > 0


@pytest.mark.parametrize("search", ["dense", "sparse", "hybrid"])
async def test_each_search_tells_how_near_the_nearest_passage_is(store, search):
    found = await retriever(f"embed, {search}", make_tools(store)).retrieve("gateway port", COLLECTION, CALLER)
    assert found.passages[0].document_id == "gateway"
    assert found.best_similarity == max(each.similarity for each in found.passages)
    assert 0.5 < found.best_similarity <= 1


async def test_words_alone_need_no_vectors(store):
    tools = make_tools(store)
    found = await retriever("sparse", tools).retrieve("gateway port", COLLECTION, CALLER)
    assert found.passages[0].document_id == "gateway"
    assert found.best_similarity is None
    assert tools.embedder.asked == []


async def test_a_private_collection_gives_each_caller_their_own_documents_alone(store):
    store.add("The gateway of alice listens on port 9.", document="hers", tenant="alice")
    private = replace(COLLECTION, visibility="private")
    ask = retriever("embed, hybrid", make_tools(store)).retrieve
    assert {each.document_id for each in (await ask("gateway port", private, CALLER)).passages} == {"hers"}
    assert (await ask("gateway port", private, Caller("bob"))).passages == []
    everyone = (await ask("gateway port", COLLECTION, Caller("bob"))).passages
    assert {each.document_id for each in everyone} == {"gateway", "embeddings", "bread", "hers"}


async def test_a_clients_filter_names_attributes_and_can_not_reach_another_tenant(store):
    ask = retriever("embed, hybrid", make_tools(store)).retrieve
    of_2026 = parse_filter({"type": "eq", "key": "year", "value": 2026})
    found = await ask("port", COLLECTION, CALLER, filter=of_2026)
    assert {each.document_id for each in found.passages} == {"embeddings", "bread"}
    store.add("Secret of bob.", document="bobs", tenant="bob")
    sly = parse_filter(
        {
            "type": "or",
            "filters": [{"type": "eq", "key": "tenant", "value": "bob"}, {"type": "ne", "key": "x", "value": 1}],
        }
    )
    private = replace(COLLECTION, visibility="private")
    assert (await ask("secret", private, CALLER, filter=sly)).passages == []


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("year=2026", "must be an object"),
        ({"type": "like", "key": "a", "value": "b"}, "there are eq, ne"),
        ({"type": "eq", "value": 1}, "needs `key`"),
        ({"type": "eq", "key": "a", "value": None}, "texts, numbers and booleans"),
        ({"type": "in", "key": "a", "value": 3}, "a list of 1 to 256"),
        ({"type": "gt", "key": "a", "value": "2020"}, "compares with a number, not '2020'"),
        ({"type": "eq", "key": 'a"b', "value": 1}, "quotation mark"),
        ({"type": "and", "filters": []}, "with at least one"),
        ({"type": "and", "filters": [{"type": "eq", "key": "a", "value": 1}] * 80}, "over 64 parts"),
    ],
)
def test_a_wrong_filter_is_refused_with_what_is_wrong(document, said):
    with pytest.raises(InvalidRequest) as caught:
        parse_filter(document, "rag.filters")
    assert said in caught.value.message
    assert caught.value.param == "rag.filters"


def test_a_filter_that_is_nested_without_end_is_refused():
    document = {"type": "eq", "key": "a", "value": 1}
    for _ in range(100):
        document = {"type": "and", "filters": [document]}
    with pytest.raises(InvalidRequest, match="nested over 6 deep"):
        parse_filter(document)


async def test_a_requests_limit_takes_the_presets_place_up_and_down(store):
    for number in range(30):
        store.add(f"Port number {number} of the harbour.", document=f"p{number}")
    ask = retriever("embed, {hybrid: {limit: 5}}, {top: {limit: 3}}", make_tools(store)).retrieve
    assert len((await ask("port", COLLECTION, CALLER)).passages) == 3
    assert len((await ask("port", COLLECTION, CALLER, limit=1)).passages) == 1
    assert len((await ask("port", COLLECTION, CALLER, limit=12)).passages) == 12


async def test_the_reranking_model_orders_the_candidates_and_no_others(store):
    store.add("A port! In a storm!", document="storm")
    tools = make_tools(store)
    found = await retriever("embed, {hybrid: {limit: 3}}, {rerank: {candidates: 3}}", tools).retrieve(
        "gateway port", COLLECTION, CALLER
    )
    assert found.passages[0].document_id == "storm"
    assert found.passages[0].score == 2
    assert tools.reranker.asked == [3]


async def test_a_reranking_model_of_half_weight_is_fused_with_the_order_before_it(store):
    store.add("A port! In a storm!", document="storm")
    found = await retriever("embed, hybrid, {rerank: {weight: 0.01}}", make_tools(store)).retrieve(
        "gateway port", COLLECTION, CALLER
    )
    assert found.passages[0].document_id == "gateway"


async def test_without_a_reranking_model_the_order_stays_and_the_trace_says_so(store):
    tools = make_tools(store)
    tools.reranker.down = True
    found = await retriever("embed, hybrid, rerank", tools).retrieve("gateway port", COLLECTION, CALLER)
    assert found.passages[0].document_id == "gateway"
    assert found.steps[-1].detail == "the order before it: the reranking model failed: embeddings_unavailable"


async def test_mmr_prefers_a_passage_that_says_something_else():
    store = MemoryStore()
    store.add("Port port gateway.", document="one")
    store.add("Port gateway port.", document="again")
    store.add("Gateway keys are secret.", document="other")
    ask = retriever("embed, dense, {mmr: {limit: 2, relevance: 0.5}}", make_tools(store)).retrieve
    found = await ask("gateway port", COLLECTION, CALLER)
    assert [each.document_id for each in found.passages] == ["one", "other"]


async def test_a_passage_that_repeats_a_better_one_is_left_out():
    store = MemoryStore()
    for document in ("one", "two"):
        store.add("The gateway listens on port 8000.", document=document)
    store.add("A gateway has keys.", document="three", index=0)
    store.add("A gateway has doors.", document="three", index=1)
    ask = retriever("embed, hybrid, {dedupe: {per_document: 1}}", make_tools(store)).retrieve
    found = await ask("gateway port", COLLECTION, CALLER)
    assert sorted(each.document_id for each in found.passages) == ["one", "three"]
    assert found.steps[-1].detail == "2 left out"


async def test_what_is_too_far_is_left_out(store):
    ask = retriever("embed, dense, {threshold: {similarity: 0.3}}", make_tools(store)).retrieve
    found = await ask("gateway port", COLLECTION, CALLER)
    assert "bread" not in {each.document_id for each in found.passages}
    assert found.passages


async def test_neighbours_are_joined_without_what_they_repeat_and_keep_their_pages():
    store = MemoryStore()
    store.add("It begins here. The middle comes.", index=0, page=1)
    store.add("The middle comes. A zebra stands in it.", index=1, page=2)
    store.add("It ends.", index=2, page=3)
    store.add("A zebra of the stale version.", index=1, version="v0")
    store.add("Far away.", index=9)
    steps = "embed, {dense: {limit: 1}}, neighbours"
    found = await retriever(steps, make_tools(store)).retrieve("the zebra stands in the middle", COLLECTION, CALLER)
    [passage] = found.passages
    assert passage.text == "It begins here. The middle comes. A zebra stands in it.\nIt ends."
    assert passage.index == 0
    pages = [found.page_at(passage, passage.text.index(word)) for word in ("begins", "zebra", "ends")]
    assert pages == [1, 2, 3]


async def test_passages_that_meet_become_one_at_the_better_ones_place():
    store = MemoryStore()
    store.add("The zebra has stripes.", index=0)
    store.add("Stripes are black.", index=1)
    found = await retriever("embed, dense, neighbours", make_tools(store)).retrieve("zebra", COLLECTION, CALLER)
    assert [each.text for each in found.passages] == ["The zebra has stripes.\nStripes are black."]


@pytest.mark.parametrize(
    ("before", "text", "rest"),
    [
        ("one two three four", "three four five", " five"),
        ("one two", "three", "three"),
        ("abc", "cde", "cde"),  # a letter in common is no overlap
        ("all of it is there", "it is there", ""),
        ("", "first", "first"),
    ],
)
def test_the_overlap_of_chunks_is_found(before, text, rest):
    assert without_overlap(before, text) == rest


def test_ranks_are_fused_by_reciprocals():
    fused = reciprocal_ranks([(1.0, ["a", "b"]), (0.5, ["b", "c"])])
    assert list(fused) == ["b", "a", "c"]
    assert fused["b"] == pytest.approx(1 / 62 + 0.5 / 61)


async def test_a_store_that_is_down_is_a_503_that_says_so(store):
    store.down = True
    with pytest.raises(VectorStoreUnavailable, match="Qdrant at"):
        await retriever("embed, dense", make_tools(store)).retrieve("gateway", COLLECTION, CALLER)


async def test_an_embeddings_service_that_is_down_is_a_503_of_its_own(store):
    tools = make_tools(store)
    tools.embedder.down = True
    with pytest.raises(EmbeddingsUnavailable):
        await retriever("embed, dense", tools).retrieve("gateway", COLLECTION, CALLER)


@pytest.mark.parametrize(("question", "said"), [("  ", "is empty"), ("x" * 9000, "9,000 characters")])
async def test_an_empty_or_endless_question_is_refused(question, said):
    with pytest.raises(InvalidRequest, match=said):
        await retriever("sparse", make_tools()).retrieve(question, COLLECTION, CALLER)


async def test_each_step_is_a_span_below_that_of_the_retrieval(store):
    recorded = RecordedSpans()
    ask = retriever("embed, sparse", make_tools(store)).retrieve
    with recorded.tracer.root_span("the request"):
        await ask("and its port?", COLLECTION, CALLER, history=[Turn("Where is the gateway?")])
    assert recorded.parents() == {
        "the request": "",
        "rag.retrieve": "the request",
        "rag.retrieve.rewrite": "rag.retrieve",
        "rag.retrieve.embed": "rag.retrieve",
        "rag.retrieve.sparse": "rag.retrieve",
    }
    assert "gateway" not in str(recorded.attributes()), "what is asked is nobody's business"
