"""What can't work ends with a sentence that says what to do."""

import os
import re

import pytest

from services.engines.files.packaged import locate
from services.engines.recipes import find_recipe, load_recipes
from tests.testkit.ports import free_listener

pytestmark = pytest.mark.slow


def test_a_taken_port_is_told_with_its_holder_and_the_variable(new_stack):
    with free_listener() as listener:
        port = listener.getsockname()[1]
        said = new_stack(GATEWAY_PORT=str(port)).run("up", code=1)
        assert f"port {port} is taken" in said
        assert f"(pid {os.getpid()}" in said
        assert "GATEWAY_PORT" in said


@pytest.mark.only("embedded")
def test_another_stacks_port_is_told_with_that_stack(stack, new_stack):
    stack.up()
    said = new_stack("second", GATEWAY_PORT=stack.environment["GATEWAY_PORT"]).run("up", code=1)
    assert f"It belongs to the stack in {stack.home.state}" in said
    assert stack.status()["gateway"]["state"] == "ready"


@pytest.mark.only("embedded")
def test_the_engine_takes_the_next_free_port(new_stack):
    with free_listener() as listener:
        port = listener.getsockname()[1]
        stack = new_stack(LLAMACPP_PORT=str(port))
        stack.up()
        address = stack.models()["smollm2-135m-instruct-q4_1"]["address"]
        assert port < int(address.rpartition(":")[2]) < port + 10
        assert "nothing has changed" in stack.up(), "the port that it has got is kept"


def test_a_taken_ollama_port_that_was_asked_for_is_refused(new_stack):
    with free_listener() as listener:
        port = listener.getsockname()[1]
        said = new_stack(GATEWAY_OLLAMA_PORT=str(port)).run("up", code=1)
        assert f"GATEWAY_OLLAMA_PORT={port} is taken" in said


@pytest.mark.only("embedded")
def test_a_broken_gguf_is_refused_and_the_running_stack_goes_on(stack, tmp_path):
    whole = locate(find_recipe("smollm2", load_recipes()).source)
    broken = tmp_path / "broken.gguf"
    with whole.open("rb") as source:
        broken.write_bytes(source.read(5_000_000))
    stack.up()
    pids = stack.pids()
    assert f"{broken} is truncated" in stack.run("up", "--gguf", str(broken), code=1)
    assert "there is no file /nothing.gguf" in stack.run("up", code=1, GGUF="/nothing.gguf")
    assert stack.pids() == pids


def test_a_service_that_crashes_again_and_again_ends_up_at_once_with_its_log(stack):
    said = stack.run("up", code=1, GATEWAY_IDLE_TIMEOUT_S="soon")
    assert "gateway crashes again and again" in said
    assert "GATEWAY_IDLE_TIMEOUT_S=soon" in said, "the last lines of its log"
    assert stack.status()["gateway"]["state"] == "stopped"
    stack.up()
    assert stack.ask()["usage"]["completion_tokens"] > 0


def test_waiting_has_an_end(stack):
    said = stack.run("up", "--timeout", "15", code=1, GATEWAY_DEFAULT_MODEL="nothing")
    assert re.search(r"not ready after 15 s; still waiting for (a first token|gateway: |rag: )", said)
    assert stack.status()["gateway"]["pid"], "it goes on in the background"


@pytest.mark.only("embedded")
@pytest.mark.parametrize(
    ("variables", "code", "told"),
    [
        ({"MODE": "compose", "PATH": "/nothing"}, 2, "MODE=compose: there is no docker command here"),
        ({"MODE": "cloud"}, 2, "MODE=cloud: there is no such mode"),
        ({"GATEWAY_PORT": "eight"}, 1, "GATEWAY_PORT=eight: it must be a port"),
        ({"LLAMACPP_SLOTS": "0"}, 1, "LLAMACPP_SLOTS=0"),
        ({"GATEWAY_HOST": "192.0.2.1"}, 1, "can't listen on 192.0.2.1"),
        ({"SPARKSTACK_HOME": "/nothing"}, 1, "SPARKSTACK_HOME=/nothing is not a folder"),
        ({"SPARKSTACK_STATE": "/proc/nothing"}, 1, "SPARKSTACK_STATE=/path"),
    ],
)
def test_a_wrong_variable_ends_with_a_sentence(stack, variables, code, told):
    assert told in stack.run("up", code=code, **variables)
    assert stack.units() == []


@pytest.mark.only("compose")
@pytest.mark.parametrize(
    ("variables", "code", "told"),
    [
        ({"GATEWAY_HOST": "192.0.2.1"}, 1, "gateway can't be published on 192.0.2.1"),
        ({"PROFILE": "tpu"}, 1, "PROFILE=tpu: there is no such profile"),
        ({"PROFILE": "spark"}, 1, "Docker has no NVIDIA runtime; sudo nvidia-ctk runtime configure"),
        ({"COMPOSE_EXTRA": "/nothing.yaml"}, 1, "there is no compose file /nothing.yaml"),
        ({"COMPOSE_PROJECT_NAME": "A b"}, 1, "small letters, digits"),
        ({"MODELS": "nothing"}, 1, "MODELS=nothing: "),
        ({"GGUF": "/model.gguf"}, 1, "MODE=embedded make up"),
        ({"DOCKER_HOST": "unix:///nothing.sock"}, 2, "no engine answers it"),
        ({"SPARKSTACK_VERSION": "0.0.1"}, 1, "can't be built: this folder's code is version"),
    ],
)
def test_a_wrong_variable_of_containers_ends_with_a_sentence(stack, variables, code, told):
    assert told in stack.run("up", code=code, **variables)
    assert stack.containers() == {}


def test_doctor_looks_at_a_machine_where_nothing_runs_and_at_a_running_stack(stack):
    said = stack.run("doctor")
    assert "nothing is running; `make up` starts it" in said
    assert f"port {stack.environment['GATEWAY_PORT']} is free for gateway" in said
    stack.up()
    said = stack.run("doctor")
    assert f"gateway answers at {stack.gateway}" in said
    assert "fail" not in said
    stack.home.env_file.chmod(0o644)
    said = stack.run("doctor", code=1)
    assert f"fail  {stack.home.env_file} can be read by others (mode 644)" in said
    stack.up()
    assert "mode 600" in stack.run("doctor")


def test_logs_and_status_of_a_running_and_a_stopped_stack(stack):
    assert "nothing is running here" in stack.run("status", code=3)
    assert "there are no logs" in stack.run("logs", code=1)
    assert "there is no SPARKSTACK_API_KEY" in stack.run("key", code=1)
    stack.up()
    said = stack.run("status")
    assert "ready" in said
    assert "waiting for" in said
    assert re.search("^gateway +[|] ", stack.run("logs"), re.M)
    assert len(stack.run("logs", "llamacpp", "-n", "2").splitlines()) == 2
    assert "there is no service or engine 'nothing'" in stack.run("logs", "nothing", code=1)
