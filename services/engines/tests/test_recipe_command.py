"""`sparkstack recipe show|render`: what a person is told of a recipe, and of how its engine is started."""

import json

import pytest
import yaml
from click.testing import CliRunner

from services.engines.commands.recipe import recipe
from services.engines.recipes import MODELS_FOLDER
from services.engines.tests.golden_files import FOLDER


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARKSTACK_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def run(state):
    return lambda *arguments: CliRunner().invoke(recipe, arguments)


def section(name, target):
    """Return what a golden file has for a target."""
    sections = (FOLDER / name).read_text(encoding="utf-8").split("== ")
    return next(text for text in sections if text.startswith(f"{target}\n")).removeprefix(f"{target}\n").rstrip("\n")


# --- show


def test_a_recipe_is_shown_as_its_file_with_its_place(run):
    place, text = run("show", "qwen3-8b").stdout.split("\n", 1)
    assert place == f"# {MODELS_FOLDER / 'qwen3-8b-bf16.yaml'}"
    assert text == (MODELS_FOLDER / "qwen3-8b-bf16.yaml").read_text(encoding="utf-8")


def test_as_json_it_has_the_defaults_too(run):
    document = json.loads(run("show", "smollm2", "--json").stdout)
    assert document["id"] == "smollm2-135m-instruct-q4_1"
    assert document["memory"]["window_layers"] == 0


def test_the_users_copy_wins(run, state):
    own = state / "recipes" / "qwen3-8b-bf16.yaml"
    own.parent.mkdir(parents=True)
    text = (MODELS_FOLDER / own.name).read_text(encoding="utf-8").replace("sequences: 8", "sequences: 3")
    own.write_text(text, encoding="utf-8")
    assert run("show", "qwen3-8b").stdout == f"# {own}\n{text}"
    assert "--max-running-requests 3" in run("render", "qwen3-8b", "--target", "compose").stdout


@pytest.mark.parametrize("verb", [("show",), ("render", "--target", "compose")])
def test_a_wrong_name_is_told_the_nearest_ones(run, verb):
    reply = run(*verb, "qwen3.6-53b")
    assert reply.exit_code == 1
    assert "there is no recipe 'qwen3.6-53b'; did you mean qwen3.6-35b" in reply.stderr
    assert "`sparkstack models --all`" in reply.stderr


# --- render


@pytest.mark.parametrize(
    ("name", "golden", "target"),
    [
        ("qwen3.6-35b", "qwen3.6-35b-a3b-nvfp4@vllm.txt", "compose"),
        ("qwen3-8b@vllm", "qwen3-8b-bf16@vllm.txt", "sagemaker"),
        ("qwen3-8b@vllm", "qwen3-8b-bf16@vllm.txt", "vertex"),
        ("llama-3.1-8b-fp4", "llama-3.1-8b-instruct-fp4@trtllm.txt", "kubernetes"),
    ],
)
def test_what_is_printed_is_what_the_renderer_says(run, name, golden, target):
    reply = run("render", name, "--target", target)
    assert reply.exit_code == 0
    assert reply.stdout.rstrip("\n") == section(golden, target)


def test_a_process_loads_the_file_that_is_here(run):
    text = run("render", "smollm2", "--target", "process", "--port", "8085", "--context", "512").stdout
    assert "SmolLM2-135M-Instruct.Q4_1.gguf\n" in text
    assert "  --port 8085\n" in text
    assert "  --context 512\n" in text


def test_as_json_it_has_image_command_environment_and_files(run):
    document = json.loads(run("render", "llama-3.1-8b-fp4", "--target", "compose", "--json").stdout)
    assert document["image"].startswith("nvcr.io/")
    assert document["command"][0] == "trtllm-serve"
    assert document["environment"]["HF_HUB_OFFLINE"] == "1"
    assert all(isinstance(yaml.safe_load(text), dict) for text in document["files"].values())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("qwen3-8b", "--target", "sagemaker"), "can't be rendered for sagemaker"),
        (("qwen3-8b@trtllm", "--target", "compose"), "no recipe for the engine 'trtllm'; it has: sglang, vllm"),
        (("qwen3-8b", "--target", "compose", "--context", "99999999"), "ask for that many or fewer"),
        (("qwen3-8b@vllm", "--target", "vertex", "--port", "9000"), "vertex calls port 8080"),
        (("smollm2-bf16", "--target", "process"), "sparkstack pull smollm2-135m-instruct-bf16"),
    ],
)
def test_what_cannot_be_rendered_is_a_sentence_and_status_1(run, arguments, told):
    reply = run("render", *arguments)
    assert reply.exit_code == 1
    assert told in reply.stderr
    assert reply.stdout == ""


# --- compose


def test_an_overlay_has_the_containers_of_own_recipes_and_shows_the_service_their_folder(run, state):
    own = state / "recipes" / "mine.yaml"
    own.parent.mkdir(parents=True)
    text = (MODELS_FOLDER / "qwen3-8b-bf16.yaml").read_text(encoding="utf-8")
    own.write_text(text.replace("id: qwen3-8b-bf16", "id: mine").replace("aliases: [qwen3-8b]", "aliases: []"))
    text = run("compose", "mine@vllm", "smollm2").stdout
    assert "  llamacpp-smollm2-135m-instruct-q4_1: !override\n" in text, "in place of the stack's, where it has one"
    document = yaml.safe_load(text.replace(" !override", ""))
    assert document["services"].keys() == {"engines", "vllm-mine", "llamacpp-smollm2-135m-instruct-q4_1"}
    (mount,) = document["services"]["engines"]["volumes"]
    assert (mount["source"], mount["target"]) == (str(own.parent), "/var/lib/sparkstack/recipes")
    assert document["services"]["vllm-mine"]["labels"]["sparkstack.instance"] == "vllm-mine"
    assert document["services"]["vllm-mine"]["networks"] == ["engines"]


def test_an_engine_that_takes_a_file_is_sent_to_the_generator(run):
    reply = run("compose", "llama-3.1-8b-fp4@trtllm")
    assert (reply.exit_code, "python -m compose.engines" in reply.stderr) == (1, True)


def test_an_engine_without_an_image_has_no_container(run):
    reply = run("compose", "smollm2-bf16@vllm")
    assert (reply.exit_code, "image is missing" in reply.stderr) == (1, True)
