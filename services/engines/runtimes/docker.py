"""Engines as containers: this starts and stops the ones that compose has created, over Docker's HTTP interface.

It creates, changes and removes nothing. So a socket proxy may stand between, which lets through, for containers with
our label alone: `GET /containers/json`, `GET /containers/<id>/{json,top,logs}` and
`POST /containers/<id>/{start,stop}`. Whoever can create a container owns the host; this service can't.

A container is an engine of ours by two labels: `sparkstack.project` (whose stack) and `sparkstack.instance` (which
engine). What it runs with, its keys too, is what compose has created it with.
Source: https://docs.docker.com/reference/api/engine/
"""

import asyncio
import json
import math
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from services.engines.runtimes import (
    EngineStartError,
    EngineStopError,
    Instance,
    LaunchSpec,
    RuntimeUnreachableError,
)

PROJECT_LABEL = "sparkstack.project"
INSTANCE_LABEL = "sparkstack.instance"
FILES_LABEL = "sparkstack.files"
"""What a container's files were when it was created; Docker does not tell."""
_TIMEOUT_S = 10.0
# Starting mounts volumes and asks the GPU's runtime; ending waits for a driver that gives 100 GB back.
_SLOW_TIMEOUT_S = 60.0
_FRAME_HEADER_BYTES = 8
_PROC = Path("/proc")


class DockerRuntime:
    """The engines of one project on one Docker engine.

    Args:
        endpoint: `unix:///run/docker.sock`, or `http://docker-proxy:2375`.
        project: the value of the label `sparkstack.project`.
        proc: where this machine's processes are seen.
    """

    def __init__(self, endpoint: str, project: str, *, proc: Path = _PROC) -> None:
        self._endpoint = endpoint
        self._project = project
        self._proc = proc
        self._client = _client(endpoint)
        self._started: set[str] = set()

    async def start(self, spec: LaunchSpec) -> None:
        """Start the container that was created for an engine.

        Raises:
            EngineStartError: there is none, it was created for something else, or Docker refuses.
            RuntimeUnreachableError
        """
        container = (await self._containers()).get(spec.name)
        if container is None:
            raise EngineStartError(
                f"there is no container for {spec.name} in the project {self._project!r}: "
                f"`docker compose create {spec.name}` makes it"
            )
        details = await self._get(f"/containers/{container}/json")
        if details["State"]["Running"]:
            raise EngineStartError(f"the container of {spec.name} runs already; stop it first")
        different = differences(spec, details)
        if different:
            raise EngineStartError(
                f"the container of {spec.name} was created with another {', '.join(different)}: "
                f"`docker compose up --no-start --force-recreate {spec.name}` makes it anew"
            )
        answer = await self._send("POST", f"/containers/{container}/start", timeout_s=_SLOW_TIMEOUT_S)
        if answer.status_code not in (204, 304):
            raise EngineStartError(f"Docker can't start {spec.name}: {_message(answer)}")
        self._started.add(spec.name)

    async def stop(self, name: str, *, grace_s: float) -> None:
        """Stop an engine's container, by force after `grace_s` in whole seconds; it stays, to be started again.

        Raises:
            EngineStopError: it runs on.
            RuntimeUnreachableError
        """
        container = (await self._containers()).get(name)
        if container is not None:
            path = f"/containers/{container}/stop?t={math.ceil(grace_s)}"
            answer = await self._send("POST", path, timeout_s=grace_s + _SLOW_TIMEOUT_S)
            if answer.status_code not in (204, 304, 404):
                raise EngineStopError(f"Docker can't stop {name}: {_message(answer)}")
        self._started.discard(name)

    async def created(self) -> frozenset[str]:
        """Return the names of all engines that have a container, whether they run or not.

        Raises:
            RuntimeUnreachableError
        """
        return frozenset(await self._containers())

    async def instances(self) -> dict[str, Instance]:
        """Return the engines that run, and those that have ended by themselves since this object saw them run.

        Docker keeps each container, and does not say which of them was stopped on purpose.

        Raises:
            RuntimeUnreachableError
        """
        found = {}
        for name, container in (await self._containers()).items():
            answer = await self._send("GET", f"/containers/{container}/json")
            if answer.status_code == 404:  # removed meanwhile
                continue
            state = self._checked(answer)["State"]
            if state["Running"]:
                self._started.add(name)
                pids = await self._pids(container, state["Pid"])
                found[name] = Instance(name, "running", pids, paused=bool(state.get("Paused")))
            elif name in self._started:
                found[name] = _ended(name, state)
        return found

    async def logs(self, name: str, lines: int) -> str:
        """Return the last lines that an engine has written.

        Raises:
            RuntimeUnreachableError
        """
        container = (await self._containers()).get(name)
        if container is None or lines <= 0:
            return ""
        answer = await self._send("GET", f"/containers/{container}/logs?stdout=1&stderr=1&tail={lines}")
        if answer.status_code == 404:
            return ""
        if answer.status_code != 200:
            raise RuntimeUnreachableError(f"Docker at {self._endpoint} answers: {_message(answer)}")
        return without_frames(answer.content).decode("utf-8", "replace").rstrip("\n")

    async def close(self) -> None:
        """Let go of connections; engines run on."""
        await self._client.aclose()

    async def _containers(self) -> dict[str, str]:
        """Return the container ids of our engines by name, the newest where two have a name."""
        wanted = quote(json.dumps({"label": [f"{PROJECT_LABEL}={self._project}", INSTANCE_LABEL]}))
        listed = await self._get(f"/containers/json?all=1&filters={wanted}")
        return {
            container["Labels"][INSTANCE_LABEL]: container["Id"]
            for container in sorted(listed, key=lambda each: int(each["Created"]))
            # Whatever stands between may not know the filter.
            if container["Labels"].get(PROJECT_LABEL) == self._project and INSTANCE_LABEL in container["Labels"]
        }

    async def _pids(self, container: str, main: int) -> tuple[int, ...]:
        """Return a container's processes, as far as they are processes of this machine, too.

        Docker counts where it runs: from inside a container, or from another machine, its numbers mean nothing.
        """
        if not await asyncio.to_thread(_is_in, self._proc / str(main) / "cgroup", container):
            return ()
        answer = await self._send("GET", f"/containers/{container}/top")
        if answer.status_code != 200:
            return (main,)
        table = answer.json()
        column = table["Titles"].index("PID")
        return (main, *sorted({int(row[column]) for row in table["Processes"]} - {main}))

    async def _get(self, path: str) -> Any:
        return self._checked(await self._send("GET", path))

    def _checked(self, answer: httpx.Response) -> Any:
        if answer.status_code != 200:
            raise RuntimeUnreachableError(f"Docker at {self._endpoint} answers: {_message(answer)}")
        return answer.json()

    async def _send(self, method: str, path: str, timeout_s: float = _TIMEOUT_S) -> httpx.Response:
        try:
            return await self._client.request(method, path, timeout=timeout_s)
        except httpx.HTTPError as error:
            raise RuntimeUnreachableError(
                f"Docker at {self._endpoint} does not answer: {error or type(error).__name__}"
            ) from None


def _client(endpoint: str) -> httpx.AsyncClient:
    # Nothing here speaks TLS: an empty context spares reading the system's certificates.
    no_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    scheme, _, rest = endpoint.partition("://")
    if scheme == "unix" and rest.startswith("/"):
        transport = httpx.AsyncHTTPTransport(uds=rest, verify=no_tls)
        return httpx.AsyncClient(transport=transport, base_url="http://docker", trust_env=False)
    if scheme in ("http", "tcp") and rest:
        return httpx.AsyncClient(base_url=f"http://{rest}", verify=no_tls, trust_env=False)
    raise ValueError(f"{endpoint!r} is no address of a Docker engine: unix:///path or http://host:port")


def differences(spec: LaunchSpec, details: Mapping[str, Any]) -> list[str]:
    """Return in what a container differs from what is to run; values of variables are not told, they may be keys."""
    config = details["Config"]
    variables = dict(entry.partition("=")[::2] for entry in config.get("Env") or ())
    wrong = [f"variable {name}" for name, value in spec.environment.items() if variables.get(name) != value]
    if spec.image is not None and config["Image"] != spec.image:
        wrong.append(f"image ({config['Image']}, not {spec.image})")
    if tuple(config.get("Cmd") or ()) != spec.command:
        wrong.append("command")
    if details["HostConfig"].get("RestartPolicy", {}).get("Name") not in (None, "", "no"):
        wrong.append("restart policy (it must be `no`: whether an engine comes back is not Docker's to decide)")
    return wrong + _differences_of_the_host(spec, details)


def _differences_of_the_host(spec: LaunchSpec, details: Mapping[str, Any]) -> list[str]:
    """Return what a container lacks of the host's: without it an engine starts, and fails under load or in an hour."""
    host = details["HostConfig"]
    mounted = {mount.get("Destination") for mount in details.get("Mounts") or ()}
    limits = {limit["Name"]: (limit["Soft"], limit["Hard"]) for limit in host.get("Ulimits") or ()}
    capabilities = {name.removeprefix("CAP_") for name in host.get("CapAdd") or ()}
    wrong = [f"mount (nothing lies at {path})" for path in (*spec.volumes, *spec.files) if path not in mounted]
    wrong += [f"limit of {name}" for name, value in spec.ulimits.items() if limits.get(name) != (value, value)]
    wrong += [f"set of capabilities ({name} is missing)" for name in spec.cap_add if name not in capabilities]
    if (details["Config"].get("Labels") or {}).get(FILES_LABEL, "") != spec.files_digest:
        wrong.append("set of files")
    if spec.gpu and not host.get("DeviceRequests"):
        wrong.append("set of devices (it has no GPU)")
    if spec.shm_bytes and host.get("ShmSize") != spec.shm_bytes:
        wrong.append("size of /dev/shm")
    if spec.ipc_host and host.get("IpcMode") != "host":
        wrong.append("IPC mode")
    return wrong


def without_frames(content: bytes) -> bytes:
    """Return the text of a log: Docker cuts it in frames of `stream, 0, 0, 0, length` where there is no terminal."""
    text, at = [], 0
    while at < len(content):
        header = content[at : at + _FRAME_HEADER_BYTES]
        if len(header) < _FRAME_HEADER_BYTES or header[0] > 2 or header[1:4] != b"\0\0\0":
            return content  # of a terminal
        length = int.from_bytes(header[4:], "big")
        text.append(content[at + _FRAME_HEADER_BYTES : at + _FRAME_HEADER_BYTES + length])
        at += _FRAME_HEADER_BYTES + length
    return b"".join(text)


def _ended(name: str, state: Mapping[str, Any]) -> Instance:
    code = int(state["ExitCode"])
    # What a shell makes of a signal.
    status = 128 - code if 128 < code <= 192 else code
    if state.get("OOMKilled"):
        return Instance(name, "exited", exit_status=status, reason="out of memory")
    return Instance(name, "exited", exit_status=status, reason=state.get("Error") or f"exit status {code}")


def _is_in(cgroup: Path, container: str) -> bool:
    try:
        return container in cgroup.read_text(encoding="utf-8")
    except OSError:
        return False


def _message(answer: httpx.Response) -> str:
    try:
        said = answer.json()["message"]
    except (ValueError, KeyError, TypeError):
        said = answer.text.strip()[:200]
    return f"{said or 'nothing'} (status {answer.status_code})"
