import socket

import pytest
from click.testing import CliRunner

from services.cli.containers.docker import Docker, version_of
from services.cli.containers.project import docker_socket
from services.cli.main import cli
from services.cli.modes import NoSuchModeError, choose_mode
from services.cli.tests.fake_docker import FakeDocker
from services.kit.files import write_json


@pytest.fixture
def docker(tmp_path):
    return FakeDocker(tmp_path / "bin")


def choose(home, docker, **variables):
    return choose_mode(home, {**docker.variables, **variables})


def test_containers_where_docker_runs(home, docker):
    mode = choose(home, docker)
    assert str(mode) == "mode: compose (containers; Docker 26.1.5 with compose 2.26.1-4 runs here)"
    assert mode.engine.platform == "linux/amd64"


def test_processes_where_there_is_no_docker(home, tmp_path):
    mode = choose_mode(home, {"PATH": str(tmp_path)})
    assert str(mode) == "mode: embedded (processes under supervisord; there is no docker command here)"


def test_a_client_without_an_engine_is_not_docker(home, docker):
    problem = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
    docker.answer("info", stdout={"ServerErrors": [problem]}, status=1)
    mode = choose(home, docker)
    assert mode.name == "embedded"
    assert problem in mode.why
    assert "sudo systemctl start docker" in mode.why


def test_an_engine_that_may_not_be_used_says_what_to_do(home, docker):
    docker.answer("info", stdout={"ServerErrors": ["permission denied while trying to connect"]}, status=1)
    assert "sudo usermod -aG docker $USER" in choose(home, docker).why


@pytest.mark.parametrize(
    ("plugins", "told"),
    [
        ([], "no compose plugin; install it"),
        ([{"Name": "compose", "Version": "v2.17.0"}], "plugin is v2.17.0; 2.24 or later is needed"),
    ],
)
def test_without_a_compose_that_is_new_enough_there_are_no_containers(home, docker, plugins, told):
    docker.info(ClientInfo={"Plugins": plugins})
    assert told in choose(home, docker).why
    with pytest.raises(NoSuchModeError, match=told):
        choose(home, docker, MODE="compose")


def test_containers_of_windows_are_none_of_ours(home, docker):
    docker.info(OSType="windows")
    assert "switch it to Linux containers" in choose(home, docker).why


def test_the_user_decides(home, docker):
    assert choose(home, docker, MODE="embedded").name == "embedded"
    assert docker.asked == [], "nobody is asked"
    assert choose(home, docker, MODE="compose").name == "compose"
    with pytest.raises(NoSuchModeError, match="MODE=kubernetes: there is no such mode"):
        choose(home, docker, MODE="kubernetes")


def test_what_cannot_be_had_is_refused_with_status_2(home, tmp_path):
    with pytest.raises(NoSuchModeError, match=r"MODE=compose: there is no docker command here; leave MODE out") as said:
        choose_mode(home, {"PATH": str(tmp_path), "MODE": "compose"})
    assert said.value.exit_code == 2


@pytest.mark.parametrize("mode", ["embedded", "compose"])
def test_a_stack_that_runs_goes_on_as_it_is(home, docker, mode):
    write_json(home.stack_file, {"mode": mode, "services": {}})
    found = choose(home, docker)
    assert found.name == mode
    assert found.why.startswith("as it runs already")


def test_a_stack_of_before_there_were_modes_is_one_of_processes(home, docker):
    write_json(home.stack_file, {"services": {"gateway": {"host": "127.0.0.1", "port": 1}}})
    assert choose(home, docker).name == "embedded"


@pytest.mark.parametrize(("running", "wanted"), [("embedded", "compose"), ("compose", "embedded")])
def test_a_change_of_mode_wants_a_down_first(home, docker, running, wanted):
    write_json(home.stack_file, {"mode": running, "services": {}})
    with pytest.raises(NoSuchModeError, match=f"the stack runs in the mode {running} here; `make down` first"):
        choose(home, docker, MODE=wanted)


def test_containers_whose_engine_is_gone_are_not_replaced_by_processes(home, tmp_path):
    write_json(home.stack_file, {"mode": "compose", "services": {}})
    with pytest.raises(NoSuchModeError, match="the stack runs as containers: there is no docker command here"):
        choose_mode(home, {"PATH": str(tmp_path)})


def test_the_verb_prints_one_word(home, docker, monkeypatch):
    monkeypatch.setenv("PATH", docker.variables["PATH"])
    reply = CliRunner().invoke(cli, ["mode"])
    assert reply.stdout == "compose\n"
    assert "runs here" in reply.stderr


@pytest.mark.parametrize(
    ("text", "numbers"), [("v2.26.1-4", (2, 26, 1)), ("2.24", (2, 24)), ("Docker Compose 5", (5,)), ("dev", ())]
)
def test_versions_are_read_however_they_are_written(text, numbers):
    assert version_of(text) == numbers


def test_an_engine_tells_of_nvidia_by_its_runtime_or_by_cdi(docker):
    found = Docker.find(docker.variables)
    assert found.look().has_nvidia is False
    docker.info(Runtimes={"runc": {}, "nvidia": {}}, Architecture="aarch64")
    engine = found.look()
    assert (engine.has_nvidia, engine.platform) == (True, "linux/arm64")
    docker.info(DiscoveredDevices=[{"ID": "nvidia.com/gpu=all"}])
    assert found.look().has_nvidia is True


def test_the_socket_is_the_one_that_the_command_talks_to(docker, tmp_path):
    found = Docker.find(docker.variables)
    place = tmp_path / "d.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        group = str(place.stat().st_gid)
        assert docker_socket(found, {"DOCKER_HOST": f"unix://{place}"}) == {
            "DOCKER_SOCKET": str(place),
            "DOCKER_GID": group,
        }
        docker.answer("context", "inspect", stdout=f"unix://{place}")
        assert docker_socket(found, {})["DOCKER_SOCKET"] == str(place)
    assert docker_socket(found, {"DOCKER_SOCKET": str(tmp_path / "none.sock")}) == {}, "the files' default stands"
