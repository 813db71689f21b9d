"""The core of the compose file on a real engine: it answers, and each container reaches what it must and no more."""

import json
import time
from pathlib import Path

import httpx
import pytest

from services.stack import SERVICES
from tests.containers.stacks import KEY, composed

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]

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


@pytest.fixture(scope="module")
def stack(engine, built, tmp_path_factory):
    with composed(engine, tmp_path_factory.mktemp("secrets"), overlays=("offline",)) as stack:
        stack.compose("create", "--no-build", "--pull", "never", profile="cpu")
        stack.compose("up", "--detach", "--wait", "--no-build", "--pull", "never")
        yield stack


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
