"""The store: where each kind of model is, and whether it is whole."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.engines.files.convert import CARD
from services.engines.files.hub_cache import cache_folder
from services.engines.files.store import ModelStore
from services.engines.recipes import Recipe, RecipeError, find_recipe, load_recipes

COMMIT = "a" * 40


def recipe(form: str = "safetensors", **source: Any) -> Recipe:
    """Return a recipe with a source."""
    given = {"kind": "hub", "repository": "acme/tiny", **source}
    memory = {"weight_bytes": 7, "layers": 1, "attention_layers": 1, "kv_heads": 1, "head_dim": 1, "source": "test"}
    return Recipe.model_validate(
        {
            "id": "tiny",
            "name": "Tiny",
            "source": given,
            "licence": "MIT",
            "family": "llama",
            "format": form,
            "parameters": 1,
            "quantization": "BF16",
            "capabilities": ["chat"],
            "context_tokens": 2048,
            "memory": memory,
            "engines": {"llamacpp": {"context_tokens": 512}},
        }
    )


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "state", hub_cache=tmp_path / "hub", variables={})


def put(store: ModelStore, files: dict[str, bytes], *, tree: dict[str, int] | None = None, ref: str = "main") -> Path:
    """Put files into the cache, as the hub's library lays them out; `tree` are the sizes that the hub lists."""
    folder = store.hub_cache / "models--acme--tiny"
    snapshot = folder / "snapshots" / COMMIT
    for name, data in files.items():
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).write_bytes(data)
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / ref).write_text(COMMIT)
    if tree is not None:
        (folder / "trees").mkdir(exist_ok=True)
        listed = {name: {"size": size, "blob_id": "b" * 40} for name, size in tree.items()}
        (folder / "trees" / f"{COMMIT}.json").write_text(json.dumps({"format_version": 1, "files": listed}))
    return snapshot


def test_the_default_model_is_here_with_nothing_pulled(store: ModelStore) -> None:
    default = find_recipe("smollm2", load_recipes())
    assert store.is_present(default)
    assert store.path_of(default).name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert store.size_of(default) == store.path_of(default).stat().st_size


def test_a_model_of_the_hub_is_here_when_every_listed_file_has_its_size(store: ModelStore) -> None:
    sizes = {"config.json": 2, "model.safetensors": 7}
    snapshot = put(store, {"config.json": b"{}"}, tree=sizes)
    assert not store.is_present(recipe())
    put(store, {"model.safetensors": b"123456"}, tree=sizes)
    assert not store.is_present(recipe())
    put(store, {"model.safetensors": b"1234567"}, tree=sizes)
    assert store.path_of(recipe()) == snapshot
    assert store.size_of(recipe()) == 9


def test_what_is_missing_names_the_command_that_gets_it(store: ModelStore) -> None:
    with pytest.raises(RecipeError, match="tiny is not here yet; get it with `sparkstack pull tiny`"):
        store.path_of(recipe())
    assert store.size_of(recipe()) == 7
    assert store.size_of(recipe(size_bytes=99)) == 99


def test_files_that_the_recipe_does_not_name_need_not_be_here(store: ModelStore) -> None:
    put(store, {"model.gguf": b"1234567"}, tree={"model.gguf": 7, "original/huge.bin": 10**12})
    assert store.is_present(recipe(files=("*.gguf",)))
    assert not store.is_present(recipe())


@pytest.mark.parametrize(
    ("files", "whole"),
    [
        ({"config.json": b"{}", "model.safetensors": b"1"}, True),
        ({"config.json": b"{}"}, False),
        ({"model-00001-of-00002.safetensors": b"1", "model-00002-of-00002.safetensors": b"2"}, True),
        ({"model-00001-of-00002.safetensors": b"1"}, False),
        ({"a-00001-of-00002.gguf": b"1", "b.safetensors": b"1"}, False),
    ],
)
def test_without_a_list_weights_and_all_their_parts_must_be_here(
    store: ModelStore, files: dict[str, bytes], whole: bool
) -> None:
    put(store, files)
    assert store.is_present(recipe()) is whole


def test_a_gguf_model_is_its_file_and_of_parts_the_first(store: ModelStore) -> None:
    snapshot = put(
        store, {"mmproj-F16.gguf": b"1", "model-00001-of-00002.gguf": b"1", "model-00002-of-00002.gguf": b"2"}
    )
    assert store.path_of(recipe("gguf")) == snapshot / "model-00001-of-00002.gguf"


def test_two_gguf_models_of_which_the_recipe_picks_none_are_an_error(store: ModelStore) -> None:
    put(store, {"a-Q4.gguf": b"1", "a-Q8.gguf": b"1"})
    with pytest.raises(RecipeError, match=r"a-Q4\.gguf, a-Q8\.gguf; name the one in the recipe's source\.files"):
        store.path_of(recipe("gguf"))


def test_a_converted_model_is_here_when_its_card_says_so(store: ModelStore) -> None:
    converted = Recipe.model_validate(
        {**recipe().model_dump(), "source": {"kind": "converted", "recipe": "smollm2-135m-instruct-q4_1"}}
    )
    with pytest.raises(RecipeError, match="not converted yet; make it with `sparkstack pull tiny`"):
        store.path_of(converted)
    folder = store.state / "models" / "tiny"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"123")
    assert not store.is_present(converted)
    (folder / CARD).write_text(json.dumps({"files": {"model.safetensors": 3}}))
    assert store.path_of(converted) == folder
    (folder / "model.safetensors").write_bytes(b"12")
    assert not store.is_present(converted)


def test_a_file_of_the_users_own_is_where_it_is(store: ModelStore, tmp_path: Path) -> None:
    own = Recipe.model_validate({**recipe().model_dump(), "source": {"kind": "file", "path": tmp_path / "my.gguf"}})
    with pytest.raises(RecipeError, match=r"my\.gguf, the file of tiny, does not exist"):
        store.path_of(own)
    (tmp_path / "my.gguf").write_bytes(b"12345")
    assert store.path_of(own) == tmp_path / "my.gguf"
    assert store.size_of(own) == 5


def test_without_an_ollama_its_models_are_not_here(store: ModelStore) -> None:
    there = Recipe.model_validate({**recipe().model_dump(), "source": {"kind": "ollama", "model": "qwen3:8b"}})
    assert store.presence([there, recipe()]) == {"tiny": False}
    with pytest.raises(RecipeError, match="lives inside Ollama as qwen3:8b"):
        store.path_of(there)


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"HF_HUB_CACHE": "/a"}, "/a"),
        ({"HF_HOME": "/b"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
        ({}, "~/.cache/huggingface/hub"),
    ],
)
def test_the_cache_is_where_the_hubs_library_has_it(variables: dict[str, str], folder: str) -> None:
    assert cache_folder(variables) == Path(folder).expanduser()
