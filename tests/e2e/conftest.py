"""A whole stack of one's own: its folders in tmp_path, its ports free, everything ended when the test ends."""

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest

from services.cli.home import Home
from services.cli.processes import Unit, end_units, find_units
from services.stack import SERVICES
from tests.testkit.ports import free_port

REPOSITORY = Path(__file__).parents[2]
OWN_PREFIXES = (
    "GATEWAY_", "ENGINES_", "EMBEDDINGS_", "RAG_", "TRACKING_", "MLFLOW_", "LLAMACPP_", "VLLM_", "SPARKSTACK_", "OTEL_",
    "GGUF", "MODE", "LOG_LEVEL",
)  # fmt: skip
ENGINE = "llamacpp-smollm2-135m-instruct-q4_1"
# The optional ones are left out, unless a test has a stack of its own.
PROCESSES = sorted([*(service.name for service in SERVICES if not service.optional), ENGINE, "supervisord"])
# Nothing answers there: what goes through a proxy of the environment instead of to this machine fails.
DEAD_PROXY = "http://127.0.0.1:9"


@dataclass
class Stack:
    """One stack, driven by its command line as a user does."""

    home: Home
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        outside = {name: value for name, value in os.environ.items() if not name.startswith(OWN_PREFIXES)}
        self.environment = {
            **outside,
            "HTTP_PROXY": DEAD_PROXY,
            "SPARKSTACK_HOME": str(self.home.root),
            "SPARKSTACK_STATE": str(self.home.state),
            "GATEWAY_OLLAMA_PORT": "0",
            **{service.port_variable: str(free_port()) for service in SERVICES},
            "LLAMACPP_PORT": str(free_port()),
            "SPARKSTACK_UP_TIMEOUT_S": "90",
            "WITHOUT": "mlflow tracking",
            **self.environment,
        }

    def start(self, *arguments, **variables) -> subprocess.Popen:
        """Start a verb and go on; its output is read by `communicate`."""
        return subprocess.Popen(
            [sys.executable, "-m", "services.cli.main", *arguments],
            cwd=REPOSITORY,
            env=self.environment | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments, code=0, timeout_s=110, **variables) -> str:
        """Run a verb to its end, check its exit status, and return what it said."""
        process = self.start(*arguments, **variables)
        said, _ = process.communicate(timeout=timeout_s)
        assert process.returncode == code, f"status {process.returncode}, not {code}:\n{said}\n{self.all_logs()}"
        assert "Traceback" not in said
        return said

    def up(self, *arguments, **variables) -> str:
        """Start the stack; returns what `up` said."""
        return self.run("up", *arguments, **variables)

    def status(self) -> dict[str, dict]:
        """Each service's line of `status --json`, by name."""
        return {row["name"]: row for row in self._status()["services"]}

    def models(self) -> dict[str, dict]:
        """Each model's line of `status --json`, by id."""
        return {row["id"]: row for row in self._status()["models"]}

    def _status(self) -> dict:
        process = self.start("status", "--json")
        said, _ = process.communicate(timeout=60)
        return json.loads(said)

    def pids(self) -> dict[str, int]:
        """The pids of services, and of loaded models' engines by the models' ids."""
        status = self._status()
        services = {row["name"]: row["pid"] for row in status["services"]}
        return services | {row["id"]: row["pids"][0] for row in status["models"] if row["pids"]}

    def units(self) -> list[Unit]:
        """The living processes of this stack."""
        return find_units(self.home)

    def wait_until_ready(self, service: str, *, other_pid_than: int) -> dict:
        """Wait until a service is ready under another pid; returns its line of the status."""

        def ready():
            row = self.status().get(service, {})
            return row if row.get("state") == "ready" and row["pid"] != other_pid_than else None

        return wait_for(ready, f"a new {service}", self.all_logs)

    def count(self, metric: str) -> float:
        """The sum of a counter of the engines service."""
        text = httpx.get(f"{self.status()['engines']['address']}/metrics", trust_env=False).text
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"{metric}{{"))

    @property
    def gateway(self) -> str:
        return f"http://127.0.0.1:{self.environment['GATEWAY_PORT']}"

    @property
    def key(self) -> str:
        return self.run("key").strip()

    def ask(self, question="Name the capital of France.", model="default") -> dict:
        """The reply to a question at temperature 0."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": 30,
        }
        response = httpx.post(
            f"{self.gateway}/v1/chat/completions",
            json=body,
            headers={"authorization": f"Bearer {self.key}"},
            timeout=60,
            trust_env=False,
        )
        assert response.status_code == 200, response.text
        return response.json()

    def all_logs(self) -> str:
        logs = sorted(self.home.logs.glob("*.log")) if self.home.logs.is_dir() else []
        return "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in logs)


def wait_for(condition, what, explain=lambda: "", timeout_s=60.0):
    """Return what `condition` returns as soon as that is true."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited {timeout_s:.0f} s for {what}; {explain()}")


@pytest.fixture
def new_stack(tmp_path):
    """A function that makes a stack, of a folder's name and variables."""
    stacks = []

    def make(folder="project", **variables) -> Stack:
        root = tmp_path / folder
        root.mkdir()
        stack = Stack(Home(REPOSITORY, root, (root / ".state").resolve()), variables)
        stacks.append(stack)
        return stack

    yield make
    for stack in stacks:
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            stack.run("down")
        left = end_units(stack.units(), grace_s=5)
        assert not left, f"down left {[unit.name for unit in left]}"


@pytest.fixture
def stack(new_stack):
    return new_stack()


def listens(port) -> bool:
    """Whether anything listens on a port of this machine."""
    return any(c.status == psutil.CONN_LISTEN and c.laddr.port == int(port) for c in psutil.net_connections("tcp"))
