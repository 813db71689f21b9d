"""`sparkstack engines`: where it is told that engines run, and what it says when it can't be so."""

import pytest

from services.engines.commands import service
from services.engines.runtimes.docker import DockerRuntime
from services.engines.runtimes.processes import SupervisordRuntime
from services.engines.settings import EnginesSettings
from services.engines.tests.fake_docker import fake_docker
from services.kit.settings import SettingsError


def settings(tmp_path, **given):
    return EnginesSettings(state=tmp_path, models=(), gguf="", **given)


def test_with_a_docker_engines_are_the_containers_that_it_has(tmp_path):
    with fake_docker(tmp_path / "docker.sock") as docker:
        docker.add("abc", project="mine", instance="vllm-m").run(1)
        docker.add("def", project="mine", instance="llamacpp-n")
        docker.add("other", project="another", instance="vllm-x")
        runtime, containers = service._runtime(settings(tmp_path, docker=docker.endpoint, project="mine"), None, None)
    assert isinstance(runtime, DockerRuntime)
    assert containers == {"vllm-m", "llamacpp-n"}


def test_with_a_supervisor_they_are_its_processes(tmp_path):
    runtime, containers = service._runtime(settings(tmp_path), tmp_path / "s.sock", tmp_path / "programs")
    assert isinstance(runtime, SupervisordRuntime)
    assert containers is None


def test_with_neither_it_says_what_to_name(tmp_path):
    with pytest.raises(SettingsError, match="--supervisor and --programs, as `sparkstack up` does; or a Docker"):
        service._runtime(settings(tmp_path), tmp_path / "s.sock", None)


def test_a_docker_that_never_answers_is_named_with_its_variable(tmp_path, monkeypatch):
    monkeypatch.setattr(service, "_DOCKER_S", 0.0)
    address = f"unix://{tmp_path}/nowhere.sock"
    with pytest.raises(SettingsError, match=rf"ENGINES_DOCKER={address}: Docker at {address} does not answer"):
        service._runtime(settings(tmp_path, docker=address), None, None)


def test_an_address_that_is_none_is_refused_at_once(tmp_path):
    with pytest.raises(SettingsError, match=r"ENGINES_DOCKER=docker\.sock: 'docker\.sock' is no address"):
        service._runtime(settings(tmp_path, docker="docker.sock"), None, None)


def test_without_a_container_it_says_which_commands_make_some(tmp_path):
    from prometheus_client import CollectorRegistry

    from services.engines.service import make_service

    runtime = DockerRuntime("unix:///nowhere.sock", "p")
    with pytest.raises(SettingsError, match="no engine has a container here: `docker compose --profile cpu create`"):
        make_service(settings(tmp_path), runtime, CollectorRegistry(), {}, frozenset())
