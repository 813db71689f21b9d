"""engines.yaml is what the recipes give; what compose makes of it is what the engines service expects."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from compose import engines as generator
from services import __version__
from services.engines.files.store import ModelStore
from services.engines.loading.containers import ContainerLauncher, instance_name
from services.engines.offers import Offer
from services.engines.recipes import load_recipes
from services.engines.rendering import PORTS, model_in_container, render, targets
from services.engines.rendering.compose import SPARK_IMAGE, compose_engine, compose_text
from services.engines.runtimes.docker import differences
from tests.compose.files import engines, interpolated, read

RECIPES = load_recipes()
PAIRS = [(recipe, engine) for recipe in RECIPES for engine in recipe.engines if "compose" in targets(recipe, engine)]
EACH = pytest.mark.parametrize(("recipe", "engine"), PAIRS, ids=[instance_name(e, r) for r, e in PAIRS])


def test_the_files_are_what_the_recipes_give():
    for path, text in generator.rendered().items():
        assert path.read_text(encoding="utf-8") == text, "run: python -m compose.engines"
    there = set((generator.FOLDER / "engines").glob("*.yaml"))
    assert there == generator.rendered().keys() - {generator.TARGET, generator.DUAL_SPARK}


def test_every_recipe_with_an_image_has_a_container():
    assert engines().keys() == {instance_name(engine, recipe) for recipe, engine in PAIRS}


@EACH
def test_the_container_is_rendered_as_the_recipe_says(recipe, engine):
    service = engines()[instance_name(engine, recipe)]
    rendered = render(recipe, engine, "compose", port=PORTS[engine], model=model_in_container(recipe))
    assert tuple(service["command"]) == rendered.command
    assert rendered.environment.items() <= service["environment"].items()
    assert service.get("ulimits", {}) == rendered.ulimits
    assert tuple(service.get("cap_add", ())) == rendered.cap_add
    assert service.get("shm_size", 0) == rendered.shm_bytes
    assert (service.get("ipc") == "host") is rendered.ipc_host
    assert ("deploy" in service) is rendered.gpu
    assert service["healthcheck"]["start_period"] == f"{rendered.start_period_s}s"


@EACH
def test_the_engines_service_finds_nothing_different_in_it(recipe, engine, tmp_path, monkeypatch):
    """What the service would start, beside what Docker would show of the container that compose makes."""
    monkeypatch.setattr("services.engines.loading.containers.place", lambda *_: None)
    image = interpolated("${LLAMACPP_CPU_IMAGE:-sparkstack/llamacpp:${SPARKSTACK_VERSION:-0.1.0}}")
    launcher = ContainerLauncher(ModelStore(tmp_path), tmp_path, (), {"LLAMACPP_CPU_IMAGE": image})
    spec = launcher.launch(Offer(recipe.id, recipe, engine, recipe.engines[engine])).spec
    service = engines()[spec.name]
    assert differences(spec, inspected(service)) == []
    other = dataclasses.replace(spec, command=(*spec.command, "--more"))
    assert differences(other, inspected(service)) == ["command"]


def inspected(service):
    """Return what Docker shows of a container that compose has made of a service."""
    targets_ = [volume["target"] for volume in service["volumes"]]
    targets_ += [config["target"] for config in service.get("configs", ())]
    return {
        "Config": {
            "Image": service["image"],
            "Cmd": service["command"],
            "Env": [f"{name}={value}" for name, value in service["environment"].items()],
            "Labels": service["labels"],
        },
        "HostConfig": {
            "RestartPolicy": {"Name": service["restart"]},
            "ShmSize": service.get("shm_size", 64 << 20),
            "IpcMode": service.get("ipc", "private"),
            "Ulimits": [{"Name": k, "Soft": v, "Hard": v} for k, v in service.get("ulimits", {}).items()],
            "CapAdd": [f"CAP_{name}" for name in service.get("cap_add", ())] or None,
            "DeviceRequests": service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices"),
        },
        "Mounts": [{"Destination": target} for target in targets_],
    }


@EACH
def test_it_is_labelled_and_has_its_profiles(recipe, engine):
    name = instance_name(engine, recipe)
    service = engines()[name]
    assert service["labels"]["sparkstack.project"] == "sparkstack"
    assert service["labels"]["sparkstack.instance"] == name
    assert service["profiles"][-1] == name
    assert service["profiles"][:-1], "a profile that brings it with others of its kind"


def test_spark_brings_one_image_of_vllm_and_the_small_model():
    spark = {name: service for name, service in engines().items() if "spark" in service["profiles"]}
    assert {service["image"] for service in spark.values()} == {SPARK_IMAGE, f"sparkstack/llamacpp:{__version__}"}
    assert {"vllm-qwen3.6-35b-a3b-nvfp4", "llamacpp-smollm2-135m-instruct-q4_1"} <= spark.keys()


def test_cpu_brings_no_image_of_others():
    images = {service["image"] for service in engines().values() if "cpu" in service["profiles"]}
    assert images == {f"sparkstack/llamacpp:{__version__}"}


def test_the_gpu_is_reserved_as_compose_wants_it():
    for name, service in engines().items():
        if not name.startswith("llamacpp-smollm2"):
            assert service["deploy"]["resources"]["reservations"]["devices"] == [
                {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
            ]


def test_weights_are_read_where_the_engines_service_puts_them():
    for service in engines().values():
        if "HF_HUB_CACHE" in service["environment"]:
            assert service["environment"]["HF_HUB_CACHE"] == "/models/huggingface/hub"
            assert service["environment"]["HF_HUB_OFFLINE"] == "1"
            assert "/models" in [volume["target"] for volume in service["volumes"]]


def test_a_dollar_in_a_recipe_is_no_variable_of_compose():
    recipe = next(recipe for recipe in RECIPES if recipe.id == "qwen3-8b-bf16")
    arguments = recipe.engines["vllm"].model_copy(update={"environment": {"PROMPT": "${HOME} $x"}})
    made = compose_engine(recipe.model_copy(update={"engines": {"vllm": arguments}}), "vllm")
    assert made.document["environment"]["PROMPT"] == "$${HOME} $$x"
    assert interpolated(made.document["environment"]["PROMPT"]) == "${HOME} $x"


def test_nothing_but_services_stands_in_the_file_twice(tmp_path: Path):
    text = compose_text([compose_engine(recipe, engine) for recipe, engine in PAIRS])
    assert text.count("\nservices:\n") == text.count("\nvolumes:\n") == 1
    assert read("engines")["networks"] == {"engines": {"internal": True}}


def test_two_sparks_hold_one_model_together():
    document = yaml.safe_load(generator.DUAL_SPARK.read_text())
    head, worker = (document["services"][name] for name in ("head", "worker"))
    recipe = next(recipe for recipe in RECIPES if generator.DUAL_MODEL in recipe.aliases)
    model, name = model_in_container(recipe), f"{recipe.id}@dual-spark"
    rendered = render(recipe, "vllm", "compose", port=PORTS["vllm"], model=model, served_name=name)
    alone = [word for word in rendered.command if word != "0.0.0.0"]
    for rank, node in enumerate((head, worker)):
        command = node["command"]
        assert [word for word in command[: len(rendered.command)] if "DUAL_SPARK_LISTEN" not in word] == alone
        assert command[command.index("--node-rank") + 1] == str(rank)
        assert command[command.index("--tensor-parallel-size") + 1] == "2"
        assert node["image"] == rendered.image
        assert rendered.environment.items() <= node["environment"].items()
    assert worker["command"][-1] == "--headless"
    assert head["command"] == [word.replace("1", "0") if word == "1" else word for word in worker["command"][:-1]]


def test_two_sparks_listen_where_no_other_machine_reaches_them_and_want_a_key():
    document = yaml.safe_load(generator.DUAL_SPARK.read_text())
    for node in document["services"].values():
        command = node["command"]
        assert command[command.index("--host") + 1] == "${DUAL_SPARK_LISTEN:-172.17.0.1}"
        assert node["environment"]["VLLM_API_KEY"].startswith("${DUAL_SPARK_KEY:?")
