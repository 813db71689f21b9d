"""A recipe of one's own on an engine of others: from `sparkstack recipe compose` to an answer by the gateway.

The engine is a stand-in that takes vLLM's command line and finds its model in the volume as vLLM does, so that all but
the engine is as on a Spark without its GPU.
"""

import json
import subprocess
import time
from pathlib import Path

import httpx
import pytest
import yaml
from click.testing import CliRunner

from services.engines.commands.recipe import recipe
from tests.containers.stacks import KEY, composed

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]

IMAGE = "sparkstack-test/vllm:1.0.0"
NAME = "vllm-mine"
RECIPE = {
    "id": "mine",
    "name": "Mine",
    "source": {"kind": "hub", "repository": "acme/tiny", "revision": "main", "files": ["config.json", "*.safetensors"]},
    "licence": "MIT",
    "family": "llama",
    "format": "safetensors",
    "parameters": 1000,
    "quantization": "BF16",
    "capabilities": ["chat"],
    "context_tokens": 2048,
    "memory": {
        "weight_bytes": 1000,
        "layers": 1,
        "attention_layers": 1,
        "kv_heads": 1,
        "head_dim": 1,
        "source": "a test",
    },
    "engines": {"vllm": {"device": "cpu", "image": IMAGE, "context_tokens": 512, "kv_cache_bytes": 1048576}},
}
PUT = """
import json, pathlib
folder = pathlib.Path("/models/huggingface/hub/models--acme--tiny")
commit = "a" * 40
for part in ("refs", "blobs", f"snapshots/{commit}"):
    (folder / part).mkdir(parents=True, exist_ok=True)
(folder / "refs/main").write_text(commit)
for name, data in (("config.json", b'{"model_type": "llama"}'), ("model.safetensors", b"weights")):
    (folder / "blobs" / name).write_bytes(data)
    link = folder / "snapshots" / commit / name
    link.unlink(missing_ok=True)
    link.symlink_to(f"../../blobs/{name}")
print(json.dumps("put"))
"""
ASK = """
import json, sys, urllib.request
method, path = sys.argv[1:]
key = open("/run/secrets/engines_api_key").read().strip()
body = b'{"wait": true}' if path.endswith("/load") else b"{}" if method == "POST" else None
headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
request = urllib.request.Request("http://127.0.0.1:8010" + path, method=method, data=body, headers=headers)
try:
    answer = urllib.request.urlopen(request, timeout=120)
except urllib.error.HTTPError as error:
    answer = error
print(json.dumps([answer.status, json.loads(answer.read())]))
"""


@pytest.fixture(scope="module")
def overlay(tmp_path_factory):
    """What the command makes of the recipe."""
    state = tmp_path_factory.mktemp("state")
    folder = state / "recipes"
    folder.mkdir(mode=0o755)
    (folder / "mine.yaml").write_text(yaml.safe_dump(RECIPE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARKSTACK_STATE", str(state))
        made = CliRunner().invoke(recipe, ["compose", "mine"])
    assert made.exit_code == 0, made.output
    (state / "own.yaml").write_text(made.stdout)
    return state / "own"


@pytest.fixture(scope="module")
def stack(engine, built, overlay, tmp_path_factory):
    words = ("build", "--quiet", "--target", "vllm", "--tag", IMAGE, str(Path(__file__).with_name("standins")))
    subprocess.run(["docker", *words], env=engine.environment, check=True, timeout=600, stdout=subprocess.DEVNULL)
    with composed(engine, tmp_path_factory.mktemp("secrets"), overlays=("offline", str(overlay))) as stack:
        stack.compose("create", "--no-build", "--pull", "never", profile=f"{NAME},cpu")
        stack.compose("up", "--detach", "--wait", "--no-build", "--pull", "never")
        yield stack
    engine.docker("rmi", "--no-prune", IMAGE, check=False)


def test_a_model_that_is_not_here_says_how_to_get_it(stack):
    status, document = stack.inside("engines", ASK, "POST", "/models/mine/load")
    assert status >= 400
    assert "sparkstack pull mine" in document["error"]["message"]
    assert stack.inspect()[NAME]["State"]["Status"] == "created"


def test_it_is_loaded_from_the_volume_and_answers(stack):
    assert stack.inside("engines", PUT) == "put"
    body = {"model": "mine", "messages": [{"role": "user", "content": "Hi"}]}
    # What has just failed is not tried again at once.
    deadline = time.monotonic() + 60
    while (loaded := stack.inside("engines", ASK, "POST", "/models/mine/load"))[0] != 200:
        assert time.monotonic() < deadline, loaded
        time.sleep(1)
    answer = httpx.post(
        f"{stack.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {KEY}"}, timeout=120
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "Hello there."
    assert "loaded llama, 7 bytes, as 10001" in stack.compose("logs", "--no-log-prefix", NAME, profile=NAME)


def test_prometheus_is_told_where_its_figures_are(stack):
    status, groups = stack.inside("engines", ASK, "GET", "/prometheus/targets")
    assert status == 200
    assert [group["targets"] for group in groups if group["labels"]["model"] == "mine"] == [[f"{NAME}:8020"]]


def test_it_is_unloaded_and_its_container_stays(stack):
    status, _ = stack.inside("engines", ASK, "POST", "/models/mine/unload")
    assert status < 300
    deadline = time.monotonic() + 30
    while stack.inspect()[NAME]["State"]["Status"] != "exited" and time.monotonic() < deadline:
        time.sleep(0.5)
    assert stack.inspect()[NAME]["State"]["Status"] == "exited"


def test_the_container_can_read_models_and_not_write_them(stack):
    mounts = {mount["Destination"]: mount["RW"] for mount in stack.inspect()[NAME]["Mounts"]}
    assert mounts["/models"] is False
    assert json.dumps(stack.inspect()[NAME]["Config"]["Env"]).count("HF_HUB_CACHE=/models/huggingface/hub") == 1
