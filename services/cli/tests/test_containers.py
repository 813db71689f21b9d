import http.server
import json
import sys
import threading

import click
import httpx
import pytest
from click.testing import CliRunner

from services.cli.containers.containers import find_containers, reason_in
from services.cli.containers.docker import Docker
from services.cli.containers.logs import choose
from services.cli.containers.running import Containers, places_of, seen_here
from services.cli.containers.status import judge, not_ready
from services.cli.containers.transport import ContainerTransport
from services.cli.main import IN_CONTAINERS, cli
from services.cli.tests.fake_docker import FakeDocker, container
from services.kit.files import write_json

NEVER = "0001-01-01T00:00:00Z"
PUBLISHED = {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8001"}], "8443/tcp": None}


@pytest.fixture
def fake(tmp_path):
    return FakeDocker(tmp_path / "bin")


@pytest.fixture
def docker(fake):
    return Docker.find(fake.variables)


def there_are(fake, *documents):
    fake.answer("ps", "--quiet", stdout="\n".join(document["Id"] for document in documents))
    fake.answer("inspect", stdout=list(documents))


def one(fake, docker, **changed):
    there_are(fake, container("gateway", **changed))
    return find_containers(docker, "sparkstack")["gateway"]


def test_a_container_is_known_by_its_service(fake, docker):
    there_are(
        fake,
        container("gateway", Ports=PUBLISHED, RestartCount=2),
        container("llamacpp-smollm2", Labels={"sparkstack.instance": "llamacpp-smollm2"}, Status="created"),
        container("gateway-run", Labels={"com.docker.compose.oneoff": "True"}),
    )
    found = find_containers(docker, "sparkstack")
    assert sorted(found) == ["gateway", "llamacpp-smollm2"]
    gateway = found["gateway"]
    assert (gateway.name, gateway.restarts, gateway.ports) == ("sparkstack-gateway-1", 2, {8000: ("127.0.0.1", 8001)})
    assert gateway.started_at == 1795287600
    assert found["llamacpp-smollm2"].instance == "llamacpp-smollm2"
    assert "label=com.docker.compose.project=sparkstack" in fake.asked[0]


def test_where_nothing_was_made_nothing_is_asked_for(fake, docker):
    fake.answer("ps", stdout="")
    assert find_containers(docker, "sparkstack") == {}
    assert len(fake.asked) == 1


LOADING = {"Status": "starting", "Log": [{"Output": '127.0.0.1:8010/readyz: 503 {"checks": {"models": "loading"}}'}]}


@pytest.mark.parametrize(
    ("changed", "state", "told"),
    [
        ({}, "ready", ""),
        ({"Health": None}, "ready", ""),
        ({"Health": LOADING}, "starting", "models: loading"),
        ({"Health": {"Status": "unhealthy", "Log": [{"Output": "a\nno answer\n"}]}}, "waiting", "no answer"),
        ({"Health": {"Status": "starting", "Log": []}}, "starting", "its health check says starting"),
        ({"Status": "paused"}, "waiting", "docker unpause sparkstack-gateway-1"),
        ({"Status": "restarting", "ExitCode": 2}, "crashing", "ended with status 2; see `sparkstack logs gateway`"),
        ({"Status": "exited", "OOMKilled": True, "RestartCount": 3}, "stopped", "out of memory"),
        ({"Status": "exited"}, "stopped", "`sparkstack restart gateway` starts it"),
        ({"Status": "created", "Error": "port is taken", "StartedAt": NEVER}, "stopped", "port is taken"),
    ],
)  # fmt: skip
def test_states_are_told_apart(fake, docker, changed, state, told):
    found = judge(one(fake, docker, **changed))
    assert found[0] == state
    assert told in found[1]


def test_a_service_without_a_container_is_stopped():
    assert judge(None) == ("stopped", "there is no container of it; `make up` makes it")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ('x: 503 {"checks": {"a": "ok", "b": "missing", "c": "late"}}', "b: missing; c: late"),
        ("connection refused", "connection refused"),
        ("x: 503 {broken", "x: 503 {broken"),
        ('x: 200 {"status": "ok"}', ""),
    ],
)
def test_a_health_checks_output_says_what_is_missing(said, reason):
    assert reason_in(said) == reason


def test_waiting_sees_crashes_health_and_logs(fake, docker):
    there_are(
        fake,
        container("engines", Health=LOADING),
        container("gateway", Status="restarting", ExitCode=1),
        container("llamacpp-x", Labels={"sparkstack.instance": "llamacpp-x"}),
    )
    fake.answer("logs", stdout="to stdout\n", stderr="to stderr\n")
    fake.answer("stop")
    running = Containers(docker, "sparkstack", ["engines", "rag"], None)
    states = {name: process.state for name, process in running.processes().items()}
    assert states == {"engines": "running", "gateway": "backoff"}
    assert [(name, health.waiting_for) for name, health in running.health()] == [
        ("engines", "models: loading"),
        ("rag", "there is no container of it"),
    ]
    assert running.last_lines("gateway", 5) == ["to stdout", "to stderr"]
    assert running.last_lines("nothing", 5) == []
    running.stop("gateway")
    assert fake.asked[-1] == ["stop", container("gateway")["Id"]]
    assert running.models() == []


def test_what_is_published_is_told_the_gateway_first():
    grafana = ("grafana", "127.0.0.1", 3001, 3000)
    places = places_of([grafana, ("gateway", "127.0.0.1", 11434, 11434), ("gateway", "0.0.0.0", 8001, 8000)])
    assert [(place.name, place.address) for place in places] == [
        ("gateway", "http://127.0.0.1:8001"),
        ("", "http://127.0.0.1:11434"),
        ("grafana", "http://127.0.0.1:3001"),
    ]


def test_a_pid_of_another_machine_is_none_of_this_one(fake, docker, tmp_path):
    found = one(fake, docker, Pid=7)
    assert seen_here(found, tmp_path) == 0
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text("0::/system.slice/cron.service\n")
    assert seen_here(found, tmp_path) == 0
    (tmp_path / "7" / "cgroup").write_text(f"0::/docker/{found.id}\n")
    assert seen_here(found, tmp_path) == 7


def test_the_status_of_a_stack_of_containers(fake, home, monkeypatch):
    there_are(fake, container("engines"), container("gateway", Ports=PUBLISHED, Health=LOADING))
    fake.answer("exec", stdout={"status": 200, "headers": [], "body": ""})
    monkeypatch.setenv("PATH", fake.variables["PATH"])
    place = {"host": "engines", "port": 8010, "container": "sparkstack-engines-1"}
    write_json(home.stack_file, {"mode": "compose", "project": "sparkstack", "services": {"engines": place, "rag": {}}})
    reply = CliRunner().invoke(cli, ["status", "--json"])
    assert reply.exit_code == 3, reply.output
    rows = json.loads(reply.output)["services"]
    assert [(row["name"], row["state"], row["address"]) for row in rows] == [
        ("gateway", "starting", "http://127.0.0.1:8001"),
        ("engines", "ready", ""),
        ("rag", "stopped", ""),
    ]


def test_what_up_does_not_wait_for_is_told_where_it_does_not_answer(fake, docker):
    there_are(
        fake,
        container("gateway", Health=LOADING),
        container("tracking"),
        container("open-webui", Health={"Status": "starting", "Log": []}),
        container("grafana", Status="restarting", ExitCode=3),
        container("engine", Labels={"sparkstack.instance": "llamacpp-smollm2"}, Status="created"),
    )
    assert sorted(not_ready(find_containers(docker, "sparkstack").values(), ["gateway"])) == [
        "grafana is crashing: ended with status 3; see `sparkstack logs grafana`",
        "open-webui is starting: its health check says starting",
    ]


def test_logs_are_chosen_by_service_or_engine(fake, docker):
    there_are(
        fake,
        container("gateway"),
        container("engine-1", Labels={"sparkstack.instance": "llamacpp-smollm2"}),
        container("engine-2", Labels={"sparkstack.instance": "vllm-qwen"}, StartedAt=NEVER),
    )
    found = find_containers(docker, "sparkstack")
    assert {each.service for each in choose(found, None)} == {"gateway", "engine-1"}, "what never ran has said nothing"
    assert [each.service for each in choose(found, "llamacpp-smollm2")] == ["engine-1"]
    assert [each.service for each in choose(found, "vllm")] == ["engine-2"]
    with pytest.raises(click.ClickException, match="no service or engine 'nothing'; there are: engine-1, engine-2"):
        choose(found, "nothing")
    with pytest.raises(click.ClickException, match="no containers of this stack"):
        choose({}, None)


# --- asking a service from inside its container


class Echo(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        length = int(self.headers.get("content-length") or 0)
        body = {"path": self.path, "key": self.headers["authorization"], "body": self.rfile.read(length).decode()}
        self.send_response(418)
        self.send_header("x-own", "1")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *arguments):
        pass


@pytest.fixture
def inside(tmp_path):
    """A docker command whose `exec` runs on this machine, and a service that listens here."""
    folder = tmp_path / "exec"
    folder.mkdir()
    program = folder / "docker"
    program.write_text('#!/bin/sh\nshift 3\nshift\nexec "$PYTHON" "$@"\n')
    program.chmod(0o755)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Docker(str(program), {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}), server.server_address[1]
        server.shutdown()


def test_a_request_goes_through_the_container_whole(inside):
    docker, port = inside
    with httpx.Client(transport=ContainerTransport(docker, "engines"), base_url=f"http://engines:{port}") as client:
        answer = client.post("/models/a%20b/load?x=1", json={"wait": False}, headers={"authorization": "Bearer k"})
    assert answer.status_code == 418
    assert answer.headers["x-own"] == "1"
    assert answer.json() == {"path": "/models/a%20b/load?x=1", "key": "Bearer k", "body": '{"wait":false}'}


def test_a_service_that_does_not_listen_is_a_connection_error(inside):
    docker, _ = inside
    with (
        httpx.Client(transport=ContainerTransport(docker, "engines")) as client,
        pytest.raises(httpx.ConnectError, match="refused"),
    ):
        client.get("http://engines:1/models")


def test_a_container_that_is_gone_is_a_connection_error(fake, docker):
    fake.answer("exec", stderr="Error response from daemon: No such container: engines\n", status=1)
    with (
        httpx.Client(transport=ContainerTransport(docker, "engines")) as client,
        pytest.raises(httpx.ConnectError, match="No such container"),
    ):
        client.get("http://engines:8010/models")


def test_no_key_is_in_a_command_line(fake, docker):
    fake.answer("exec", stdout={"status": 200, "headers": [], "body": ""})
    with httpx.Client(transport=ContainerTransport(docker, "engines")) as client:
        client.get("http://engines:8010/models", headers={"authorization": "Bearer sk-secret"})
    assert "sk-secret" not in json.dumps(fake.asked)
    assert "sk-secret" in fake.stdins[-1]


# --- verbs about models' files


@pytest.mark.parametrize("verb", sorted(IN_CONTAINERS))
def test_a_verb_about_models_files_runs_where_they_are(fake, home, monkeypatch, capfd, verb):
    there_are(fake, container("engines"))
    fake.answer("exec", stdout="a line from inside\n", status=3)
    monkeypatch.setenv("PATH", fake.variables["PATH"])
    write_json(home.stack_file, {"mode": "compose", "project": "sparkstack", "services": {}})
    reply = CliRunner().invoke(cli, [verb, "smollm2", "--yes", "--help"])
    assert reply.exit_code == 3, reply.output
    assert capfd.readouterr().out == "a line from inside\n"
    assert fake.asked[-1][-5:] == [container("engines")["Id"], "sparkstack", verb, "smollm2", "--yes", "--help"][-5:]


def test_a_verb_about_models_files_says_when_nothing_runs(fake, home, monkeypatch):
    fake.answer("ps", stdout="")
    monkeypatch.setenv("PATH", fake.variables["PATH"])
    write_json(home.stack_file, {"mode": "compose", "project": "sparkstack", "services": {}})
    reply = CliRunner().invoke(cli, ["pull", "smollm2"])
    assert reply.exit_code == 1
    assert "engines' own, and it does not run; `make up` first" in reply.output


# --- down without a record


def test_down_finds_what_a_killed_start_has_left(fake, home, monkeypatch):
    own = {"com.docker.compose.project.working_dir": str(home.code / "compose")}
    there_are(fake, container("gateway", Labels=own))
    fake.answer("compose", "down")
    fake.answer("rm")
    monkeypatch.setenv("PATH", fake.variables["PATH"])
    reply = CliRunner().invoke(cli, ["down"])
    assert reply.exit_code == 0, reply.output
    assert "stopping gateway" in reply.output
    assert any("down" in words for words in fake.asked)


def test_down_leaves_the_stack_of_another_folder_alone(fake, home, monkeypatch):
    there_are(fake, container("gateway", Labels={"com.docker.compose.project.working_dir": "/other/compose"}))
    monkeypatch.setenv("PATH", fake.variables["PATH"])
    reply = CliRunner().invoke(cli, ["down"])
    assert "nothing was running" in reply.output
    assert not any("down" in words for words in fake.asked)
