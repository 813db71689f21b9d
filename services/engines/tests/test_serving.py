from pathlib import Path

import pytest

from services.engines.gguf import GgufError
from services.engines.serving import ServingError, id_of, resolve
from services.engines.tests.gguf_files import DEFAULT_METADATA, write
from services.engines.threads import Threads, default_threads, usable_cores


def test_nothing_named_serves_the_default_recipe():
    served = resolve("", {})
    assert served.id == "smollm2-135m-instruct-q4_1"
    assert (served.slots, served.context_tokens) == (4, 4096)
    assert served.facts["context_tokens"] == 4096, "what a request may have, not what the model was trained for"
    assert served.facts["aliases"] == ["smollm2", "gpt-4o-mini", "gpt-4o", "gpt-3.5-turbo"]
    assert served.facts["digest"] == f"sha256:{served.sha256}"
    assert served.facts["size_bytes"] == 98_362_432


def test_a_file_is_served_under_its_own_name_with_the_facts_of_its_header(tmp_path):
    template = "{% if tools %}{{ tools }}{% endif %}{{ messages }}"
    path = write(tmp_path / "My Model.Q4_K_M.gguf", {**DEFAULT_METADATA, "tokenizer.chat_template": template})
    served = resolve(str(path), {})
    assert served.id == "my-model-q4_k_m"
    assert served.sha256 is None
    assert served.context_tokens == 2048, "no more than the model was trained for"
    assert served.facts == {
        "id": "my-model-q4_k_m", "aliases": ["gpt-4o-mini", "gpt-4o", "gpt-3.5-turbo"],
        "capabilities": ["chat", "completion", "tools"], "parameters": 104, "quantization": "Q4_0",
        "family": "llama", "licence": "mit", "digest": None, "context_tokens": 2048,
        "size_bytes": path.stat().st_size, "format": "gguf",
    }  # fmt: skip


def test_variables_win_over_the_recipe():
    variables = {"LLAMACPP_SLOTS": "2", "LLAMACPP_CONTEXT": "8192", "LLAMACPP_THREADS": "3"}
    served = resolve("", {**variables, "LLAMACPP_THREADS_BATCH": ""})
    assert (served.slots, served.context_tokens, served.threads.decode) == (2, 8192, 3)
    assert served.threads.batch == default_threads().batch
    arguments = served.arguments(8081)
    assert arguments[arguments.index("--port") + 1] == "8081"
    assert arguments[arguments.index("--context") + 1] == "8192"
    assert arguments[arguments.index("--temperature") + 1] == "0.2"


def test_options_that_are_not_set_are_left_to_the_engine(tmp_path):
    assert "--temperature" not in resolve(str(write(tmp_path / "m.gguf")), {}).arguments(8080)


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"LLAMACPP_SLOTS": "many"}, "LLAMACPP_SLOTS=many: it must be a whole number of 1 or more"),
        ({"LLAMACPP_SLOTS": "0"}, "LLAMACPP_SLOTS=0"),
        ({"LLAMACPP_CONTEXT": "100"}, "256 or more"),
        ({"LLAMACPP_CONTEXT": "9000"}, "trained for 8192"),
    ],
)
def test_a_wrong_variable_is_named(variables, told):
    with pytest.raises(ServingError, match=told):
        resolve("", variables)


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
        resolve(str(path), {})


def test_a_vocabulary_without_weights_is_refused(tmp_path):
    with pytest.raises(GgufError, match="no weights"):
        resolve(str(write(tmp_path / "vocab.gguf", tensors=())), {})


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
