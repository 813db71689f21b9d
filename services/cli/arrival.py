"""The end of `up`: wait until a token has come back, then say where everything is."""

import shlex
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import click
import httpx

from services.cli.models import SERVING, ModelStatus
from services.cli.probes import Health, ask_for_a_token, new_client
from services.cli.progress import Progress
from services.cli.table import print_table
from services.kit.supervisord import ProcessState

_POLL_S = 0.2
_CRASHES = 2
_LOG_LINES = 15
# Of the default model: it does not come by itself.
_HOPELESS = ("failed", "missing")


class Running(Protocol):
    """What waiting needs of a stack that starts, as processes or as containers."""

    def processes(self) -> dict[str, ProcessState]:
        """Return how each service's process is; {} when the stack was stopped."""

    def stop(self, name: str) -> None:
        """Stop a service."""

    def health(self) -> Iterable[tuple[str, Health]]:
        """Give each service's health in the order of their start, asked when it is taken."""

    def models(self) -> list[ModelStatus]:
        """Return every model, the default first; [] where nobody knows yet."""

    def last_lines(self, name: str, count: int) -> list[str]:
        """Return what a service has written last."""

    def log_of(self, name: str) -> str:
        """Return where a service's log is, for a person."""


@dataclass(frozen=True)
class Endpoints:
    """Where the stack is reached from this machine."""

    gateway: str
    key: str


@dataclass(frozen=True)
class Place:
    """One line of what is told at the end: what is where."""

    name: str
    address: str
    purpose: str


@dataclass
class CrashWatch:
    """Tells a service that crashes again and again from one that takes its time."""

    _starts: dict[str, set[int]] = field(default_factory=dict)

    def crashing(self, processes: dict[str, ProcessState]) -> ProcessState | None:
        """Return the first service that has given up, or has failed twice since this watch began."""
        for process in processes.values():
            starts = self._starts.setdefault(process.name, set())
            starts.add(process.started_at)
            failed = len(starts) - (process.state in ("starting", "running"))
            if process.state == "fatal" or failed >= _CRASHES:
                return process
        return None


def wait_until_it_answers(running: Running, endpoints: Endpoints, progress: Progress, timeout_s: float) -> None:
    """Wait until the default model has sent a token through the gateway.

    Raises:
        click.ClickException: a service crashes again and again, the stack was stopped meanwhile, the gateway
            refuses for good, or `timeout_s` has passed.
    """
    watch = CrashWatch()
    deadline = time.monotonic() + timeout_s
    waiting_for = ""
    with new_client() as client:
        while time.monotonic() < deadline:
            processes = running.processes()
            if not processes:
                progress.clear()
                raise click.ClickException("the stack was stopped meanwhile; `make up` starts it again")
            crashed = watch.crashing(processes)
            if crashed is not None:
                progress.clear()
                running.stop(crashed.name)
                raise click.ClickException(crash_report(running, crashed))
            waiting_for = _next_step(running, client, endpoints, deadline, progress)
            if not waiting_for:
                return
            progress.waiting(waiting_for)
            time.sleep(_POLL_S)
    progress.clear()
    raise click.ClickException(
        f"not ready after {timeout_s:.0f} s; still waiting for {waiting_for}. It goes on in the background: "
        "`make status` shows how far it is, `make logs` why, SPARKSTACK_UP_TIMEOUT_S=600 make up waits longer"
    )


def _next_step(
    running: Running, client: httpx.Client, endpoints: Endpoints, deadline: float, progress: Progress
) -> str:
    """Return what is still missing; empty when a token has come."""
    for name, health in running.health():
        if not health.ready:
            return f"{name}: {health.waiting_for}"
    model = next(iter(running.models()), None)
    if model is None:
        return "engines: no list of models yet"
    if model.state in _HOPELESS or (model.state == "stopped" and model.note):
        progress.clear()
        raise click.ClickException(
            f"{model.id} is {model.state}: {model.note or 'no reason is known'}\n`sparkstack logs engines` has more; "
            "mend it and run `make up` again"
        )
    if model.state not in SERVING:
        return f"{model.id}: {model.state}{f', {model.note}' if model.note else ''}"
    progress.waiting("a first token of the model")
    token = ask_for_a_token(client, endpoints.gateway, endpoints.key, max(1.0, deadline - time.monotonic()))
    if token.came:
        return ""
    if token.final:
        progress.clear()
        raise click.ClickException(f"the gateway refuses the first question: {token.problem}")
    return f"a first token of the model: {token.problem}"


def crash_report(running: Running, process: ProcessState) -> str:
    """Return why a service crashes, with the last lines of its log, and what to do."""
    why = process.problem or f"it ended with status {process.exit_status}"
    lines = "\n".join(f"    {line}" for line in running.last_lines(process.name, _LOG_LINES)) or "    (nothing)"
    return (
        f"{process.name} crashes again and again ({why}); it was stopped. The last lines of "
        f"{running.log_of(process.name)}:\n{lines}\n"
        "Mend what they say and run `make up` again; `sparkstack doctor` looks at the machine."
    )


def tell(places: Iterable[Place], endpoints: Endpoints) -> None:
    """Print what runs where, the page's address with its key, and a first request to paste."""
    rows = [("service", "address", "what it is for")]
    rows += [(place.name, place.address, place.purpose) for place in places]
    print_table(rows)
    click.echo(f"\nOpenAI clients: base_url {endpoints.gateway}/v1, the key of `{_command('key')}`")
    click.echo(f"page: {endpoints.gateway}/#key={endpoints.key}")
    click.echo(f"\nAsk it something:\n{first_request(endpoints.gateway)}")


def first_request(gateway: str) -> str:
    """Return a command to paste into a shell."""
    return (
        f"  curl {gateway}/v1/chat/completions \\\n"
        f'    -H "Authorization: Bearer $({_command("key")})" \\\n'
        "    -H 'Content-Type: application/json' \\\n"
        """    -d '{"model": "default", "messages": [{"role": "user", "content": "Name the capital of France."}]}'"""
    )


def _command(verb: str) -> str:
    """Return how the reader, in this folder, calls a verb of this command."""
    script = Path(sys.argv[0])
    if script.name != "sparkstack":  # python -m services.cli.main
        return shlex.join([sys.executable, "-m", "services.cli.main", verb])
    try:
        script = script.absolute().relative_to(Path.cwd())
    except ValueError:
        script = script.absolute()
    return shlex.join([str(script), verb])
