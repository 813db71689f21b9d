import pytest

from services.rag.errors import ModelRefused
from services.rag.retrieving.rewriting import Turn, carry_terms, points_back
from services.rag.tests.scripted import CALLER, COLLECTION, MemoryStore, ScriptedModel, make_tools, retriever

_CACHE = [Turn("What does the answer cache keep?", "It keeps replies.")]


@pytest.mark.parametrize(
    "question",
    [
        "How long is it kept?",
        "And how large?",
        "Why?",
        "What about the other one?",
        "tell me more",
        "Are they encrypted?",
    ],
)
def test_a_question_that_needs_what_came_before_is_known(question):
    assert points_back(question)


@pytest.mark.parametrize(
    "question",
    ["How do I unload a model that is pinned?", "Which port does the gateway listen on?", "Compare leases and locks"],
)
def test_a_question_that_stands_alone_is_known(question):
    assert not points_back(question)
    assert carry_terms(question, _CACHE) == question


def test_terms_of_the_last_question_are_carried_into_one_that_points_back():
    assert carry_terms("How long is it kept?", _CACHE) == "How long is it kept? (answer cache keep)"


def test_terms_are_carried_through_a_chain_of_follow_ups():
    history = [*_CACHE, Turn("And how large is it?")]
    assert carry_terms("Why?", history) == "Why? (large answer cache keep)"


def test_a_new_subject_ends_the_old_one():
    history = [*_CACHE, Turn("Which port does the gateway listen on?")]
    assert carry_terms("Why that one?", history) == "Why that one? (port gateway listen)"


async def test_a_small_model_is_not_asked_to_rewrite():
    store = MemoryStore()
    store.add("The answer cache keeps replies for one hour.")
    model = ScriptedModel(["anything"])
    found = await retriever("embed, dense", make_tools(store, model)).retrieve(
        "How long are they there?", COLLECTION, CALLER, history=_CACHE
    )
    assert found.question == "How long are they there? (answer cache keep)"
    assert (found.steps[0].name, found.steps[0].detail) == ("rewrite", "carried terms")
    assert model.prompts == []
    assert found.best_similarity > 0.5


async def test_a_capable_model_rewrites_the_question():
    model = ScriptedModel(["Question: How long does the answer cache keep replies?\nI hope this helps."])
    found = await retriever("sparse", make_tools(model=model)).retrieve(
        "How long are they there?", COLLECTION, CALLER, history=_CACHE, capable=True, model="big"
    )
    assert found.question == "How long does the answer cache keep replies?"
    assert found.steps[0].detail == "by the model"
    assert "Assistant: It keeps replies." in model.prompts[0][0]["content"]
    assert model.options[0]["model"] == "big"


@pytest.mark.parametrize(
    "said",
    [
        [ModelRefused("busy").told(503, code="queue_full")],
        [""],
        ["Certainly! Here is everything about sourdough bread and ovens."],
        ["word " * 200],
    ],
)
async def test_a_rewriting_that_is_none_gives_way_to_carried_terms(said):
    found = await retriever("sparse", make_tools(model=ScriptedModel(said))).retrieve(
        "How long are they there?", COLLECTION, CALLER, history=_CACHE, capable=True
    )
    assert found.question == "How long are they there? (answer cache keep)"
    assert found.steps[0].detail.startswith("carried terms: the model")


async def test_without_a_conversation_nothing_is_rewritten():
    found = await retriever("sparse", make_tools()).retrieve("How long is it?", COLLECTION, CALLER, capable=True)
    assert [step.name for step in found.steps] == ["sparse"]
