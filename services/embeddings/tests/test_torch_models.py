"""Models by torch, where its environment is installed: tiny ones, made there, go the whole way."""

import json
import os
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.testkit.server import run_process

ROOT = Path(__file__).resolve().parents[3]
PYTHON = Path(os.environ.get("EMBEDDINGS_TORCH_PYTHON") or ROOT / ".venvs" / "embeddings-torch" / "bin" / "python")

pytestmark = [
    pytest.mark.engines,
    pytest.mark.timeout(300),  # the first import reads a gigabyte from the disk
    pytest.mark.skipif(not PYTHON.exists(), reason="torch is not installed (.venvs/embeddings-torch)"),
]


def card(name, capability, backend, **more):
    fixed = {"family": "tiny", "context_tokens": 16, "licence": "Apache-2.0", "origin": "made by this test"}
    hub = {"repository": "none/tiny", "revision": "main"}
    return {"id": name, "capability": capability, "backend": backend, "hub": hub, **fixed, **more}


CARDS = [card("embeddings", "embeddings", "torch", dimensions=32), card("reranker", "rerank", "cross_encoder")]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return the folder that the models are made in: `<state>/embeddings`."""
    folder = tmp_path_factory.mktemp("state") / "embeddings"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def found(models):
    folder = models
    done = subprocess.run(
        [str(PYTHON), "-m", "services.embeddings.tests.torch_models", str(folder)],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.partition("FOUND")[2])


def test_vectors_have_norm_one_in_float32_whatever_the_model_computes_in(found):
    vectors = found["embeddings"]
    assert vectors["shape"] == [4, 32]
    for each in (vectors, vectors["half"]):
        assert each["type"] == "float32"
        assert each["norms"] == pytest.approx([1] * 4, abs=1e-5)
    assert vectors["half"]["cosines"] == pytest.approx([1, 1], abs=0.02)
    assert vectors["none"] == [0, 32]


def test_a_vector_does_not_depend_on_the_texts_beside_it(found):
    assert found["embeddings"]["alone"] < 1e-5


def test_the_lower_of_the_models_limit_and_ours_holds(found):
    assert found["embeddings"]["max_tokens"] == [64, 16]
    assert found["cross_encoder"]["max_tokens"] == 16


def test_a_folder_without_an_onnx_file_goes_to_torch_and_scores_are_the_sigmoid_of_the_logit(found):
    reranked = found["cross_encoder"]
    assert (reranked["kind"], reranked["type"]) == ("TorchCrossEncoder", "float32")
    assert reranked["scores"] == pytest.approx(reranked["expected"], abs=1e-4)
    assert max(reranked["scores"]) - min(reranked["scores"]) > 0.001
    assert reranked["none"] == [0]


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("no_folder", "the model's folder /nowhere/model does not exist"),
        ("not_downloaded", "`hf download BAAI/bge-large-en-v1.5`"),
        ("empty_folder", "get its files again"),
        ("classifier", "3 labels a pair: a reranker has one"),
        ("no_cuda", "EMBEDDINGS_DEVICE=cpu"),
    ],
)
def test_what_is_not_there_is_named_with_the_next_step(found, case, words):
    if case == "no_cuda" and case not in found["errors"]:
        pytest.skip("there is CUDA here")
    assert words in found["errors"][case]


async def test_the_service_runs_in_that_environment_with_models_of_ones_own(found, models):
    catalogue = models / "models.yaml"
    catalogue.write_text(json.dumps(CARDS))
    variables = {
        "EMBEDDINGS_CATALOGUE": str(catalogue),
        "EMBEDDINGS_MODELS": "embeddings,reranker",
        "EMBEDDINGS_DEVICE": "cpu",
        "SPARKSTACK_STATE": str(models.parent),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
    }
    command = [str(PYTHON), "-m", "services.cli.main", "embeddings", "--port", "0"]
    async with (
        run_process(command, ready=r"embeddings: (http://\S+)", env=variables, timeout_s=120) as child,
        httpx.AsyncClient(base_url=child.match[1], timeout=120) as client,
    ):
        listed = (await client.get("/v1/models")).json()["data"]
        assert [(each["id"], each["sparkstack"]["capabilities"]) for each in listed] == [
            ("embeddings", ["embeddings"]),
            ("reranker", ["rerank"]),
        ]
        answer = await client.post("/v1/embeddings", json={"model": "embeddings", "input": ["green tea", "moon"]})
        vectors = [each["embedding"] for each in answer.json()["data"]]
        assert [sum(value * value for value in vector) for vector in vectors] == pytest.approx([1, 1], abs=1e-4)
        body = {"model": "reranker", "query": "green tea", "documents": ["green tea", "the moon"]}
        scores = {
            each["index"]: each["relevance_score"]
            for each in (await client.post("/v1/rerank", json=body)).json()["results"]
        }
        assert scores[0] == pytest.approx(found["cross_encoder"]["expected"][0], abs=1e-4)
