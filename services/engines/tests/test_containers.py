"""Engines as containers: what is offered, what is compared with the container, where the model is put."""

import os

import pytest

from services.engines.files.store import ModelStore
from services.engines.loading.containers import ContainerLauncher, instance_name, place
from services.engines.recipes import FileSource, HubSource, RecipeError, find_recipe, load_recipes
from services.engines.rendering import model_in_container

RECIPES = load_recipes()
COMMIT = "a" * 40


def recipe(name):
    return find_recipe(name, RECIPES)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def store(tmp_path, folder):
    """The hub's cache is in the folder of models, as in the containers."""
    return ModelStore(tmp_path / "state", hub_cache=folder / "huggingface" / "hub", ollama_url="")


def downloaded(store, wanted, *names):
    """Put files of a repository into the cache, as the hub's library would."""
    repository = store.repository(wanted.source)
    (repository.folder / "refs").mkdir(parents=True)
    (repository.folder / "refs" / wanted.source.revision).write_text(COMMIT)
    (repository.folder / "blobs").mkdir()
    for number, name in enumerate(names):
        blob = repository.folder / "blobs" / str(number)
        blob.write_bytes(b"GGUF" + name.encode())
        link = repository.snapshot(COMMIT) / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))


def launcher(store, folder, *names, **variables):
    return ContainerLauncher(store, folder, names, variables)


def test_only_what_has_a_container_is_offered(store, folder):
    found = launcher(store, folder, "llamacpp-smollm2-135m-instruct-q4_1", "vllm-of-nobody").offers(RECIPES)
    assert [(offer.id, offer.engine) for offer in found] == [("smollm2-135m-instruct-q4_1", "llamacpp")]


def test_a_second_engine_of_a_recipe_has_a_name_of_its_own(store, folder):
    both = launcher(store, folder, "sglang-qwen3-8b-bf16", "vllm-qwen3-8b-bf16")
    assert [offer.id for offer in both.offers(RECIPES)] == ["qwen3-8b-bf16", "qwen3-8b-bf16@vllm"]
    one = launcher(store, folder, "vllm-qwen3-8b-bf16")
    assert [offer.id for offer in one.offers(RECIPES)] == ["qwen3-8b-bf16"]


def test_the_default_model_is_launched_from_its_package(store, folder):
    start = launcher(store, folder, "llamacpp-smollm2-135m-instruct-q4_1")
    (offer,) = start.offers(RECIPES)
    launch = start.launch(offer)
    assert launch.url == "http://llamacpp-smollm2-135m-instruct-q4_1:8080"
    assert (launch.spec.name, launch.api_key, launch.upstream_id) == (
        "llamacpp-smollm2-135m-instruct-q4_1",
        "",
        offer.recipe.id,
    )
    assert launch.spec.image == offer.arguments.image
    assert launch.spec.volumes == {"/models": "models"}
    copy = folder / "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert copy.stat().st_size == offer.recipe.source.size_bytes
    assert copy.stat().st_mode & 0o777 == 0o644, "a container's user is another one"
    assert [path.name for path in folder.iterdir()] == [copy.name]


def test_a_copy_that_is_there_is_not_made_again(store, folder):
    start = launcher(store, folder, "llamacpp-smollm2-135m-instruct-q4_1")
    (offer,) = start.offers(RECIPES)
    first = start.launch(offer)
    inode = (folder / "SmolLM2-135M-Instruct.Q4_1.gguf").stat().st_ino
    again = start.launch(offer, port=8080, api_key="")
    assert (folder / "SmolLM2-135M-Instruct.Q4_1.gguf").stat().st_ino == inode
    assert again == first


def test_the_image_of_llamacpp_on_a_cpu_can_be_another(store, folder):
    start = launcher(
        store,
        folder,
        "llamacpp-smollm2-135m-instruct-q4_1",
        "llamacpp-gpt-oss-20b-mxfp4",
        LLAMACPP_CPU_IMAGE="sparkstack/llamacpp:0.1.0",
    )
    downloaded(store, recipe("gpt-oss-20b"), "gpt-oss-20b-mxfp4.gguf")
    images = {offer.id: start.launch(offer).spec.image for offer in start.offers(RECIPES)}
    assert images == {
        "smollm2-135m-instruct-q4_1": "sparkstack/llamacpp:0.1.0",
        "gpt-oss-20b-mxfp4": recipe("gpt-oss-20b").engines["llamacpp"].image,
    }


def test_a_file_of_the_hub_is_linked_within_the_folder(store, folder, tmp_path):
    wanted = recipe("gpt-oss-20b")
    downloaded(store, wanted, "gpt-oss-20b-mxfp4.gguf")
    place(wanted, store, folder)
    link = folder / "gpt-oss-20b-mxfp4.gguf"
    assert link.read_bytes().startswith(b"GGUF")
    folder.rename(tmp_path / "elsewhere")  # as the container sees it
    assert (tmp_path / "elsewhere" / link.name).read_bytes().startswith(b"GGUF")


def test_a_link_follows_a_new_commit(store, folder):
    wanted = recipe("gpt-oss-20b")
    (folder / "gpt-oss-20b-mxfp4.gguf").symlink_to("gone")
    downloaded(store, wanted, "gpt-oss-20b-mxfp4.gguf")
    place(wanted, store, folder)
    assert (folder / "gpt-oss-20b-mxfp4.gguf").exists()


def test_all_parts_of_a_file_are_linked(store, folder):
    wanted = recipe("gpt-oss-120b")
    names = [f"gpt-oss-120b-mxfp4-0000{part}-of-00003.gguf" for part in (1, 2, 3)]
    downloaded(store, wanted, *names)
    place(wanted, store, folder)
    assert sorted(path.name for path in folder.glob("*.gguf")) == names
    assert f"/models/{names[0]}" == model_in_container(wanted)


def test_a_repository_is_found_in_the_cache(store, folder):
    wanted = recipe("qwen3.6-35b")
    downloaded(store, wanted, "config.json", "model.safetensors")
    start = launcher(store, folder, instance_name("vllm", wanted))
    (offer,) = start.offers([wanted])
    launch = start.launch(offer)
    assert launch.spec.command[0] == "nvidia/Qwen3.6-35B-A3B-NVFP4"
    assert launch.spec.gpu
    assert launch.spec.ulimits == {"memlock": -1, "stack": 67108864}
    assert [path.name for path in folder.iterdir()] == ["huggingface"]


def test_what_is_not_here_says_how_to_get_it(store, folder):
    start = launcher(store, folder, "vllm-qwen3.6-35b-a3b-nvfp4")
    (offer,) = start.offers(RECIPES)
    with pytest.raises(RecipeError, match=r"sparkstack pull qwen3\.6-35b-a3b-nvfp4"):
        start.launch(offer)


def test_a_cache_outside_the_folder_is_told(tmp_path, folder):
    store = ModelStore(tmp_path / "state", hub_cache=tmp_path / "cache", ollama_url="")
    wanted = recipe("gpt-oss-20b")
    downloaded(store, wanted, "gpt-oss-20b-mxfp4.gguf")
    with pytest.raises(RecipeError, match="where its container does not see it; put it into the folder of models"):
        place(wanted, store, folder)


@pytest.mark.parametrize(("name", "file"), [("gpt-oss-20b", "gpt-oss-20b-mxfp4.gguf"), ("qwen3-8b", "m.safetensors")])
def test_what_the_container_cannot_read_is_told_before_it_starts(store, folder, name, file):
    wanted = recipe(name)
    downloaded(store, wanted, file)
    (store.repository(wanted.source).folder / "blobs" / "0").chmod(0o600)
    with pytest.raises(RecipeError, match=r"can't be read by its container: chmod -R a\+rX /"):
        place(wanted, store, folder)


def test_a_file_of_the_users_own_is_linked_by_the_recipes_id(store, folder):
    (folder / "mine").mkdir()
    (folder / "mine" / "any.gguf").write_bytes(b"GGUF")
    own = recipe("gpt-oss-20b").model_copy(
        update={"id": "mine", "source": FileSource(kind="file", path=folder / "mine" / "any.gguf")}
    )
    other = own.model_copy(update={"id": "other"})
    place(other, store, folder)
    assert (folder / "other").read_bytes() == b"GGUF"
    assert isinstance(recipe("gpt-oss-20b").source, HubSource)


def test_a_folder_that_cannot_be_written_names_the_user(store, tmp_path):
    file = tmp_path / "no-folder"
    file.write_text("")
    with pytest.raises(RecipeError, match=r"can't be put into .*no-folder: .*user of the engines service \(10001\)"):
        place(recipe("smollm2"), store, file)


def test_ollama_names_its_model_itself(store, folder):
    start = launcher(store, folder, "ollama-qwq-32b-q4_k_m")
    (offer,) = start.offers(RECIPES)
    launch = start.launch(offer)
    assert (launch.upstream_id, launch.url) == (offer.recipe.source.model, "http://ollama-qwq-32b-q4_k_m:11434")


def test_another_rendering_is_another_digest(store, folder):
    start = launcher(store, folder, "ollama-qwq-32b-q4_k_m")
    (offer,) = start.offers(RECIPES)
    changed = offer.arguments.model_copy(update={"context_tokens": 4096})
    other = offer.recipe.model_copy(update={"engines": {"ollama": changed}})
    (again,) = start.offers([other])
    assert start.launch(again).digest != start.launch(offer).digest
