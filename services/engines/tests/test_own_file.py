from pathlib import Path

import pytest

from services.engines.gguf import GgufError
from services.engines.own_file import id_of, recipe_of_file
from services.engines.tests.gguf_files import DEFAULT_METADATA, write
from services.engines.threads import Threads, default_threads, usable_cores


def test_a_file_is_a_recipe_under_its_own_name_with_the_facts_of_its_header(tmp_path):
    template = "{% if tools %}{{ tools }}{% endif %}{{ messages }}"
    path = write(tmp_path / "My Model.Q4_K_M.gguf", {**DEFAULT_METADATA, "tokenizer.chat_template": template})
    recipe = recipe_of_file(path)
    assert recipe.id == "my-model-q4_k_m"
    assert recipe.aliases == ("gpt-4o-mini", "gpt-4o", "gpt-3.5-turbo")
    assert recipe.capabilities == ("chat", "completion", "tools")
    assert (recipe.parameters, recipe.quantization, recipe.family, recipe.licence) == (104, "Q4_0", "llama", "mit")
    assert recipe.source.path == path
    assert recipe.memory.weight_bytes == path.stat().st_size
    assert recipe.engines["llamacpp"].context_tokens == 2048, "no more than the model was trained for"


def test_a_path_may_be_relative_or_begin_at_home(tmp_path, monkeypatch):
    path = write(tmp_path / "m.gguf")
    monkeypatch.chdir(tmp_path)
    assert recipe_of_file(Path("m.gguf")).source.path == path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert recipe_of_file(Path("~/m.gguf")).source.path == path


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"general.architecture": "clip"}, "projector"),
        ({"general.type": "adapter"}, "of the type 'adapter'"),
        ({"general.architecture": "bert", "bert.pooling_type": 1}, "embedding model"),
    ],
)
def test_a_file_that_cannot_chat_is_refused(tmp_path, changes, told):
    path = write(tmp_path / "other.gguf", {**DEFAULT_METADATA, **changes})
    with pytest.raises(GgufError, match=told):
        recipe_of_file(path)


def test_a_vocabulary_without_weights_is_refused(tmp_path):
    with pytest.raises(GgufError, match="no weights"):
        recipe_of_file(write(tmp_path / "vocab.gguf", tensors=()))


@pytest.mark.parametrize(
    ("name", "model_id"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct-q4_1"),
        ("Qwen3.6-35B-A3B.IQ4_XS.GGUF", "qwen3.6-35b-a3b-iq4_xs"),
        ("gemma-3.bf16.gguf", "gemma-3-bf16"),
        ("model.gguf", "model"),
        ("é (1).gguf", "1"),
        ("….gguf", "model"),
    ],
)
def test_ids_of_files(name, model_id):
    assert id_of(Path(name)) == model_id


@pytest.mark.parametrize(("cores", "threads"), [(1, (1, 1)), (2, (1, 2)), (8, (4, 8)), (64, (16, 64))])
def test_threads_follow_the_cores(cores, threads):
    assert default_threads(cores) == Threads(*threads)


def test_a_containers_quota_counts(tmp_path):
    limit = tmp_path / "cpu.max"
    everything = usable_cores(tmp_path / "nothing")
    limit.write_text("100000 100000\n")
    assert usable_cores(limit) == 1
    limit.write_text("50000 100000\n")
    assert usable_cores(limit) == 1
    limit.write_text("max 100000\n")
    assert usable_cores(limit) == everything
