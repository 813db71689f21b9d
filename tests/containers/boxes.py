"""Containers as closed as compose runs them, for one test."""

import json
import subprocess
import time
from dataclasses import dataclass, field
from typing import Any

from tests.testkit.docker_engine import DockerEngine

CLOSED = ("--read-only", "--tmpfs", "/tmp:rw,nosuid,nodev,noexec", "--cap-drop", "ALL",
          "--security-opt", "no-new-privileges", "--pids-limit", "512")  # fmt: skip


@dataclass
class Boxes:
    """Containers in one network that has no way out, known to each other by their names.

    Args:
        prefix: of the names of network and containers.
    """

    engine: DockerEngine
    prefix: str
    _names: list[str] = field(default_factory=list)
    _network: bool = False

    def run(self, name: str, tag: str, *command: str, options: tuple[str, ...] = (), **variables: str) -> str:
        """Start a container under a name; returns the name that Docker knows it by."""
        if not self._network:
            self.engine.docker("network", "create", "--internal", self.prefix)
            self._network = True
        full = f"{self.prefix}-{name}"
        self._names.append(full)
        given = [word for variable in variables.items() for word in ("--env", "=".join(variable))]
        place = ("--network", self.prefix, "--network-alias", name)
        self.engine.docker("run", "--detach", "--name", full, *place, *CLOSED, *given, *options, tag, *command)
        return full

    def once(self, tag: str, *command: str, user: str = "0:0", entrypoint: str = "sh") -> str:
        """Run a command of an image to its end, without a network; returns what it said."""
        options = ("--rm", "--network", "none", "--user", user, "--entrypoint", entrypoint)
        return self.engine.docker("run", *options, tag, *command)

    def state(self, container: str) -> dict[str, Any]:
        """What Docker says of a container's state."""
        found = json.loads(self.engine.docker("inspect", "--format", "{{json .State}}", container))
        assert isinstance(found, dict)
        return found

    def wait_until_healthy(self, container: str, timeout_s: float = 120) -> None:
        """Wait for the health check to pass."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            state = self.state(container)
            if state["Health"]["Status"] == "healthy":
                return
            assert state["Running"], f"{container} has ended ({state['ExitCode']}): {self.logs(container)}"
            time.sleep(0.3)
        tries = [tried["Output"].strip() for tried in self.state(container)["Health"]["Log"]]
        raise AssertionError(f"{container} is not healthy: {tries[-1:]}; {self.logs(container)}")

    def wait_until_ended(self, container: str) -> int:
        """Wait for a container's end; returns its status."""
        return int(self.engine.docker("wait", container))

    def logs(self, container: str) -> str:
        """Return what a container has written, both streams."""
        command = ["docker", "logs", "--tail", "40", container]
        done = subprocess.run(
            command,
            env=self.engine.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        return done.stdout

    def remove(self) -> None:
        """Remove all of it."""
        if self._names:
            self.engine.docker("rm", "--force", "--volumes", *self._names, check=False)
        if self._network:
            self.engine.docker("network", "rm", self.prefix, check=False)
