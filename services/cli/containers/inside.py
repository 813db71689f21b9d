"""Verbs about models' files: they are in a volume where the stack runs as containers, so the verb runs there, too."""

import os
import subprocess
import sys

import click

from services.cli.containers.containers import find_containers
from services.cli.containers.status import docker_of
from services.cli.home import Home

_SERVICE = "engines"


def inside_command(home: Home, verb: str) -> click.Command:
    """Return a verb that runs, with whatever follows it, in the container of the engines service."""

    @click.command(
        verb, context_settings={"ignore_unknown_options": True, "help_option_names": []}, add_help_option=False
    )
    @click.argument("words", nargs=-1, type=click.UNPROCESSED)
    @click.pass_context
    def run(ctx: click.Context, words: tuple[str, ...]) -> None:
        docker, project = docker_of(home)
        container = find_containers(docker, project).get(_SERVICE)
        if container is None or not container.is_up:
            raise click.ClickException(f"the models' files are {_SERVICE}' own, and it does not run; `make up` first")
        terminal = ["--interactive", "--tty"] if sys.stdin.isatty() and sys.stdout.isatty() else []
        # What a person sees of the terminal's width and colours.
        shown = [word for name in ("TERM", "COLUMNS") if name in os.environ for word in ("--env", name)]
        command = [docker.program, "exec", *terminal, *shown, container.id, "sparkstack", verb, *words]
        ctx.exit(subprocess.run(command, env=dict(docker.variables), check=False).returncode)

    return run
