"""The core of the compose file on a real engine: it answers, and each container reaches what it must and no more."""

import json
import os
import secrets
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.stack import SERVICES
from tests.compose.files import FOLDER, read
from tests.testkit.docker_engine import DockerEngine
from tests.testkit.ports import free_port

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]

KEY = "sk-spark-test"
ENGINE = "llamacpp-smollm2-135m-instruct-q4_1"
OUTSIDE = ("1.1.1.1", 443)
# Who may open a connection to whom. Nobody has a way out in this stack: it is started with offline.yaml.
REACHES = {
    "gateway": {"engines", "embeddings", "rag", "tracking", ENGINE},
    "engines": {"gateway", "embeddings", "rag", "tracking", "docker-proxy", ENGINE},
    "embeddings": {"gateway", "engines", "rag", "tracking"},
    "rag": {"gateway", "engines", "embeddings", "tracking"},
    "tracking": {"gateway", "engines", "embeddings", "rag"},
    "docker-proxy": {"engines"},
    ENGINE: {"gateway", "engines"},
}
PORTS = {
    **{row.name: row.port for row in SERVICES if row.name != "mlflow"},
    "docker-proxy": 2375,
    ENGINE: 8080,
}
LOOK = """
import json, socket, sys
found = {}
for name, host, port in json.loads(sys.argv[1]):
    try:
        socket.create_connection((host, port), 2).close()
        found[name] = "open"
    except OSError as error:
        found[name] = type(error).__name__
print(json.dumps(found))
"""
ASK = """
import json, sys, urllib.request
method, path, body = sys.argv[1:]
request = urllib.request.Request("http://docker-proxy:2375" + path, method=method, data=body.encode() or None)
try:
    answer = urllib.request.urlopen(request, timeout=10)
except urllib.error.HTTPError as error:
    answer = error
print(json.dumps([answer.status, answer.read().decode()]))
"""


@dataclass
class Stack:
    """The core, as a project of its own."""

    engine: DockerEngine
    project: str
    variables: dict[str, str]
    files: tuple[str, ...] = ("compose", "offline")
    _ids: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.variables['GATEWAY_PORT']}"

    def compose(self, *arguments: str, profile: str = "", check: bool = True) -> str:
        files = [word for name in self.files for word in ("--file", str(FOLDER / f"{name}.yaml"))]
        chosen = ("--profile", profile) if profile else ()
        done = subprocess.run(
            ["docker", "compose", "--env-file", "/dev/null", *files, *chosen, *arguments],
            env={**self.engine.environment, **self.variables},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    def inside(self, service: str, code: str, *arguments: str) -> Any:
        """Run Python in a service's container and return the document that it prints."""
        said = self.compose("exec", "-T", service, "python3", "-I", "-c", code, *arguments, profile="cpu")
        return json.loads(said)

    def inspect(self) -> dict[str, dict[str, Any]]:
        """Return what Docker knows of each container, by its service."""
        label = f"label=com.docker.compose.project={self.project}"
        ids = self.engine.docker("ps", "--all", "--quiet", "--filter", label).split()
        documents = json.loads(self.engine.docker("inspect", *ids))
        return {document["Config"]["Labels"]["com.docker.compose.service"]: document for document in documents}


@pytest.fixture(scope="module")
def stack(engine, built, tmp_path_factory):
    project = f"sparkstack-test-{os.getpid()}"
    folder = tmp_path_factory.mktemp("secrets")
    for name in read("compose")["secrets"]:
        (folder / name).write_text(KEY if name == "sparkstack_api_key" else secrets.token_urlsafe(32))
        (folder / name).chmod(0o644)
    (folder / "hf_token").write_text("")
    socket = Path(engine.endpoint.removeprefix("unix://"))
    variables = {
        "COMPOSE_PROJECT_NAME": project,
        "SPARKSTACK_SECRETS": str(folder),
        "GATEWAY_PORT": str(free_port()),
        "DOCKER_SOCKET": str(socket),
        "DOCKER_GID": str(socket.stat().st_gid),
        "ENGINES_PROFILES": "cpu",
    }
    stack = Stack(engine, project, variables)
    try:
        stack.compose("create", "--pull", "never", profile="cpu")
        stack.compose("up", "--detach", "--wait", "--no-build", "--pull", "never")
        yield stack
    finally:
        stack.compose("down", "--volumes", "--timeout", "5", profile="*", check=False)


def test_a_question_is_answered_by_the_engine_that_the_engines_service_has_started(stack):
    body = {"model": "smollm2", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}
    answer = httpx.post(
        f"{stack.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {KEY}"}, timeout=120
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] > 0
    assert stack.inspect()[ENGINE]["State"]["Running"]


def test_without_the_key_nobody_is_served(stack):
    answer = httpx.get(f"{stack.url}/v1/models", timeout=10)
    assert answer.status_code == 401


@pytest.mark.parametrize("service", REACHES)
def test_a_container_reaches_what_it_must_and_no_more(stack, service):
    targets = [[name, name, port] for name, port in PORTS.items() if name != service]
    # Of the gateway's two networks one could lead out: what is tried there is answered by nobody, and takes its time.
    found = stack.inside(service, LOOK, json.dumps([*targets, ["outside", *OUTSIDE]]))
    assert {name for name, state in found.items() if state == "open"} == REACHES[service]


def test_containers_are_as_closed_as_the_file_says(stack):
    for name, document in stack.inspect().items():
        host = document["HostConfig"]
        assert document["Config"]["User"] == "10001:10001", name
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"], name
        assert not host["CapAdd"], name
        assert host["SecurityOpt"] == ["no-new-privileges:true"], name
        assert not host["Privileged"], name
        sources = [mount["Source"] for mount in document["Mounts"] if mount["Type"] == "bind"]
        sockets = [source for source in sources if source.endswith("docker.sock")]
        assert bool(sockets) is (name == "docker-proxy"), name
        published = [each for bound in (host["PortBindings"] or {}).values() for each in bound or ()]
        assert {each["HostIp"] for each in published} <= {"127.0.0.1"}, name
        assert bool(published) is (name == "gateway")


def test_no_secret_stands_in_what_docker_shows(stack):
    folder = Path(stack.variables["SPARKSTACK_SECRETS"])
    text = json.dumps(stack.inspect())
    for file in folder.iterdir():
        assert not file.read_text() or file.read_text() not in text, file.name


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/containers/create", '{"Image":"sparkstack/gateway:0.1.0","HostConfig":{"Binds":["/:/host"]}}'),
        ("GET", "/images/json", ""),
        ("POST", "/containers/{engine}/exec", '{"Cmd":["id"]}'),
        ("DELETE", "/containers/{engine}", ""),
        ("POST", "/containers/{engine}/kill", ""),
    ],
)
def test_the_engines_service_can_have_docker_do_nothing_else(stack, method, path, body):
    target = path.format(engine=stack.inspect()[ENGINE]["Id"])
    status, _ = stack.inside("engines", ASK, method, target, body)
    assert status == 403


@pytest.mark.parametrize("verb", ["json", "logs", "stop"])
def test_the_engines_service_can_touch_no_container_but_engines(stack, verb):
    gateway = stack.inspect()["gateway"]
    method = "POST" if verb == "stop" else "GET"
    status, text = stack.inside("engines", ASK, method, f"/containers/{gateway['Id']}/{verb}", "")
    assert (status, "No such container" in text) == (404, True)
    assert stack.inspect()["gateway"]["State"]["StartedAt"] == gateway["State"]["StartedAt"]


def test_an_engine_that_was_killed_comes_back_by_the_engines_service(stack):
    before = stack.inspect()[ENGINE]["State"]["StartedAt"]
    stack.engine.docker("kill", stack.inspect()[ENGINE]["Id"])
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        state = stack.inspect()[ENGINE]["State"]
        if state["Running"] and state["StartedAt"] != before:
            return
        time.sleep(1)
    raise AssertionError("it did not come back")


def test_nothing_is_left_behind(stack):
    """The last of this file: it takes the stack down."""
    stack.compose("down", "--volumes", "--timeout", "5", profile="*")
    label = f"label=com.docker.compose.project={stack.project}"
    for kind in ("container", "network", "volume"):
        words = ("ls", "--quiet", "--filter", label, *(("--all",) if kind == "container" else ()))
        assert stack.engine.docker(kind, *words) == "", kind
