"""A whole stack of a test's own, as processes or as containers, driven by its command line as a user does."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from services.cli.containers.containers import Container, find_containers
from services.cli.containers.docker import Docker
from services.cli.containers.transport import ContainerTransport
from services.cli.home import Home
from services.cli.processes import Unit, end_units, find_units
from services.stack import SERVICES
from tests.testkit.docker_engine import DockerEngine
from tests.testkit.ports import free_port

REPOSITORY = Path(__file__).parents[2]
OWN_PREFIXES = (
    "GATEWAY_", "ENGINES_", "EMBEDDINGS_", "RAG_", "TRACKING_", "MLFLOW_", "LLAMACPP_", "VLLM_", "SPARKSTACK_", "OTEL_",
    "GGUF", "MODE", "LOG_LEVEL", "COMPOSE_", "PROFILE", "OFFLINE", "DOCKER_SOCKET", "WITHOUT",
)  # fmt: skip
MODEL = "smollm2-135m-instruct-q4_1"
ENGINE = f"llamacpp-{MODEL}"
PROCESSES = sorted([*(service.name for service in SERVICES if not service.optional), ENGINE, "supervisord"])
# The core of compose: the one more is who may talk to Docker.
CONTAINERS = ["docker-proxy", "embeddings", "engines", "gateway", ENGINE, "rag", "tracking"]
# Nothing answers there: what goes through a proxy of the environment instead of to this machine fails.
DEAD_PROXY = "http://127.0.0.1:9"
_numbers = itertools.count()


@dataclass
class Stack:
    """One stack, driven by its command line as a user does; here, as processes."""

    home: Home
    environment: dict[str, str] = field(default_factory=dict)
    patience = 1
    expected = PROCESSES

    def __post_init__(self):
        outside = {name: value for name, value in os.environ.items() if not name.startswith(OWN_PREFIXES)}
        self.environment = {
            **outside,
            "HTTP_PROXY": DEAD_PROXY,
            "SPARKSTACK_HOME": str(self.home.root),
            "SPARKSTACK_STATE": str(self.home.state),
            "GATEWAY_OLLAMA_PORT": "0",
            **self.own_variables(),
            **self.environment,
        }

    def own_variables(self) -> dict[str, str]:
        """What this mode wants."""
        return {
            "MODE": "embedded",
            "WITHOUT": "mlflow tracking",
            **{service.port_variable: str(free_port()) for service in SERVICES},
            "LLAMACPP_PORT": str(free_port()),
            "SPARKSTACK_UP_TIMEOUT_S": "90",
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
        said, _ = process.communicate(timeout=timeout_s * self.patience)
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

    def running(self) -> list[str]:
        """The names of what runs of this stack."""
        return sorted({unit.name for unit in self.units()})

    def units(self) -> list[Unit]:
        """The living processes of this stack."""
        return find_units(self.home)

    def freeze(self, name) -> None:
        """Have a service or a model's engine stand still."""
        os.kill(self.pids()[name], signal.SIGSTOP)

    def thaw(self, name) -> None:
        """Have it go on."""
        os.kill(self.pids()[name], signal.SIGCONT)

    def wait_until_ready(self, service: str, *, other_pid_than: int) -> dict:
        """Wait until a service is ready under another pid; returns its line of the status."""

        def ready():
            row = self.status().get(service, {})
            return row if row.get("state") == "ready" and row["pid"] != other_pid_than else None

        return wait_for(ready, f"a new {service}", self.all_logs, 60 * self.patience)

    def ask_inside(self, service: str, path: str) -> httpx.Response:
        """GET a page of a service that only its neighbours reach."""
        return httpx.get(f"{self.status()[service]['address']}{path}", trust_env=False)

    def count(self, metric: str) -> float:
        """The sum of a counter of the engines service."""
        text = self.ask_inside("engines", "/metrics").text
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

    def end(self) -> None:
        """Stop it, and check that nothing is left."""
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            self.run("down")
        left = end_units(self.units(), grace_s=5)
        assert not left, f"down left {[unit.name for unit in left]}"


@dataclass
class ContainerStack(Stack):
    """One stack as containers, a compose project of its own."""

    engine: DockerEngine | None = None
    project: str = ""
    patience = 4
    expected = CONTAINERS

    def own_variables(self) -> dict[str, str]:
        """What this mode wants."""
        assert self.engine is not None
        self.project = f"sparkstack-e2e-{os.getpid()}-{next(_numbers)}"
        return {
            **{name: value for name, value in self.engine.environment.items() if not name.startswith(OWN_PREFIXES)},
            "MODE": "compose",
            "PROFILE": "cpu",
            "COMPOSE_PROJECT_NAME": self.project,
            "GATEWAY_PORT": str(free_port()),
            "SPARKSTACK_UP_TIMEOUT_S": "300",
        }

    @property
    def docker(self) -> Docker:
        """The docker command, as the stack's own command line calls it."""
        found = Docker.find(self.environment)
        assert found is not None
        return found

    def containers(self) -> dict[str, Container]:
        """The containers of this stack, by service."""
        return find_containers(self.docker, self.project)

    def pids(self) -> dict[str, int]:
        """The pids of services, and of loaded models' engines by the models' ids."""
        return {
            each.instance.partition("-")[2] or name: each.pid for name, each in self.containers().items() if each.is_up
        }

    def running(self) -> list[str]:
        """The names of what runs of this stack."""
        return sorted(name for name, each in self.containers().items() if each.is_up)

    def units(self) -> list[Unit]:
        """No process of a stack of containers is this machine's own."""
        return find_units(self.home)

    def _id(self, name: str) -> str:
        return next(
            each.id for each in self.containers().values() if name in (each.service, each.instance, *_model(each))
        )

    def freeze(self, name) -> None:
        """Have a service or a model's engine stand still."""
        self.docker.ask("pause", self._id(name))

    def thaw(self, name) -> None:
        """Have it go on."""
        self.docker.ask("unpause", self._id(name))

    def ask_inside(self, service: str, path: str) -> httpx.Response:
        """GET a page of a service that only its neighbours reach."""
        port = next(row.port for row in SERVICES if row.name == service)
        with httpx.Client(transport=ContainerTransport(self.docker, self._id(service))) as client:
            return client.get(f"http://{service}:{port}{path}")

    def all_logs(self) -> str:
        """The end of each container's log."""
        said = []
        for name, each in self.containers().items():
            done = self.docker.run("logs", "--tail", "30", each.id)
            said.append(f"--- {name} ({each.state}, {each.health})\n{(done.stdout + done.stderr).decode()[-3000:]}")
        return "\n".join(said)

    def networks(self) -> list[str]:
        """The networks of this stack."""
        mine = f"label=com.docker.compose.project={self.project}"
        return self.docker.ask("network", "ls", "--quiet", "--filter", mine).split()

    def end(self) -> None:
        """Stop it, check that nothing is left, and remove its data."""
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            self.run("down")
        left = self.containers()
        networks = self.networks()
        for each in left.values():
            self.docker.run("rm", "--force", "--volumes", each.id)
        for network in networks:
            self.docker.run("network", "rm", network)
        mine = f"label=com.docker.compose.project={self.project}"
        volumes = self.docker.ask("volume", "ls", "--quiet", "--filter", mine).split()
        if volumes:
            self.docker.run("volume", "rm", "--force", *volumes)
        assert not left, f"down left {sorted(left)}"
        assert not networks, f"down left {networks}"


def _model(container: Container) -> list[str]:
    return [container.instance.partition("-")[2]] if container.instance else []


def wait_for(condition, what, explain=lambda: "", timeout_s=120.0):
    """Return what `condition` returns as soon as that is true."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited {timeout_s:.0f} s for {what}; {explain()}")


def listens(port) -> bool:
    """Whether anything listens on a port of this machine."""
    return any(c.status == psutil.CONN_LISTEN and c.laddr.port == int(port) for c in psutil.net_connections("tcp"))
