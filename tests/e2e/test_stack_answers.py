"""`up` on a bare folder ends with a real answer of a real model, and says where everything is."""

import json
import re
import shutil
import stat
import subprocess

import httpx
import pytest

from tests.e2e.stacks import MODEL, REPOSITORY, listens
from tests.testkit.ports import free_port

pytestmark = pytest.mark.slow


def test_up_answers_a_question_and_down_leaves_nothing(stack, mode):
    said = stack.up()
    assert f"mode: {mode} (" in said
    assert "\r" not in said, "no line that changes where there is no terminal"
    assert "ready after" in said
    for service in ("gateway", "engines") if mode == "embedded" else ("gateway",):
        assert re.search(rf"^{service} +http://127\.0\.0\.1:\d+ ", said, re.M)

    reply = stack.ask()
    assert "Paris" in reply["choices"][0]["message"]["content"]
    assert reply["model"] == MODEL
    assert reply["usage"]["completion_tokens"] > 0
    logs = stack.all_logs()
    assert "POST" in logs
    assert "capital of France" not in logs, "no log holds a prompt"

    assert f"{stack.gateway}/#key={stack.key}" in said
    page = httpx.get(f"{stack.gateway}/", trust_env=False)
    assert page.status_code == 200

    assert f"stopping {', '.join(stack.expected)}" in stack.run("down")
    assert stack.running() == []
    assert not listens(stack.environment["GATEWAY_PORT"])
    assert "nothing was running" in stack.run("down")


@pytest.mark.only("embedded")
def test_down_leaves_what_is_kept_and_no_process(stack):
    assert "sha256 verified" in stack.up()
    stack.run("down")
    assert stack.units() == []
    assert not listens(stack.environment["LLAMACPP_PORT"])
    left = {path.name for path in stack.home.state.iterdir()}
    assert left == {"engines", "internal.key", "lock", "logs", "names", "rag", "verified.json"}


@pytest.mark.only("compose")
def test_down_leaves_what_is_kept_and_no_container_or_network(stack):
    stack.up()
    stack.run("down")
    assert stack.containers() == {}
    assert stack.networks() == []
    left = {path.name for path in stack.home.state.iterdir()}
    assert left == {"internal.key", "lock", "logs", "names", "secrets"}


@pytest.mark.skipif(shutil.which("curl") is None, reason="optional: needs curl")
def test_the_first_request_that_up_prints_works_when_pasted(stack):
    said = stack.up()
    command = said[said.index("  curl ") :]
    done = subprocess.run(
        ["bash", "-c", command], cwd=REPOSITORY, capture_output=True, text=True, timeout=60,
        env={**stack.environment, "no_proxy": "127.0.0.1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["choices"][0]["message"]["content"]


def test_everything_asks_for_a_key(stack):
    stack.up()
    assert httpx.get(f"{stack.gateway}/v1/models", trust_env=False).status_code == 401
    for service, path in (("engines", "/models"), ("rag", "/v1/collections"), ("embeddings", "/v1/models")):
        assert stack.ask_inside(service, path).status_code == 401


@pytest.mark.only("embedded")
def test_an_engine_has_a_key_of_its_own(stack):
    stack.up()
    address = stack.models()[MODEL]["address"]
    assert address == f"http://127.0.0.1:{stack.environment['LLAMACPP_PORT']}"
    assert httpx.get(f"{address}/v1/models", trust_env=False).status_code == 401


@pytest.mark.only("compose")
def test_the_gateway_alone_is_published_and_on_loopback(stack):
    stack.up()
    ports = {name: dict(each.ports) for name, each in stack.containers().items() if each.ports}
    assert ports == {"gateway": {8000: ("127.0.0.1", int(stack.environment["GATEWAY_PORT"]))}}


def test_env_is_made_once_for_its_owner_alone(stack):
    said = stack.up()
    env_file = stack.home.env_file
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    first = env_file.read_text()
    key = stack.key
    assert re.fullmatch(r"sk-spark-[\w-]{32}", key)
    assert f"\nSPARKSTACK_API_KEY={key}\n" in first
    assert said.count(key) == 1, "the key stands in the page's address alone"
    assert key not in stack.all_logs()
    stack.up()
    stack.run("down")
    stack.up()
    assert env_file.read_text() == first


def test_ollamas_port_is_served_too(new_stack):
    port = free_port()
    stack = new_stack(GATEWAY_OLLAMA_PORT=str(port))
    said = stack.up()
    assert f"http://127.0.0.1:{port} " in said
    tags = httpx.get(
        f"http://127.0.0.1:{port}/api/tags", headers={"authorization": f"Bearer {stack.key}"}, trust_env=False
    )
    assert tags.json()["models"]


@pytest.mark.only("embedded")
def test_a_folder_with_a_strange_and_long_name_works(new_stack):
    """Spaces, per cent signs, quotes and letters beyond ASCII; too long for the address of a socket."""
    stack = new_stack(f'my 100% "stäck\'s" {"long" * 20}')
    stack.up()
    assert stack.home.socket.exists()
    assert stack.home.socket.parent != stack.home.run
    assert stack.status()["gateway"]["state"] == "ready"
    stack.run("down")
    assert not stack.home.socket.parent.exists()
