import numpy as np
import pytest

from services.rag.errors import ModelRefused
from services.rag.tests.scripted import CALLER, COLLECTION, MemoryStore, ScriptedModel, make_tools, retriever, vector


@pytest.fixture
def store():
    store = MemoryStore()
    store.add("The answer cache keeps replies for an hour.", document="cache")
    store.add("A lease lasts fifteen seconds and is renewed.", document="lease")
    store.add("Bread needs flour.", document="bread")
    return store


async def test_paraphrases_of_a_model_are_looked_for_as_well(store):
    model = ScriptedModel(["1. How long does a lease last?\n2. Fifteen seconds lease?\n3. Hi"])
    tools = make_tools(store, model)
    found = await retriever("{expand: {by: model}}, embed, hybrid", tools).retrieve(
        "What is the lease time?", COLLECTION, CALLER
    )
    assert found.steps[0].detail == "2 paraphrases"
    assert [query.dense is not None for query in store.queries] == [True, False] * 3
    assert found.steps[2].detail.endswith("found by 3 queries, 3 kept")
    assert found.passages[0].document_id == "lease"
    assert tools.embedder.asked == ["What is the lease time?", "How long does a lease last?", "Fifteen seconds lease?"]


@pytest.mark.parametrize(
    ("said", "note"),
    [
        ([ModelRefused("no").told(502, code="engine_unreachable")], "the model failed: engine_unreachable"),
        ([""], "the model said nothing"),
        (["I am a language model."], "of use"),
        (["lease lease lease lease lease lease lease lease lease lease lease lease lease"], "of use"),
        (["What is the lease time?"], "of use"),
    ],
)
@pytest.mark.parametrize("step", ["{expand: {by: model}}", "{decompose: {least_words: 1}}"])
async def test_where_the_model_fails_or_babbles_the_question_goes_on_alone(store, step, said, note):
    found = await retriever(f"{step}, embed, hybrid", make_tools(store, ScriptedModel(said))).retrieve(
        "What is the lease time?", COLLECTION, CALLER
    )
    assert found.steps[0].detail.startswith("the question alone: ")
    assert note in found.steps[0].detail or "no parts" in found.steps[0].detail
    assert [query.dense is not None for query in store.queries] == [True, False]
    assert found.passages[0].document_id == "lease"


async def test_words_that_the_first_passages_share_are_added_on_the_sparse_side():
    store = MemoryStore()
    store.add("Bake the sourdough loaf slowly.", document="a")
    store.add("A sourdough loaf needs an oven.", document="b")
    tools = make_tools(store)
    found = await retriever("expand, embed, hybrid", tools).retrieve("loaf", COLLECTION, CALLER)
    assert found.steps[0].detail == "added sourdough"
    assert len(store.queries[-1].sparse.indices) == 2
    assert np.allclose(store.queries[-2].dense, vector("loaf"))


async def test_passages_that_share_nothing_add_nothing(store):
    found = await retriever("expand, sparse", make_tools(store)).retrieve("lease bread", COLLECTION, CALLER)
    assert found.steps[0].detail == "the question alone: the first 2 passages share no other word"


async def test_a_hypothetical_passage_moves_the_vector_but_not_the_decision(store):
    model = ScriptedModel(["A lease lasts fifteen seconds and is then renewed by its holder."])
    found = await retriever("hyde, embed, dense", make_tools(store, model)).retrieve("holding time", COLLECTION, CALLER)
    assert found.steps[0].detail == "a passage of 12 words"
    assert found.passages[0].document_id == "lease"
    assert found.passages[0].score > 0.5
    assert found.best_similarity < 0.2  # of the question itself


async def test_a_hypothetical_passage_that_is_none_is_not_looked_for(store):
    tools = make_tools(store, ScriptedModel(["No."]))
    found = await retriever("hyde, embed, dense", tools).retrieve("holding time", COLLECTION, CALLER)
    assert found.steps[0].detail == "the question alone: what the model wrote is no passage"
    assert tools.embedder.asked == ["holding time"]


async def test_the_parts_of_a_question_are_looked_for_and_fused(store):
    model = ScriptedModel(["How long does the answer cache keep replies?\nHow long does a lease last?"])
    found = await retriever("decompose, embed, {hybrid: {limit: 2}}", make_tools(store, model)).retrieve(
        "How do the times of the answer cache and of a lease compare?", COLLECTION, CALLER
    )
    assert found.steps[0].detail == "2 parts"
    assert {each.document_id for each in found.passages} == {"cache", "lease"}
    assert model.options[0]["temperature"] == 0.0


async def test_a_short_question_is_not_taken_apart(store):
    model = ScriptedModel()
    found = await retriever("decompose, embed, dense", make_tools(store, model)).retrieve(
        "lease time", COLLECTION, CALLER
    )
    assert found.steps[0].detail == "left whole: under 8 words"
    assert model.prompts == []
