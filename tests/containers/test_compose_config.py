"""`docker compose config` for profiles and overlays, alone and together, with no .env."""

import itertools
import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from click.testing import CliRunner

from services.engines.commands.recipe import recipe
from tests.compose.files import ENGINE_PROFILES, FOLDER, OTHER_PROFILES, OVERLAYS, core, everything

pytestmark = pytest.mark.containers


@pytest.fixture
def config(engine):
    """A function that renders the files with profiles, overlays and variables."""
    kept = ("PATH", "HOME", "DOCKER_CONFIG", "DOCKER_HOST")
    environment = {name: value for name, value in engine.environment.items() if name in kept}

    def render(*profiles, overlays=(), options=("--format", "json"), **variables):
        files = [word for name in ("compose", *overlays) for word in ("--file", str(FOLDER / f"{name}.yaml"))]
        chosen = [word for profile in profiles for word in ("--profile", profile)]
        done = subprocess.run(
            ["docker", "compose", "--env-file", "/dev/null", *files, *chosen, "config", *options],
            env={**environment, **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{profiles} {overlays}: {done.stderr}"
        return json.loads(done.stdout) if "json" in options else done.stdout

    return render


def test_the_core_renders_without_an_env_file(config):
    document = config()
    assert document["services"].keys() == {name for name, service in core().items() if "profiles" not in service}
    assert document["name"] == "sparkstack"


@pytest.mark.parametrize("profile", [*ENGINE_PROFILES, *OTHER_PROFILES])
def test_each_profile_renders_and_brings_its_services(config, profile):
    found = config(profile)["services"].keys()
    services = everything()
    assert found == {n for n, s in services.items() if "profiles" not in s or profile in s["profiles"]}


@pytest.mark.timeout(600)
def test_any_two_profiles_render_together_and_so_do_all(config):
    """What does not render is a service that needs one of a profile that is not chosen, so two profiles tell it.

    `tests/compose/test_profiles.py` looks at every combination there is, without asking compose.
    """
    every = (*ENGINE_PROFILES, *OTHER_PROFILES)
    combinations = [*itertools.combinations(every, 2), every]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda chosen: config(*chosen, options=("--quiet",)), combinations))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_overlay_renders(config, overlay):
    config("*", overlays=[overlay], SPARKSTACK_MODELS="/srv/models")


def test_all_overlays_render_together(config):
    document = config("*", overlays=OVERLAYS, SPARKSTACK_MODELS="/srv/models")
    rag = document["services"]["rag"]["environment"]
    assert (rag["RAG_VECTOR_STORE"], rag["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]) == (
        "qdrant",
        "http://mlflow:5000/v1/traces",
    )
    assert document["networks"]["egress"]["internal"] is True
    assert document["volumes"]["models"]["driver_opts"]["device"] == "/srv/models"
    assert {secret["target"] for secret in document["services"]["mlflow"]["secrets"]} == {
        "mlflow_backend_store_password"
    }


def test_two_stacks_on_one_machine_have_nothing_in_common(config):
    document = config("cpu", COMPOSE_PROJECT_NAME="other", GATEWAY_PORT="9000", SPARKSTACK_SECRETS="/srv/secrets")
    text = json.dumps(document)
    engine = document["services"]["llamacpp-smollm2-135m-instruct-q4_1"]
    assert engine["labels"]["sparkstack.project"] == "other"
    assert document["services"]["docker-proxy"]["environment"]["DOCKER_PROXY_PROJECT"] == "other"
    assert document["services"]["engines"]["environment"]["ENGINES_PROJECT"] == "other"
    assert "sparkstack_" not in text.replace("sparkstack_api_key", "")
    assert document["secrets"]["internal_key"]["file"] == "/srv/secrets/internal_key"
    (port,) = document["services"]["gateway"]["ports"]
    assert (port["host_ip"], port["published"]) == ("127.0.0.1", "9000")


def test_what_the_user_did_not_set_is_left_to_the_services(config):
    assert "GATEWAY_LOAD_WAIT_S" not in set_variables(config()["services"]["gateway"])
    found = set_variables(config(GATEWAY_LOAD_WAIT_S="5")["services"]["gateway"])
    assert found["GATEWAY_LOAD_WAIT_S"] == "5"


def set_variables(service):
    return {name: value for name, value in service["environment"].items() if value is not None}


def test_the_spark_renders_with_all_that_a_gpu_needs(config):
    service = config("spark", overlays=["spark"])["services"]["vllm-qwen3.6-35b-a3b-nvfp4"]
    assert service["ipc"] == "host"
    assert service["shm_size"] == str(16 << 30)
    assert service["ulimits"] == {"memlock": -1, "stack": 67108864}
    assert service["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert "--speculative-config" in service["command"]
    assert json.loads(service["command"][service["command"].index("--speculative-config") + 1])["method"] == "mtp"


def test_containers_of_own_recipes_are_laid_over_the_files(config, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARKSTACK_STATE", str(tmp_path))
    made = CliRunner().invoke(recipe, ["compose", "qwen3-8b@vllm", "smollm2"])
    (tmp_path / "own.yaml").write_text(made.stdout)
    document = config("*", overlays=[str(tmp_path / "own")])
    own, shipped = document["services"]["vllm-qwen3-8b-bf16"], config("*")["services"]["vllm-qwen3-8b-bf16"]
    assert own == shipped, "replaced, with nothing of the other's left"
    assert f"{tmp_path}/recipes" in [each["source"] for each in document["services"]["engines"]["volumes"]]


def test_two_sparks_render(engine):
    file = FOLDER / "dual-spark" / "compose.yaml"
    words = ("compose", "--file", str(file), "--profile", "head", "--profile", "worker", "config", "--quiet")
    environment = {**engine.environment, "DUAL_SPARK_HEAD": "192.0.2.1", "DUAL_SPARK_KEY": "any"}
    subprocess.run(["docker", *words], env=environment, check=True, timeout=120)
    refused = subprocess.run(["docker", *words], env=engine.environment, check=False, capture_output=True, text=True)
    assert "the address of the first Spark" in refused.stderr or "any long word" in refused.stderr
