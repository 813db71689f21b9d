"""Cross-encoders by ONNX Runtime: a tiny real one, made here, goes the whole way."""

from pathlib import Path

import numpy as np
import pytest

from services.embeddings.backends import BackendError
from services.embeddings.backends.cross_encoder import OnnxCrossEncoder, find_onnx, open_cross_encoder, sigmoid
from services.embeddings.tests.tiny_models import write_cross_encoder, write_tokenizer

QUERY = "how long does green tea steep"


@pytest.fixture
def reranker(tmp_path):
    found = open_cross_encoder(str(write_cross_encoder(tmp_path)), max_tokens=16, threads=1)
    yield found
    found.close()


def test_a_folder_with_an_onnx_file_needs_no_torch(reranker):
    assert isinstance(reranker, OnnxCrossEncoder)


def test_scores_are_the_sigmoid_of_the_networks_logit(reranker):
    scores = reranker.score(QUERY, ["green tea", "the moon", "green tea steep", "tea"])
    assert scores.dtype == np.float32
    assert scores == pytest.approx([1 / (1 + np.exp(-logit)) for logit in (1, -1, 2, 0)], abs=1e-6)


def test_a_score_does_not_depend_on_the_documents_beside_it(reranker):
    together = reranker.score(QUERY, ["tea", "water boil " * 6, "green tea steep minutes", ""])
    alone = [reranker.score(QUERY, [text])[0] for text in ("tea", "water boil " * 6, "green tea steep minutes", "")]
    assert together.tolist() == alone


def test_many_documents_are_computed_in_batches_and_keep_their_order(tmp_path):
    small = open_cross_encoder(str(write_cross_encoder(tmp_path)), max_tokens=16, batch_tokens=20)
    documents = ["green tea steep", "the moon"] * 20
    assert (small.score(QUERY, documents) > 0.5).tolist() == [True, False] * 20


def test_a_long_document_is_cut_at_its_end_and_a_long_query_to_half(reranker):
    late = "sun " * 30 + "tea"
    early = "tea " + "sun " * 30
    assert reranker.score("tea", [late, early])[0] < reranker.score("tea", [late, early])[1]
    # Eight tokens of the query stay, so that words of the document do, too.
    assert reranker.score("tea " + "moon " * 30, ["tea"])[0] == pytest.approx(0.5)
    assert reranker.score("moon " * 30 + "tea", ["tea"])[0] < 0.3


def test_no_documents_have_no_scores(reranker):
    assert reranker.score(QUERY, []).shape == (0,)


def test_a_classifier_of_several_labels_is_refused(tmp_path):
    classifier = open_cross_encoder(str(write_cross_encoder(tmp_path, labels=3)))
    with pytest.raises(BackendError, match="3 labels a pair: a reranker has one"):
        classifier.score(QUERY, ["tea", "coffee"])


def test_where_exports_put_the_network_it_is_found(tmp_path):
    assert find_onnx(tmp_path) is None
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").touch()
    assert find_onnx(tmp_path) == tmp_path / "onnx" / "model.onnx"


@pytest.mark.parametrize("content", [b"", b"no network"])
def test_a_broken_file_is_named(tmp_path: Path, content):
    write_tokenizer(tmp_path)
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(BackendError, match=r"model\.onnx can't be loaded by ONNX Runtime"):
        open_cross_encoder(str(tmp_path))


def test_a_missing_or_broken_tokenizer_is_named(tmp_path):
    write_cross_encoder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BackendError, match=r"tokenizer\.json can't be read as a tokenizer"):
        open_cross_encoder(str(tmp_path))
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(BackendError, match=r"tokenizer\.json is missing"):
        open_cross_encoder(str(tmp_path))


def test_the_sigmoid_bears_any_logit():
    logits = np.array([-1000, -1, 0, 1, 1000], dtype=np.float32)
    assert sigmoid(logits) == pytest.approx([0, 0.268941, 0.5, 0.731059, 1], abs=1e-6)
