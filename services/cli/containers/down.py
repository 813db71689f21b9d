"""`sparkstack down` with containers: remove them and their networks; volumes, with their data, stay."""

import shutil

import click

from services.cli.containers.containers import PROJECT_LABEL, find_containers
from services.cli.containers.docker import Docker, NoEngineError
from services.cli.containers.project import recorded_project
from services.cli.home import Home
from services.cli.lock import stack_lock
from services.cli.units import STOP_WAIT_S


def down_containers(home: Home) -> None:
    """Remove every container and network of the project.

    Raises:
        click.ClickException: Docker does not answer, or can't remove one.
    """
    docker = Docker.find()
    if docker is None:
        raise NoEngineError("the stack runs as containers, and there is no docker command here any more")
    docker.look()
    project = recorded_project(home, docker)
    home.make_folders()
    with stack_lock(home):
        containers = find_containers(docker, project.name)
        running = sorted(name for name, container in containers.items() if container.is_up)
        if running:
            click.echo(f"stopping {', '.join(running)} …")
        # By its labels, whatever the files say by now, and from a folder that has no other compose file; the order of
        # the end is that of the start, backwards.
        docker.ask(
            "compose", "--project-name", project.name, "down", "--remove-orphans", "--timeout", str(STOP_WAIT_S),
            timeout_s=None, folder=home.state,
        )  # fmt: skip
        left = docker.ask("ps", "--all", "--quiet", "--filter", f"label={PROJECT_LABEL}={project.name}").split()
        if left:
            docker.ask("rm", "--force", *left)
        home.stack_file.unlink(missing_ok=True)
        shutil.rmtree(home.run, ignore_errors=True)
    click.echo(f"stopped; data is in the volumes {project.name}_…" if containers else "nothing was running")
