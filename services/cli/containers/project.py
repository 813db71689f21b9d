"""The compose project: which files and profiles it is made of, what they say, and how compose is called on it."""

import difflib
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from services import __version__
from services.cli.containers.docker import ARCHITECTURES, Docker, DockerError, Engine
from services.cli.containers.secret_files import folder_of
from services.cli.home import Home
from services.kit.files import read_json
from services.stack import SERVICES

NAME_VARIABLE = "COMPOSE_PROJECT_NAME"
NAME = "sparkstack"
OWN_IMAGES = "sparkstack/"
PROFILES = ("cpu", "spark")
ENGINE_PROFILES = ("vllm", "sglang", "trtllm", "llamacpp", "ollama")
"""Profiles that hold the models of an engine; `vllm-…`, a container's name, is a profile that holds it alone."""

_OFFLINE = "offline"
_OLLAMA_PORT = "ollama-port"
_MODELS_FOLDER = "models-folder"
_NO_PROFILES = frozenset({"compose", "engines", _OFFLINE, _OLLAMA_PORT, _MODELS_FOLDER})
"""Files that PROFILES does not name: what is always there, and what variables of their own switch on."""
_TRACKING = "tracking"

_TRUE = frozenset({"1", "true", "yes", "on"})
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*\Z")


@dataclass(frozen=True)
class Project:
    """One stack of containers.

    Args:
        name: of the project: what Docker labels its containers, networks and volumes with.
        files: the compose file and its overlays, in the order in which they change one another.
        profiles: of services, which are started.
        engine_profiles: of engines, which are created alone.
        variables: what the files are filled in with, beside the environment.
    """

    docker: Docker
    name: str
    files: tuple[Path, ...]
    profiles: tuple[str, ...]
    engine_profiles: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)

    def words(self, *arguments: str, engines: bool = False) -> tuple[str, ...]:
        """Return the words behind `docker` of a compose command; with the engines, where they are meant too."""
        files = [word for path in self.files for word in ("--file", str(path))]
        profiles = (*self.profiles, *self.engine_profiles) if engines else self.profiles
        chosen = [word for profile in profiles for word in ("--profile", profile)]
        return ("compose", "--project-name", self.name, *files, *chosen, *arguments)

    def ask(self, *arguments: str, engines: bool = False, timeout_s: float | None = 300.0) -> str:
        """Run a compose command and return what it printed.

        Raises:
            DockerError: it failed, with what it said.
        """
        words = self.words(*arguments, engines=engines)
        done = self.docker.run(*words, timeout_s=timeout_s, variables=self.variables)
        if done.returncode:
            raise DockerError(f"`docker compose {arguments[0]}` failed: {_errors(done)}")
        return done.stdout.decode("utf-8", "replace").strip()

    def show(self, *arguments: str, engines: bool = False) -> None:
        """Run a compose command whose progress is for a person at a terminal; elsewhere it is said where it fails.

        Raises:
            DockerError: it failed.
        """
        if sys.stdout.isatty():
            self.docker.show(*self.words(*arguments, engines=engines), variables=self.variables)
        else:
            self.ask(*arguments, engines=engines, timeout_s=None)

    def config(self) -> "Config":
        """Return what compose makes of the files, engines too.

        Raises:
            DockerError: they are wrong; with what compose says.
        """
        document = json.loads(self.ask("config", "--format", "json", engines=True))
        return Config(document, tuple(left_out(self.docker.variables)))

    def record(self) -> dict[str, Any]:
        """Return what other verbs need, to call compose in the same way."""
        return {
            "project": self.name,
            "files": [str(path) for path in self.files],
            "profiles": list(self.profiles),
            "engine_profiles": list(self.engine_profiles),
            "variables": dict(self.variables),
        }


@dataclass(frozen=True)
class Config:
    """The rendered compose files.

    Args:
        document: as `docker compose config --format json` prints it.
        without: services that are not started.
    """

    document: Mapping[str, Any]
    without: tuple[str, ...] = ()

    @property
    def services(self) -> dict[str, Mapping[str, Any]]:
        """Each service's description, by name."""
        return dict(self.document.get("services") or {})

    @property
    def engines(self) -> list[str]:
        """Services that are engines, which the engines service alone starts and stops."""
        return [
            name for name, service in self.services.items() if "sparkstack.instance" in (service.get("labels") or {})
        ]

    @property
    def core(self) -> list[str]:
        """All other services, but those that are left out."""
        others = {*self.engines, *self.without}
        return [name for name in self.services if name not in others]

    def images(self, names: Sequence[str] | None = None) -> list[str]:
        """Return the images of services, each once, in their order; of all that are to run where none is named."""
        wanted = [name for name in self.services if name not in self.without] if names is None else names
        chosen = [self.services[name] for name in wanted]
        return list(dict.fromkeys(str(service["image"]) for service in chosen if service.get("image")))

    @property
    def secret_files(self) -> dict[str, Path]:
        """Where compose reads each secret, by its name."""
        secrets = self.document.get("secrets") or {}
        return {name: Path(secret["file"]) for name, secret in secrets.items() if secret.get("file")}

    @property
    def volumes(self) -> dict[str, Mapping[str, Any]]:
        """The named volumes, by their names in the file."""
        return {name: volume or {} for name, volume in (self.document.get("volumes") or {}).items()}

    def published(self) -> list[tuple[str, str, int, int]]:
        """Return each published port: service, address and port of this machine, port inside."""
        found = []
        for name, service in self.services.items():
            for port in (service.get("ports") or ()) if name not in self.without else ():
                if port.get("published"):
                    outside = int(str(port["published"]).partition("-")[0])
                    found.append((name, port.get("host_ip") or "0.0.0.0", outside, int(port["target"])))  # noqa: S104
        return found


def choose_project(
    home: Home, docker: Docker, profile: str, variables: Mapping[str, str], *, ollama_port: int = 0
) -> Project:
    """Return the project that the environment asks for.

    Args:
        profile: `cpu` or `spark`.
        ollama_port: 0 where it is not to be published.

    Raises:
        click.ClickException: a variable names what there isn't.
    """
    folder = home.code / "compose"
    named = _words(variables.get("PROFILES", ""))
    engines = [name for name in named if holds_engines(name)] or [profile]
    if not {*engines} & {*PROFILES}:
        engines.insert(0, "cpu")  # the small model, which is there in every stack
    overlays = list(dict.fromkeys([profile, *named]))
    overlays += [_OLLAMA_PORT] if ollama_port else []
    overlays += [_MODELS_FOLDER] if variables.get("SPARKSTACK_MODELS", "").strip() else []
    overlays += [_OFFLINE] if is_offline(variables) else []
    files = [folder / "compose.yaml", *(path for name in overlays if (path := folder / f"{name}.yaml").is_file())]
    extra = [Path(text).expanduser().absolute() for text in _paths(variables.get("COMPOSE_EXTRA", ""))]
    for path in (files[0], *extra):
        if not path.is_file():
            raise click.ClickException(f"there is no compose file {path}")
    filled_in = {
        "SPARKSTACK_SECRETS": str(folder_of(home.state)),
        "SPARKSTACK_NAMES": str(home.names),
        "SPARKSTACK_VERSION": variables.get("SPARKSTACK_VERSION", "").strip() or __version__,
        "ENGINES_PROFILES": ",".join(engines),
        **docker_socket(docker, variables),
        **({"GATEWAY_OLLAMA_PORT": str(ollama_port)} if ollama_port else {}),
        **({"GATEWAY_TRACKING_URL": ""} if _TRACKING in left_out(variables) else {}),
    }
    services = tuple(name for name in named if not holds_engines(name))
    return Project(docker, project_name(variables), (*files, *extra), services, tuple(engines), filled_in)


def holds_engines(profile: str) -> bool:
    """Say whether a profile's containers are engines: created and not started, which the engines service does."""
    return profile in PROFILES or profile.partition("-")[0] in ENGINE_PROFILES


def refuse_unknown_profiles(project: Project, folder: Path) -> None:
    """Check that each profile of a project has services, or changes some: compose itself takes any word.

    Args:
        folder: of the overlays.

    Raises:
        click.ClickException: one has neither, with the one that was probably meant.
    """
    overlays = {path.stem for path in folder.glob("*.yaml")} - _NO_PROFILES
    known = overlays | {*project.ask("config", "--profiles").split()}
    for name in (*project.profiles, *project.engine_profiles):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            short = {each for each in known if each in (*PROFILES, *ENGINE_PROFILES) or not holds_engines(each)}
            raise click.ClickException(
                f"PROFILES={name}: there is no such profile{f', is it {near[0]}?' if near else ''}; there are: "
                f"{', '.join(sorted(short))}, and each engine's container by its name (compose/engines.yaml)"
            )


def recorded_project(home: Home, docker: Docker) -> Project:
    """Return the project of the last `up`; with no file where none was recorded."""
    record = read_json(home.stack_file)
    return Project(
        docker,
        str(record.get("project") or project_name(docker.variables)),
        tuple(Path(name) for name in record.get("files") or ()),
        tuple(record.get("profiles") or ()),
        tuple(record.get("engine_profiles") or ()),
        dict(record.get("variables") or {}),
    )


def docker_socket(docker: Docker, variables: Mapping[str, str]) -> dict[str, str]:
    """Return where the engine's socket is on this machine, and whose group it is, for the one service that uses it.

    Where the engine is in a machine of its own (Docker Desktop), the files' defaults are right.
    """
    if variables.get("DOCKER_SOCKET", "").strip():
        path = Path(variables["DOCKER_SOCKET"])
    else:
        endpoint = variables.get("DOCKER_HOST", "").strip() or docker.ask(
            "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"
        )
        path = Path(endpoint.removeprefix("unix://"))
    if not sys.platform.startswith("linux") or not path.is_socket():
        return {}
    return {"DOCKER_SOCKET": str(path), "DOCKER_GID": str(path.stat().st_gid)}


def left_out(variables: Mapping[str, str]) -> list[str]:
    """Return the services that WITHOUT leaves out.

    Raises:
        click.ClickException: it names one that the stack can't do without.
    """
    unwanted = _words(variables.get("WITHOUT", ""))
    optional = sorted(service.name for service in SERVICES if service.optional)
    for name in unwanted:
        if name not in optional:
            raise click.ClickException(f"WITHOUT={name}: what can be left out is {', '.join(optional)}")
    return unwanted


def project_name(variables: Mapping[str, str]) -> str:
    """Return the project's name; two stacks on one machine need two.

    Raises:
        click.ClickException: it is no name for one.
    """
    name = variables.get(NAME_VARIABLE, "").strip() or NAME
    if not _NAME.match(name):
        raise click.ClickException(
            f"{NAME_VARIABLE}={name}: small letters, digits, - and _ alone, a letter or digit first"
        )
    return name


def choose_profile(variables: Mapping[str, str], engine: Engine) -> tuple[str, str]:
    """Return `cpu` or `spark`, and half a sentence on why.

    Raises:
        click.ClickException: PROFILE names another.
    """
    wanted = variables.get("PROFILE", "").strip()
    if wanted in PROFILES:
        return wanted, "PROFILE says so"
    if wanted:
        raise click.ClickException(f"PROFILE={wanted}: there is no such profile; there are: {', '.join(PROFILES)}")
    if not engine.has_nvidia:
        return "cpu", "Docker has no NVIDIA runtime"
    if ARCHITECTURES.get(engine.architecture) != "arm64":
        return "cpu", "the GPU profile is made for a Spark, an Arm machine; PROFILE=spark takes it all the same"
    return "spark", "Docker has the NVIDIA runtime"


def is_offline(variables: Mapping[str, str]) -> bool:
    """Say whether the user forbids every connection to the outside (OFFLINE=1)."""
    return variables.get("OFFLINE", "").strip().lower() in _TRUE


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(text.replace(",", " ").split()))


def _paths(text: str) -> list[str]:
    return [part.strip() for part in text.replace(",", ":").split(":") if part.strip()]


def _errors(done: "subprocess.CompletedProcess[bytes]") -> str:
    """Return compose's complaints without its progress and its warnings of variables that are not set."""
    lines = (done.stderr or done.stdout).decode("utf-8", "replace").splitlines()
    kept = [line.strip() for line in lines if line.strip() and "level=warning" not in line]
    return " ".join(kept[-4:]) or f"status {done.returncode}"
