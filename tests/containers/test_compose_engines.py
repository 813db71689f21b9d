"""Engines' containers as compose really makes them: Docker shows what the engines service will look for.

They are created and not started: there is no GPU here. Images of others are stood in for by name, which is all that
creating asks of them.
"""

import json
import os
import subprocess

import pytest

from services.engines.files.store import ModelStore
from services.engines.loading.containers import ContainerLauncher
from services.engines.recipes import load_recipes
from services.engines.runtimes.docker import DockerRuntime, differences
from tests.compose.files import FOLDER, engines
from tests.testkit.docker_engine import IMAGE

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]

CPU_IMAGE = "sparkstack/llamacpp:0.1.0"


@pytest.fixture(scope="module")
def project(engine, tell):
    """A project with a container of every engine, none of them started."""
    name = f"sparkstack-test-{os.getpid()}-engines"
    there = set(engine.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split())
    missing = sorted({service["image"] for service in engines().values()} - there)
    for image in missing:
        engine.docker("tag", IMAGE, image)
    if missing:
        tell(f"images of engines, by name alone, to create containers that are not started: {', '.join(missing)}")
    compose = ("compose", "--env-file", "/dev/null", "--project-name", name, "--file", str(FOLDER / "compose.yaml"))
    try:
        words = (*compose, "--profile", "*", "create", "--no-build", "--pull", "never", *engines())
        subprocess.run(["docker", *words], env=engine.environment, check=True, capture_output=True, timeout=300)
        yield name
    finally:
        down = (*compose, "--profile", "*", "down", "--volumes")
        subprocess.run(["docker", *down], env=engine.environment, check=False, capture_output=True, timeout=300)
        for image in missing:
            engine.docker("rmi", "--no-prune", image, check=False)


@pytest.fixture(scope="module")
def created(engine, project):
    """What Docker shows of each container, by the engine's name."""
    ids = engine.docker("ps", "--all", "--quiet", "--filter", f"label=sparkstack.project={project}").split()
    documents = json.loads(engine.docker("inspect", *ids))
    return {document["Config"]["Labels"]["sparkstack.instance"]: document for document in documents}


def test_every_engine_has_a_container_and_none_runs(created):
    assert created.keys() == engines().keys()
    assert {document["State"]["Status"] for document in created.values()} == {"created"}


@pytest.mark.parametrize("name", engines())
def test_the_engines_service_would_start_it_as_it_is(created, name, tmp_path, monkeypatch):
    monkeypatch.setattr("services.engines.loading.containers.place", lambda *_: None)
    launcher = ContainerLauncher(ModelStore(tmp_path), tmp_path, [name], {"LLAMACPP_CPU_IMAGE": CPU_IMAGE})
    (offer,) = launcher.offers(load_recipes())
    assert differences(launcher.launch(offer).spec, created[name]) == []


async def test_the_engines_service_finds_them_all(engine, project, created):
    runtime = DockerRuntime(engine.endpoint, project)
    try:
        assert await runtime.created() == created.keys()
        assert await runtime.instances() == {}
    finally:
        await runtime.close()


@pytest.mark.parametrize("name", engines())
def test_docker_keeps_it_closed(created, name):
    host = created[name]["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    # Docker itself adds `label=disable` (SELinux) where the host's IPC is shared.
    assert set(host["SecurityOpt"]) - {"label=disable"} == {"no-new-privileges:true"}
    assert host["RestartPolicy"]["Name"] == "no"
    assert not host["PortBindings"]
    assert not host["Privileged"]
    assert list(created[name]["NetworkSettings"]["Networks"]) == [
        f"{created[name]['Config']['Labels']['sparkstack.project']}_engines"
    ]
    writable = [mount["Destination"] for mount in created[name]["Mounts"] if mount["RW"]]
    assert "/models" not in writable
    assert not any(mount["Type"] == "bind" and mount["RW"] for mount in created[name]["Mounts"])
