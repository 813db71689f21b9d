"""A docker command for tests: a script that answers as it is told, and notes what it was asked."""

import json
import os
import sys
from pathlib import Path
from typing import Any

INFO = {
    "ServerVersion": "26.1.5",
    "Architecture": "x86_64",
    "OSType": "linux",
    "OperatingSystem": "Debian GNU/Linux 12",
    "DockerRootDir": "/var/lib/docker",
    "DefaultRuntime": "runc",
    "Runtimes": {"runc": {}, "io.containerd.runc.v2": {}},
    "SecurityOptions": ["name=seccomp,profile=builtin"],
    "ClientInfo": {"Plugins": [{"Name": "buildx", "Version": "0.13.1"}, {"Name": "compose", "Version": "2.26.1-4"}]},
}

_SCRIPT = """\
#!{python}
import json, pathlib, sys
folder = pathlib.Path({folder!r})
words = sys.argv[1:]
stdin = "" if sys.stdin.isatty() else sys.stdin.read()
with (folder / "asked.jsonl").open("a") as file:
    file.write(json.dumps({{"words": words, "stdin": stdin}}) + "\\n")
for wanted, answer in json.loads((folder / "answers.json").read_text()):
    place = -1
    for word in wanted:
        place = words.index(word, place + 1) if word in words[place + 1:] else len(words)
        if place == len(words):
            break
    else:
        sys.stdout.write(answer["stdout"])
        sys.stderr.write(answer["stderr"])
        sys.exit(answer["status"])
sys.stderr.write(f"nothing was told about: {{words}}\\n")
sys.exit(99)
"""


class FakeDocker:
    """Writes the script and its answers; the latest answer that fits a command's words is given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answers: list[tuple[list[str], dict[str, Any]]] = []
        folder.mkdir(parents=True, exist_ok=True)
        self.program = folder / "docker"
        self.program.write_text(_SCRIPT.format(python=sys.executable, folder=str(folder)))
        self.program.chmod(0o755)
        self.variables = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
        self.variables.pop("DOCKER_HOST", None)
        self.info()
        self.answer("context", "inspect", stdout="unix:///var/run/docker.sock\n")

    def answer(self, *words: str, stdout: Any = "", stderr: str = "", status: int = 0) -> None:
        """Say what is answered to commands that have these words in this order."""
        text = stdout if isinstance(stdout, str) else json.dumps(stdout)
        self.answers.insert(0, (list(words), {"stdout": text, "stderr": stderr, "status": status}))
        (self.folder / "answers.json").write_text(json.dumps(self.answers))

    def info(self, **changed: Any) -> None:
        """Say how the engine is."""
        self.answer("info", stdout={**INFO, **changed})

    @property
    def asked(self) -> list[list[str]]:
        """The commands so far, word by word."""
        return [line["words"] for line in self._lines()]

    @property
    def stdins(self) -> list[str]:
        """What each command was given on stdin."""
        return [line["stdin"] for line in self._lines()]

    def _lines(self) -> list[dict[str, Any]]:
        path = self.folder / "asked.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def container(service: str, project: str = "sparkstack", **changed: Any) -> dict[str, Any]:
    """Return what `docker inspect` says of a container that runs and is well; `changed` are parts of its state."""
    labels = {"com.docker.compose.project": project, "com.docker.compose.service": service}
    state = {
        "Status": "running",
        "Pid": 4_000_000,
        "StartedAt": "2026-11-21T19:00:00.123456789Z",
        "ExitCode": 0,
        "Error": "",
        "Health": {"Status": "healthy", "Log": [{"Output": "127.0.0.1:1/readyz: 200 {}\n"}]},
    }
    ports = changed.pop("Ports", {})
    labels |= changed.pop("Labels", {})
    restarts = changed.pop("RestartCount", 0)
    mounts = changed.pop("Mounts", [])
    return {
        "Id": f"{service}-{'0' * 64}"[:64],
        "Name": f"/{project}-{service}-1",
        "Image": f"sha256:{service}",
        "RestartCount": restarts,
        "Config": {"Image": f"sparkstack/{service}:0.1.0", "Labels": labels},
        "NetworkSettings": {"Ports": ports},
        "Mounts": mounts,
        "State": {**state, **changed},
    }
