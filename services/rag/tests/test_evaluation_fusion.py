"""Hybrid search: what its weights do, and when the words count for more."""

import pytest

from services.rag.retrieving.fusion import reciprocal_ranks
from services.rag.retrieving.steps.searching import is_keywords
from services.rag.tests.scripted import CALLER, COLLECTION, MemoryStore, make_tools, retriever


@pytest.mark.parametrize(
    "question",
    ["wal_level logical", "serialize access due to concurrent update", "DROP OWNED BY CASCADE", "loaf"],
)
def test_a_few_words_alone_are_keywords(question: str) -> None:
    assert is_keywords(question)


@pytest.mark.parametrize(
    "question",
    [
        "Can several cores share the work?",
        "how do I build an index",
        "Other programs should hear about it immediately when something was changed.",
        "My disk stays full although most of it was removed",
    ],
)
def test_a_sentence_is_not(question: str) -> None:
    assert not is_keywords(question)


def test_a_low_constant_lets_the_first_ranks_decide() -> None:
    rankings = [(1.0, ["a", "b", "c"]), (0.5, ["c", "x", "y"])]
    assert next(iter(reciprocal_ranks(rankings, 1))) == "a"
    assert next(iter(reciprocal_ranks(rankings, 60))) == "c"


@pytest.fixture
def store() -> MemoryStore:
    found = MemoryStore()
    # Nearer by its vector (all its words are asked for), but with fewer of the words.
    found.add("gateway", document="near")
    found.add("gateway port lease cache token model engine replica", document="wordy")
    return found


async def test_words_decide_for_keywords_and_meaning_for_sentences(store: MemoryStore) -> None:
    tools = make_tools(store)
    search = retriever("embed, {hybrid: {terms_weight: 0.0, keywords_weight: 9}}", tools).retrieve
    by_words = await search("gateway port", COLLECTION, CALLER)
    by_meaning = await search("what gateway port?", COLLECTION, CALLER)
    assert by_words.passages[0].document_id == "wordy"
    assert by_meaning.passages[0].document_id == "near"
    assert by_words.steps[1].detail.startswith("words count 9; 2 found, 2 kept")
