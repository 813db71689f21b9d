"""Models by torch, where its environment is installed: tiny ones, made there, go the whole way."""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PYTHON = Path(os.environ.get("EMBEDDINGS_TORCH_PYTHON") or ROOT / ".venvs" / "embeddings-torch" / "bin" / "python")

pytestmark = [
    pytest.mark.engines,
    pytest.mark.timeout(300),  # the first import reads a gigabyte from the disk
    pytest.mark.skipif(not PYTHON.exists(), reason="torch is not installed (.venvs/embeddings-torch)"),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
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
