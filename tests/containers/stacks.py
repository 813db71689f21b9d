"""The compose files as a project of a test's own, with secrets and ports of its own; removed at its end."""

import contextlib
import json
import os
import secrets
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.compose.files import FOLDER, read
from tests.testkit.docker_engine import DockerEngine
from tests.testkit.ports import free_port

KEY = "sk-spark-test"
_PORTS = ("GATEWAY_PORT", "MLFLOW_PORT", "PROMETHEUS_PORT", "ALERTMANAGER_PORT")


@dataclass
class Stack:
    """The core, as a project of its own."""

    engine: DockerEngine
    project: str
    variables: dict[str, str]
    files: tuple[str, ...]

    @property
    def url(self) -> str:
        """Where its gateway is."""
        return f"http://127.0.0.1:{self.variables['GATEWAY_PORT']}"

    def compose(self, *arguments: str, profile: str = "", check: bool = True) -> str:
        """Run a compose command on its files; `profile`: several by comma."""
        files = [word for name in self.files for word in ("--file", str(FOLDER / f"{name}.yaml"))]
        chosen = [word for name in profile.split(",") if name for word in ("--profile", name)]
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


@contextlib.contextmanager
def composed(engine: DockerEngine, folder: Path, *, overlays: tuple[str, ...] = ()) -> Iterator[Stack]:
    """Give a stack of which nothing is started yet.

    Args:
        folder: an empty one, for its secrets.
    """
    for name in read("compose")["secrets"]:
        (folder / name).write_text(KEY if name == "sparkstack_api_key" else secrets.token_urlsafe(32))
        (folder / name).chmod(0o644)
    (folder / "hf_token").write_text("")
    names = folder.with_name(f"{folder.name}-names")
    names.mkdir()
    socket = Path(engine.endpoint.removeprefix("unix://"))
    project = f"sparkstack-test-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    variables = {
        "COMPOSE_PROJECT_NAME": project,
        "SPARKSTACK_SECRETS": str(folder),
        "SPARKSTACK_NAMES": str(names),
        "DOCKER_SOCKET": str(socket),
        "DOCKER_GID": str(socket.stat().st_gid),
        "ENGINES_PROFILES": "cpu",
        **{name: str(free_port()) for name in _PORTS},
    }
    stack = Stack(engine, project, variables, ("compose", *overlays))
    try:
        yield stack
    finally:
        stack.compose("down", "--volumes", "--timeout", "5", profile="*", check=False)
