"""The services as containers: read-only, without capabilities, in a network that leads nowhere; and they answer."""

import json
import os
import uuid

import pytest

from tests.containers.boxes import Boxes
from tests.containers.dockerfiles import IMAGES

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]

KEY, INTERNAL = "sk-spark-test", "internal-test"
HOME = "/var/lib/sparkstack"
# What each needs to do its work, and who stands before it. The engines service stands on Docker: tests of compose
# start it with what it starts.
STARTS: dict[str, dict[str, str]] = {
    "llamacpp": {"LLAMA_API_KEY": "sk-engine"},
    "embeddings": {"EMBEDDINGS_API_KEY": INTERNAL},
    "mlflow": {"MLFLOW_SERVER_ALLOWED_HOSTS": "mlflow:*,localhost:*,127.0.0.1:*"},
    "tracking": {
        "TRACKING_API_KEY": INTERNAL,
        "TRACKING_EMBEDDINGS_URL": "http://embeddings:8011",
        "TRACKING_EMBEDDINGS_KEY": INTERNAL,
    },
    "gateway": {
        "SPARKSTACK_API_KEY": KEY,
        "GATEWAY_INTERNAL_KEY": INTERNAL,
        "GATEWAY_BACKENDS": "llamacpp=http://llamacpp:8080,embeddings=http://embeddings:8011,rag=http://rag:8012",
        "GATEWAY_BACKEND_KEYS": f"llamacpp=sk-engine,embeddings={INTERNAL},rag={INTERNAL}",
        "GATEWAY_DISCOVERY_INTERVAL_S": "1",
    },
    "rag": {
        "RAG_API_KEY": INTERNAL,
        "RAG_GATEWAY_URL": "http://gateway:8000",
        "RAG_GATEWAY_KEY": INTERNAL,
        "RAG_EMBEDDINGS_URL": "http://embeddings:8011",
        "RAG_EMBEDDINGS_KEY": INTERNAL,
    },
}
# What a service says that is to listen for everyone and was given no key.
DOORS = {
    "gateway": "SPARKSTACK_API_KEY",
    "engines": "ENGINES_API_KEY",
    "embeddings": "EMBEDDINGS_API_KEY",
    "rag": "RAG_API_KEY",
    "tracking": "TRACKING_API_KEY",
    "mlflow": "MLFLOW_SERVER_ALLOWED_HOSTS",
}
ASK = """
import json, sys, urllib.request
path, body = sys.argv[1], json.loads(sys.argv[2])
request = urllib.request.Request("http://127.0.0.1:8000" + path, data=json.dumps(body).encode() if body else None,
    headers={"authorization": "Bearer " + sys.argv[3], "content-type": "application/json"})
print(urllib.request.urlopen(request, timeout=60).read().decode())
"""


@pytest.fixture(scope="module")
def stack(engine, built):
    """All services but engines, started; the names that Docker knows them by."""
    boxes = Boxes(engine, f"sparkstack-test-{os.getpid()}-{uuid.uuid4().hex[:6]}")
    try:
        yield boxes, {name: boxes.run(name, built[name], **variables) for name, variables in STARTS.items()}
    finally:
        boxes.remove()


def ask(stack, path, body=None):
    """Ask the gateway from inside its container: the network leads nowhere."""
    boxes, names = stack
    said = boxes.engine.docker("exec", names["gateway"], "python", "-c", ASK, path, json.dumps(body), KEY)
    return json.loads(said)


@pytest.mark.parametrize("name", STARTS)
def test_a_service_becomes_healthy(stack, name):
    boxes, names = stack
    boxes.wait_until_healthy(names[name], timeout_s=300)
    state = boxes.state(names[name])
    assert (state["Running"], state["OOMKilled"]) == (True, False)
    assert "Traceback" not in boxes.logs(names[name])


def test_a_question_is_answered_by_the_model_that_comes_with_the_image(stack):
    models = {model["id"] for model in ask(stack, "/v1/models")["data"]}
    assert {"smollm2-135m-instruct-q4_1", "all-minilm-l6-v2"} <= models
    question = {"role": "user", "content": "Name the capital of France."}
    body = {"model": "smollm2-135m-instruct-q4_1", "messages": [question], "temperature": 0, "max_tokens": 20}
    answer = ask(stack, "/v1/chat/completions", body)
    assert "Paris" in answer["choices"][0]["message"]["content"]
    assert answer["usage"]["completion_tokens"] > 0


def test_texts_become_vectors_by_the_model_that_comes_with_the_image(stack):
    answer = ask(stack, "/v1/embeddings", {"model": "all-minilm-l6-v2", "input": ["eels", "the Sargasso Sea"]})
    assert [len(each["embedding"]) for each in answer["data"]] == [384, 384]


@pytest.mark.parametrize("name", ["rag", "tracking", "mlflow"])
def test_what_a_service_keeps_is_in_its_state_folder(stack, name):
    # It is all that it can write to.
    boxes, names = stack
    assert boxes.engine.docker("exec", names[name], "find", HOME, "-type", "f")


def test_services_end_by_themselves_when_they_are_told(stack):
    boxes, names = stack
    boxes.engine.docker("stop", "--time", "20", *names.values())
    states = {name: boxes.state(full) for name, full in names.items()}
    assert {name: state["ExitCode"] for name, state in states.items()} == dict.fromkeys(names, 0)


@pytest.mark.parametrize("name", DOORS)
def test_no_service_listens_for_everyone_without_a_key(boxes, built, name):
    container = boxes.run(name, built[name])
    assert boxes.wait_until_ended(container) == 1
    said = boxes.logs(container)
    assert DOORS[name] in said
    assert "Traceback" not in said


@pytest.mark.parametrize("name", sorted(set(IMAGES) - {"docker-proxy", "llamacpp"}))
def test_the_command_of_an_image_explains_itself(boxes, built, name):
    said = boxes.once(built[name], name, "--help", user="10001:10001", entrypoint="sparkstack")
    assert said.startswith("Usage: sparkstack")
