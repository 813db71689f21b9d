"""`sparkstack up` with containers: check, get the images, start or bring up to date, wait for a token."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import click

from services.cli.arrival import Endpoints
from services.cli.containers.checks import (
    check_disk,
    check_engine,
    check_gpu,
    check_memory_plan,
    check_platforms,
    check_ports,
)
from services.cli.containers.containers import Container, find_containers
from services.cli.containers.docker import Docker, Engine
from services.cli.containers.host import Host
from services.cli.containers.images import get_missing, look_at, platform_of
from services.cli.containers.project import (
    NAME_VARIABLE,
    Config,
    Project,
    choose_profile,
    choose_project,
    is_offline,
    left_out,
    project_name,
    refuse_unknown_profiles,
)
from services.cli.containers.running import Containers, places_of
from services.cli.containers.secret_files import ensure_secrets, forget_unknown
from services.cli.containers.status import not_ready
from services.cli.findings import Finding
from services.cli.home import Home
from services.cli.key import VARIABLE, ensure_env_file
from services.cli.lock import stack_lock
from services.cli.models import engines_client
from services.cli.modes import Mode
from services.cli.plan import internal_key
from services.cli.ports import choose_ollama_port
from services.cli.probes import address
from services.cli.progress import Progress
from services.kit.files import read_json, write_json
from services.kit.keys import first_key
from services.stack import find_service, start_order

_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Plan:
    """What is to run as containers.

    Args:
        remarks: what the user should know, a sentence each.
    """

    project: Project
    config: Config
    profile: str
    remarks: list[str]

    def place_of(self, name: str) -> tuple[str, int]:
        """Return where a service is reached from this machine, or by its neighbours where nobody else reaches it."""
        service = find_service(name)
        inside = service.port if service else 0
        found = {(each, target): (host, port) for each, host, port, target in self.config.published()}
        return found.get((name, inside), (name, inside))

    def record(self, containers: Mapping[str, Container], secrets: str) -> dict[str, object]:
        """Return what other verbs need to know of it."""
        services: dict[str, dict[str, object]] = {}
        for name, container in containers.items():
            host, port = self.place_of(name)
            services[name] = {"host": host, "port": port, "container": container.name}
        return {
            "mode": "compose",
            "profile": self.profile,
            "secrets": secrets,
            **self.project.record(),
            "services": services,
        }


def up_containers(home: Home, mode: Mode, gguf: str, timeout_s: float, progress: Progress) -> None:
    """Start the stack as containers, or bring them up to date; wait until it answers; say where everything is.

    Raises:
        click.ClickException: with what to do.
    """
    from services.cli.up import wait_and_tell

    docker, engine = mode.docker, mode.engine
    assert docker is not None
    assert engine is not None
    if gguf:
        raise click.ClickException(
            "GGUF: a container's model is fixed when it is created, so a file of your own is served by processes "
            "alone: MODE=embedded make up, or write a recipe (docs/recipes.md)"
        )
    home.make_folders()
    with stack_lock(home):
        for line in ensure_env_file(home):
            click.echo(line)
        plan = make_plan(home, docker, engine, os.environ)
        for line in plan.remarks:
            click.echo(line)
        refuse(home, plan, engine, os.environ)
        get_missing(home, plan.project, plan.config, offline=is_offline(os.environ))
        refuse_platforms(plan, engine)
        secrets = ensure_secrets(plan.config.secret_files, home.state, internal_key(home), os.environ)
        forget_unknown(plan.config.secret_files.values(), home.state)
        before = find_containers(docker, plan.project.name)
        start(home, plan, before, secrets)
        after = find_containers(docker, plan.project.name)
        write_json(home.stack_file, plan.record(after, secrets))
    changed = started(before, after)
    click.echo(f"started: {', '.join(changed)}" if changed else "nothing has changed; the stack runs on")
    endpoints = Endpoints(address(*plan.place_of("gateway")), first_key(os.environ.get(VARIABLE, "")))
    with engines_client(home) as engines:
        waited = waited_for(plan.config)
        running = Containers(docker, plan.project.name, waited, engines)
        wait_and_tell(running, endpoints, places_of(plan.config.published()), progress, timeout_s)
    for line in not_ready(find_containers(docker, plan.project.name).values(), waited):
        click.echo(f"note: {line}")


def make_plan(home: Home, docker: Docker, engine: Engine, variables: Mapping[str, str]) -> Plan:
    """Return what is to run.

    Raises:
        click.ClickException: a variable, or a compose file, is wrong.
    """
    profile, why = choose_profile(variables, engine)
    remarks = [f"profile: {profile} ({why})"]
    before = find_containers(docker, project_name(variables))
    refuse_anothers(before, home, project_name(variables))
    published = {outside for container in before.values() for _, outside in container.ports.values()}
    ollama_port, remark = choose_ollama_port(_LOOPBACK, variables, published.__contains__)
    if remark:
        remarks.append(remark)
    if is_offline(variables):
        remarks.append("OFFLINE=1: nothing is pulled or built, and no network leads outside")
    remarks += [f"left out, as WITHOUT says: {name}" for name in left_out(variables)]
    project = choose_project(home, docker, profile, variables, ollama_port=ollama_port)
    refuse_unknown_profiles(project, home.code / "compose")
    return Plan(project, project.config(), profile, remarks)


def refuse_anothers(containers: Mapping[str, Container], home: Home, project: str) -> None:
    """Check that the project's containers are of this folder.

    Raises:
        click.ClickException: they are another's, which would be changed into this one.
    """
    folder = str(home.code / "compose")
    others = {container.folder for container in containers.values()} - {folder, ""}
    if others:
        raise click.ClickException(
            f"there is a stack of the name {project} already, of {min(others)}: `make down` there, or give this one "
            f"another name: {NAME_VARIABLE}=second make up"
        )


def refuse(home: Home, plan: Plan, engine: Engine, variables: Mapping[str, str]) -> None:
    """Look at the machine before anything is pulled, built or started.

    Raises:
        click.ClickException: with everything that has to be mended first.
    """
    containers = find_containers(plan.project.docker, plan.project.name)
    images = plan.config.images()
    missing = [image for image in images if image not in look_at(plan.project.docker, images)]
    findings = [
        *check_engine(engine),
        *check_gpu(engine, Host(variables=variables), plan.profile),
        check_disk(engine, plan.profile, missing),
        *check_ports(plan.config.published(), containers),
        *(check_memory_plan(home, variables.get("MODELS", "")) if not containers else ()),
    ]
    _refuse(findings)
    for finding in findings:
        if finding.level == "warn":
            click.echo(f"note: {finding.text}")


def refuse_platforms(plan: Plan, engine: Engine) -> None:
    """Look at the images before they are started.

    Raises:
        click.ClickException: one was made for another kind of machine.
    """
    here = look_at(plan.project.docker, plan.config.images())
    _refuse(list(check_platforms({name: platform_of(document) for name, document in here.items()}, engine)))


def _refuse(findings: list[Finding]) -> None:
    failed = [finding.text for finding in findings if finding.level == "fail"]
    if failed:
        lines = "\n".join(f"  - {text}" for text in failed)
        raise click.ClickException(f"the stack can't be started as containers here:\n{lines}")


def start(home: Home, plan: Plan, before: Mapping[str, Container], secrets: str) -> None:
    """Create the engines' containers, start all others, and remove those that belong to neither any more.

    Raises:
        DockerError: compose failed; it says why above.
    """
    project, config = plan.project, plan.config
    for name, container in before.items():
        if name not in (*config.core, *config.engines):
            project.docker.ask("rm", "--force", container.id)
    if config.engines:
        project.show("create", "--no-build", "--pull", "never", *config.engines, engines=True)
    # A secret's file keeps its name: compose does not see that its content is another one.
    anew = read_json(home.stack_file).get("secrets") not in (None, secrets)
    project.show(
        "up", "--detach", "--no-build", "--pull", "never", "--remove-orphans",
        *(["--force-recreate"] if anew else []), *config.core,
    )  # fmt: skip


def started(before: Mapping[str, Container], after: Mapping[str, Container]) -> list[str]:
    """Return the services whose container was made, or started, since `before`."""
    return [
        name
        for name in after
        if not after[name].instance
        and (
            name not in before or (before[name].id, before[name].started_at) != (after[name].id, after[name].started_at)
        )
    ]


def waited_for(config: Config) -> list[str]:
    """Return the services that `up` waits for, in the order of their start: what the gateway needs, and it."""
    return [row.name for row in start_order() if not row.optional and row.name in config.services]
