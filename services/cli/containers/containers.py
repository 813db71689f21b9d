"""The containers of one compose project, as Docker knows them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from services.cli.containers.docker import Docker
from services.cli.probes import Health, missing_checks
from services.kit.supervisord import ProcessState, State

PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"
INSTANCE_LABEL = "sparkstack.instance"
_FOLDER_LABEL = "com.docker.compose.project.working_dir"
_ONE_OFF_LABEL = "com.docker.compose.oneoff"
_PROCESS_STATES: dict[str, State] = {
    "running": "running",
    "paused": "running",
    "restarting": "backoff",
    "created": "stopped",
    "exited": "exited",
    "removing": "stopping",
    "dead": "fatal",
}


@dataclass(frozen=True)
class Container:
    """One container.

    Args:
        service: its name in the compose file.
        state: as Docker says it: `running`, `exited`, `restarting`, `created`, …
        health: `healthy`, `unhealthy`, `starting`; empty where nothing asks.
        health_said: what the last health check printed.
        pid: as the engine's machine sees it; 0 while it does not run.
        started_at: seconds since 1970; 0 before the first start.
        restarts: by Docker, since it was created.
        ports: published ones: of the container → address and port of this machine.
        instance: which engine it is; empty for all others.
        mounts: name of a volume → where it is inside.
        folder: of the compose file that it was made of.
    """

    id: str
    name: str
    service: str
    state: str
    health: str = ""
    health_said: str = ""
    pid: int = 0
    started_at: int = 0
    restarts: int = 0
    exit_code: int = 0
    problem: str = ""
    ports: Mapping[int, tuple[str, int]] = field(default_factory=dict)
    instance: str = ""
    image: str = ""
    image_id: str = ""
    mounts: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""

    @property
    def is_up(self) -> bool:
        """Whether it runs."""
        return self.state in ("running", "paused")

    def process(self) -> ProcessState:
        """Return it as what supervisord would say of a process, which waiting and judging know."""
        state = _PROCESS_STATES.get(self.state, "unknown")
        return ProcessState(self.service, state, self.pid, self.started_at, self.exit_code, self.problem)

    def judge(self) -> Health:
        """Return whether it can do its work, by its own health check."""
        if not self.is_up:
            return Health(False, self.problem or f"its container is {self.state}")
        if self.state == "paused":
            return Health(False, f"its container is paused: docker unpause {self.name}")
        if self.health in ("", "healthy"):
            return Health(True)
        return Health(False, reason_in(self.health_said) or f"its health check says {self.health}")


def find_containers(docker: Docker, project: str) -> dict[str, Container]:
    """Return the containers of a project by their services' names, engines too; {} where there are none.

    Raises:
        DockerError: the engine does not answer.
    """
    ids = docker.ask("ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={PROJECT_LABEL}={project}").split()
    if not ids:
        return {}
    # One that is removed meanwhile is an error to `inspect`, which prints the others all the same.
    found = docker.run("inspect", "--type", "container", *ids)
    containers = [_container(document) for document in json.loads(found.stdout or b"[]")]
    return {each.service: each for each in sorted(containers, key=lambda each: each.started_at) if each.service}


def reason_in(health_said: str) -> str:
    """Return what is missing, of a health check's output: a page's status and text, or a sentence; else nothing."""
    where, brace, rest = health_said.partition("{")
    if where.rstrip().endswith(": 200"):  # by then: its health is asked for at intervals
        return ""
    try:
        document = json.loads(brace + rest) if brace else {}
    except ValueError:
        document = {}
    return (missing_checks(document) if isinstance(document, dict) else "") or health_said


def _container(document: Mapping[str, Any]) -> Container:
    state, config = document["State"], document["Config"]
    labels = config.get("Labels") or {}
    health = state.get("Health") or {}
    log = health.get("Log") or []
    one_off = labels.get(_ONE_OFF_LABEL) == "True"
    return Container(
        id=document["Id"],
        name=document["Name"].lstrip("/"),
        service="" if one_off else labels.get(SERVICE_LABEL, ""),
        state=state["Status"],
        health=health.get("Status") or "",
        health_said=_one_line(log[-1].get("Output") or "") if log else "",
        pid=state.get("Pid") or 0,
        started_at=_seconds(state.get("StartedAt") or ""),
        restarts=document.get("RestartCount") or 0,
        exit_code=state.get("ExitCode") or 0,
        problem="out of memory" if state.get("OOMKilled") else state.get("Error") or "",
        ports=_published((document.get("NetworkSettings") or {}).get("Ports") or {}),
        instance=labels.get(INSTANCE_LABEL, ""),
        image=config.get("Image") or "",
        image_id=document.get("Image") or "",
        mounts={
            mount["Name"]: mount["Destination"]
            for mount in document.get("Mounts") or ()
            if mount.get("Type") == "volume" and mount.get("Name")
        },
        folder=labels.get(_FOLDER_LABEL, ""),
    )


def _published(ports: Mapping[str, Any]) -> dict[int, tuple[str, int]]:
    return {
        int(inside.partition("/")[0]): (outside[0]["HostIp"], int(outside[0]["HostPort"]))
        for inside, outside in ports.items()
        if outside
    }


def _seconds(text: str) -> int:
    """Return a time such as `2026-11-21T19:00:00.123456789Z` in seconds; 0 for Docker's `never`."""
    if not text or text.startswith("0001-"):
        return 0
    return int(datetime.fromisoformat(f"{text[:19]}+00:00").timestamp())


def _one_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
