"""How the stack runs here: as processes (`embedded`) or as containers (`compose`), and why."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import click

from services.cli.containers.docker import Docker, Engine, NoEngineError, compose_problem
from services.cli.home import Home, find_home
from services.kit.files import read_json

ModeName = Literal["embedded", "compose"]
_MODES = ("embedded", "compose")
_WHAT = {"embedded": "processes under supervisord", "compose": "containers"}


class NoSuchModeError(click.ClickException):
    """The user wants a way to run the stack that there isn't, or that can't be had here."""

    exit_code = 2


@dataclass(frozen=True)
class Mode:
    """How the stack is going to run.

    Args:
        why: half a sentence.
        docker: where the stack runs as containers: the command, and the engine that it talks to.
    """

    name: ModeName
    why: str
    docker: Docker | None = None
    engine: Engine | None = None

    def __str__(self) -> str:
        return f"mode: {self.name} ({_WHAT[self.name]}; {self.why})"


@click.command()
def mode() -> None:
    """Print how `up` would run the stack here; the reason goes to stderr."""
    import os

    found = choose_mode(find_home(), os.environ)
    click.echo(found.name)
    click.echo(found.why, err=True)


def running_mode(home: Home) -> ModeName | None:
    """Return how the stack of the last `up` runs; None where nothing was started."""
    record = read_json(home.stack_file)
    if not record:
        return None
    return "compose" if record.get("mode") == "compose" else "embedded"


def choose_mode(home: Home, variables: Mapping[str, str], docker: Docker | None = None) -> Mode:
    """Return how the stack is to run: as MODE says, else as it runs already, else by what this machine has.

    Raises:
        NoSuchModeError: MODE names none, or one that can't be had; with what to do.
    """
    wanted = variables.get("MODE", "").strip()
    if wanted not in ("", *_MODES):
        raise NoSuchModeError(f"MODE={wanted}: there is no such mode; leave MODE out, or set embedded or compose")
    running = running_mode(home)
    if wanted and running and wanted != running:
        raise NoSuchModeError(
            f"MODE={wanted}: the stack runs in the mode {running} here; `make down` first (its data stays: each mode "
            "has its own)"
        )
    if wanted == "embedded":
        return Mode("embedded", "MODE says so")
    if not wanted and running == "embedded":
        return Mode("embedded", "as it runs already")
    docker = docker or Docker.find(variables)
    why_not, engine = _look(docker)
    asked = "MODE says so" if wanted else "as it runs already" if running else ""
    if engine is not None:
        found = f"Docker {engine.version} with compose {engine.compose}"
        return Mode("compose", f"{asked}, {found}" if asked else f"{found} runs here", docker, engine)
    if asked:
        instead = "leave MODE out, or set MODE=embedded" if wanted else "mend that, and try again"
        raise NoSuchModeError(f"{'MODE=compose' if wanted else 'the stack runs as containers'}: {why_not}; {instead}")
    return Mode("embedded", why_not)


def _look(docker: Docker | None) -> tuple[str, Engine | None]:
    """Return why there can't be containers, or the engine that can run them."""
    if docker is None:
        return "there is no docker command here", None
    try:
        engine = docker.look()
    except NoEngineError as error:
        return error.message, None
    problem = compose_problem(engine)
    return (problem, None) if problem else ("", engine)
