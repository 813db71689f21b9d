"""The `docker` command: run it, and know the engine that it talks to."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

# An engine that is well answers in a fraction of it; one that hangs must not hold `up`.
_LOOK_S = 20.0
_COMMAND_S = 120.0
_OLDEST_COMPOSE = (2, 24)
"""`up --wait` for dependencies, `--pull`, `start_interval` in health checks."""


class DockerError(click.ClickException):
    """A docker command failed; the message is what it said."""


class NoEngineError(click.ClickException):
    """There is no container engine here that could run the stack; the message says why and what to do."""

    exit_code = 2


@dataclass(frozen=True)
class Engine:
    """What a container engine says of itself.

    Args:
        compose: the version of the compose plugin; empty where there is none.
        architecture: as machines name it (`x86_64`, `aarch64`).
        root: the folder of images and volumes, on the machine of the engine.
        runtimes: names of the runtimes that containers can have; `nvidia` among them on a Spark.
        remote: the engine is another machine's.
    """

    version: str
    compose: str
    architecture: str
    root: Path
    runtimes: tuple[str, ...] = ()
    default_runtime: str = ""
    cdi_devices: tuple[str, ...] = ()
    operating_system: str = ""
    rootless: bool = False
    remote: bool = False

    @property
    def platform(self) -> str:
        """The platform of images that run here, such as `linux/arm64`."""
        return f"linux/{ARCHITECTURES.get(self.architecture, self.architecture)}"

    @property
    def has_nvidia(self) -> bool:
        """Whether containers can have a GPU."""
        return "nvidia" in self.runtimes or any(device.startswith("nvidia.com/gpu") for device in self.cdi_devices)


ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64", "amd64": "amd64"}


@dataclass(frozen=True)
class Docker:
    """A docker command line, and the variables that it finds its engine by."""

    program: str
    variables: Mapping[str, str] = field(repr=False, default_factory=lambda: dict(os.environ))

    @classmethod
    def find(cls, variables: Mapping[str, str] | None = None) -> "Docker | None":
        """Return the docker command that is on PATH; None where there is none."""
        given = os.environ if variables is None else variables
        program = shutil.which("docker", path=given.get("PATH"))
        return cls(program, dict(given)) if program else None

    def run(
        self,
        *arguments: str,
        timeout_s: float | None = _COMMAND_S,
        stdin: bytes | None = None,
        variables: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end and return what came of it, whatever that is.

        Raises:
            DockerError: it did not end in time, or can't be run.
        """
        try:
            return subprocess.run(
                [self.program, *arguments],
                env={**self.variables, **(variables or {})},
                cwd=folder,
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DockerError(f"`docker {arguments[0]}` did not end within {timeout_s:.0f} s") from None
        except OSError as error:
            raise DockerError(f"{self.program} can't be run: {error.strerror}") from None

    def ask(self, *arguments: str, **options: Any) -> str:
        """Run a command and return what it printed.

        Raises:
            DockerError: it failed, with what it said.
        """
        done = self.run(*arguments, **options)
        if done.returncode:
            raise DockerError(f"`docker {' '.join(arguments[:2])}` failed: {said(done)}")
        return done.stdout.decode("utf-8", "replace").strip()

    def show(self, *arguments: str, variables: Mapping[str, str] | None = None, folder: Path | None = None) -> None:
        """Run a command whose output, with its progress, is for the user.

        Raises:
            DockerError: it failed.
        """
        command = [self.program, *arguments]
        done = subprocess.run(command, env={**self.variables, **(variables or {})}, cwd=folder, check=False)
        if done.returncode:
            raise DockerError(
                f"`docker {' '.join(arguments[:2])}` failed (status {done.returncode}); it says why above"
            )

    def look(self) -> Engine:
        """Return what the engine says of itself.

        Raises:
            NoEngineError: none answers, or it runs no Linux containers.
        """
        try:
            done = self.run("info", "--format", "{{json .}}", timeout_s=_LOOK_S)
        except DockerError as error:
            raise NoEngineError(f"there is a docker command, but no engine answers it: {error.message}") from None
        info = _document(done.stdout)
        problems = info.get("ServerErrors") or []
        if done.returncode or problems or not info.get("ServerVersion"):
            why = "; ".join(problems) or said(done) or "no reason was given"
            raise NoEngineError(f"there is a docker command, but no engine answers it: {why}{_advice(why)}")
        if info.get("OSType") not in (None, "", "linux"):
            raise NoEngineError(f"the engine runs {info['OSType']} containers; switch it to Linux containers")
        return _engine(info, self.variables)


def said(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return what a command complained of: the last lines of its errors."""
    text = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
    return " ".join(line.strip() for line in text.splitlines()[-3:] if line.strip())


def compose_problem(engine: Engine) -> str:
    """Return why the engine's compose can't run the stack; empty where it can."""
    if not engine.compose:
        return (
            "docker has no compose plugin; install it (Debian, Ubuntu, DGX OS: sudo apt-get install "
            "docker-compose-plugin)"
        )
    if version_of(engine.compose) < _OLDEST_COMPOSE:
        oldest = ".".join(map(str, _OLDEST_COMPOSE))
        return f"docker's compose plugin is {engine.compose}; {oldest} or later is needed"
    return ""


def version_of(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, such as (2, 26, 1) of `v2.26.1-4`."""
    found = re.search(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def _document(text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text or b"{}")
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _engine(info: Mapping[str, Any], variables: Mapping[str, str]) -> Engine:
    plugins = (info.get("ClientInfo") or {}).get("Plugins") or []
    compose = next((str(plugin.get("Version") or "") for plugin in plugins if plugin.get("Name") == "compose"), "")
    devices = tuple(str(device.get("ID", "")) for device in info.get("DiscoveredDevices") or ())
    return Engine(
        version=str(info["ServerVersion"]),
        compose=compose,
        architecture=str(info.get("Architecture") or ""),
        root=Path(info.get("DockerRootDir") or "/var/lib/docker"),
        runtimes=tuple(info.get("Runtimes") or ()),
        default_runtime=str(info.get("DefaultRuntime") or ""),
        cdi_devices=devices,
        operating_system=str(info.get("OperatingSystem") or ""),
        rootless=any("rootless" in option for option in info.get("SecurityOptions") or ()),
        remote=variables.get("DOCKER_HOST", "").startswith(("tcp://", "ssh://", "http")),
    )


def _advice(why: str) -> str:
    if "permission denied" in why.lower():
        return ". You may not use it: sudo usermod -aG docker $USER, then log in again"
    if "cannot connect" in why.lower() or "is the docker daemon running" in why.lower():
        return ". Start it: sudo systemctl start docker (Docker Desktop: start the application)"
    return ""
