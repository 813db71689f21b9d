"""The servers of others around the core, from compose.yaml as it is: Prometheus, PostgreSQL, Valkey and MLflow.

Where their images can't be had, Debian's packages stand in under the upstream names (standins/Dockerfile).
"""

import json
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from tests.compose.files import core
from tests.containers.stacks import KEY, composed

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1500)]

STAND_INS = ("prometheus", "alertmanager", "node-exporter", "valkey", "postgres")
PROFILES = "mlflow,postgres,valkey,observability"
SERVERS = (*STAND_INS, "mlflow")
CORE = ("gateway", "engines", "docker-proxy", "embeddings", "rag", "tracking")


@pytest.fixture(scope="module")
def images(engine, tell):
    """Every server's image, or what stands in for it."""
    there = set(engine.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split())
    missing = {name: core()[name]["image"] for name in STAND_INS if core()[name]["image"] not in there}
    folder = str(Path(__file__).with_name("standins"))
    for name, image in missing.items():
        words = ("build", "--quiet", "--target", name, "--tag", image, folder)
        subprocess.run(["docker", *words], env=engine.environment, check=True, timeout=1200, stdout=subprocess.DEVNULL)
    if missing:
        tell(f"images of servers, by Debian's packages: {', '.join(missing.values())}")
    yield
    for image in missing.values():
        engine.docker("rmi", "--no-prune", image, check=False)


@pytest.fixture(scope="module")
def stack(engine, built, images, tmp_path_factory):
    overlays = ("offline", "mlflow", "postgres")
    with composed(engine, tmp_path_factory.mktemp("secrets"), overlays=overlays) as stack:
        stack.compose("create", "--no-build", "--pull", "never", profile="cpu")
        words = ("up", "--detach", "--wait", "--no-build", "--pull", "never")
        stack.compose(*words, *CORE, *SERVERS, profile=PROFILES)
        yield stack


def ask(stack, port, path, **options):
    answer = httpx.request(
        options.pop("method", "GET"), f"http://127.0.0.1:{stack.variables[port]}{path}", timeout=30, **options
    )
    answer.raise_for_status()
    return answer.json()


def eventually(look, timeout_s=90):
    deadline = time.monotonic() + timeout_s
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(1)
    return found


def test_all_are_healthy_under_their_own_users(stack):
    for name, document in stack.inspect().items():
        if name in SERVERS:
            assert document["State"]["Health"]["Status"] == "healthy", name
            assert document["HostConfig"]["ReadonlyRootfs"], name
            assert document["Config"]["User"] not in ("", "0", "root"), name


def test_prometheus_reaches_every_target_and_knows_the_rules(stack):
    def targets():
        active = ask(stack, "PROMETHEUS_PORT", "/api/v1/targets")["data"]["activeTargets"]
        return {each["labels"]["job"]: each["health"] for each in active}

    wanted = {"gateway", "engines", "embeddings", "rag", "tracking", "prometheus", "alertmanager", "node"}
    eventually(lambda: {job for job, health in targets().items() if health == "up"} == wanted)
    assert targets() == dict.fromkeys(wanted, "up"), "the gateway's figures with the key; no dcgm, which isn't started"
    groups = ask(stack, "PROMETHEUS_PORT", "/api/v1/rules")["data"]["groups"]
    assert groups
    assert all(rule["health"] != "err" for group in groups for rule in group["rules"])
    found = ask(stack, "PROMETHEUS_PORT", "/api/v1/query", params={"query": "node_memory_MemAvailable_bytes"})
    assert float(found["data"]["result"][0]["value"][1]) > 2**20
    managers = ask(stack, "PROMETHEUS_PORT", "/api/v1/alertmanagers")["data"]["activeAlertmanagers"]
    assert [manager["url"] for manager in managers] == ["http://alertmanager:9093/api/v2/alerts"]


def test_mlflow_keeps_its_records_in_postgres(stack):
    made = ask(
        stack, "MLFLOW_PORT", "/api/2.0/mlflow/experiments/create", method="POST", json={"name": "kept-in-postgres"}
    )
    query = f"select name from experiments where experiment_id = {int(made['experiment_id'])}"
    words = ("psql", "--username", "sparkstack", "--dbname", "sparkstack", "--tuples-only", "--no-align")
    assert stack.compose("exec", "-T", "postgres", *words, "--command", query, profile=PROFILES) == "kept-in-postgres\n"


def test_a_request_is_a_trace_in_mlflow(stack):
    body = {"model": "smollm2", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4}
    answer = httpx.post(
        f"{stack.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {KEY}"}, timeout=120
    )
    assert answer.status_code == 200, answer.text

    def traces():
        asked = {"locations": [{"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}}]}
        return ask(stack, "MLFLOW_PORT", "/api/3.0/mlflow/traces/search", method="POST", json=asked).get("traces")

    assert eventually(traces)


def test_valkey_wants_the_password_of_the_secret(stack):
    def ping(*words):
        return stack.compose("exec", "-T", "valkey", "valkey-cli", *words, "ping", profile=PROFILES, check=False)

    password = (Path(stack.variables["SPARKSTACK_SECRETS"]) / "valkey_password").read_text()
    assert "NOAUTH" in ping()
    assert "PONG" in ping("--no-auth-warning", "-a", password)
    assert password not in json.dumps(stack.inspect()["valkey"])
