"""`sparkstack logs` with containers."""

import signal
import subprocess

import click

from services.cli.containers.containers import Container, find_containers
from services.cli.containers.running import log_lines
from services.cli.containers.status import docker_of
from services.cli.home import Home


def show_container_logs(home: Home, service: str | None, *, follow: bool, lines: int) -> None:
    """Show the last lines of all containers, or of one service's or engine's, and go on with what comes.

    Raises:
        click.ClickException: there is no such service.
    """
    docker, project = docker_of(home)
    found = find_containers(docker, project)
    chosen = choose(found, service)
    width = max(len(container.service) for container in chosen)
    if not follow:
        for container in chosen:
            prefix = "" if len(chosen) == 1 else f"{container.service.ljust(width)} | "
            for line in log_lines(docker, container, lines):
                click.echo(prefix + line)
        return
    command = [
        docker.program, "compose", "--project-name", project, "logs", "--follow", "--no-color", "--tail", str(lines),
        *(["--no-log-prefix"] if len(chosen) == 1 else []), *(container.service for container in chosen),
    ]  # fmt: skip
    with subprocess.Popen(command, cwd=home.state, env=dict(docker.variables)) as process:
        # It goes with this one, however that is ended.
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            process.wait()
        except KeyboardInterrupt:
            process.terminate()


def choose(found: dict[str, Container], service: str | None) -> list[Container]:
    """Return the containers that are meant; an engine's also by the beginning of its name.

    Raises:
        click.ClickException: there is none, naming those that there are.
    """
    if not found:
        raise click.ClickException("there are no containers of this stack; `make up` starts it")
    if service is None:
        return [container for container in found.values() if container.started_at]
    chosen = [container for name, container in found.items() if service in (name, container.instance)]
    chosen = chosen or [each for each in found.values() if each.instance.startswith(service)]
    if not chosen:
        raise click.ClickException(f"there is no service or engine {service!r}; there are: {', '.join(sorted(found))}")
    return chosen
