"""The end of `up`: wait until a token has come back, then say where everything is."""

import shlex
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import click
import httpx

from services.cli.home import Home
from services.cli.logs import last_lines
from services.cli.models import SERVING, read_models
from services.cli.plan import Plan
from services.cli.probes import address, ask_for_a_token, new_client, probe
from services.cli.progress import Progress
from services.cli.table import print_table
from services.kit.supervisord import ProcessState

_POLL_S = 0.2
_CRASHES = 2
_LOG_LINES = 15
# Of the default model: it does not come by itself.
_HOPELESS = ("failed", "missing")


class Processes(Protocol):
    """What waiting needs of supervisord."""

    def processes(self) -> dict[str, ProcessState]:
        """Return how each service's process is; {} when supervisord doesn't answer."""

    def stop(self, name: str) -> None:
        """Stop a service."""


@dataclass(frozen=True)
class Endpoints:
    """Where the stack is reached from this machine.

    Args:
        health: the address that tells how a service is, by its name, in the order of their start.
    """

    gateway: str
    key: str
    health: dict[str, str]

    @classmethod
    def of(cls, plan: Plan, key: str) -> "Endpoints":
        """Return the addresses of what the plan runs."""
        health = {
            unit.service.name: address(plan.host_of(unit.service.name), unit.port) + unit.service.health_path
            for unit in plan.units
            if not unit.service.optional
        }
        return cls(address(plan.host, plan.ports["gateway"]), key, health)


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


def wait_until_it_answers(
    home: Home,
    supervisor: Processes,
    endpoints: Endpoints,
    progress: Progress,
    timeout_s: float,
) -> None:
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
            processes = supervisor.processes()
            if not processes:
                progress.clear()
                raise click.ClickException("the stack was stopped meanwhile; `make up` starts it again")
            crashed = watch.crashing(processes)
            if crashed is not None:
                progress.clear()
                supervisor.stop(crashed.name)
                raise click.ClickException(crash_report(home, crashed))
            waiting_for = _next_step(home, client, endpoints, deadline, progress)
            if not waiting_for:
                return
            progress.waiting(waiting_for)
            time.sleep(_POLL_S)
    progress.clear()
    raise click.ClickException(
        f"not ready after {timeout_s:.0f} s; still waiting for {waiting_for}. It goes on in the background: "
        "`make status` shows how far it is, `make logs` why, SPARKSTACK_UP_TIMEOUT_S=600 make up waits longer"
    )


def _next_step(home: Home, client: httpx.Client, endpoints: Endpoints, deadline: float, progress: Progress) -> str:
    """Return what is still missing; empty when a token has come."""
    for name, url in endpoints.health.items():
        health = probe(client, url)
        if not health.ready:
            return f"{name}: {health.waiting_for}"
    model = next(iter(read_models(home, client)), None)
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


def crash_report(home: Home, process: ProcessState) -> str:
    """Return why a service crashes, with the last lines of its log, and what to do."""
    log = home.log(process.name)
    why = process.problem or f"it ended with status {process.exit_status}"
    lines = "\n".join(f"    {line}" for line in last_lines(log, _LOG_LINES)) or "    (nothing)"
    return (
        f"{process.name} crashes again and again ({why}); it was stopped. The last lines of {log}:\n{lines}\n"
        "Mend what they say and run `make up` again; `sparkstack doctor` looks at the machine."
    )


def tell(plan: Plan, endpoints: Endpoints) -> None:
    """Print what runs where, the page's address with its key, and a first request to paste."""
    rows = [("service", "address", "what it is for")]
    for unit in reversed(plan.units):
        name = unit.service.name
        rows.append((name, address(plan.host_of(name), unit.port), unit.service.purpose))
        if name == "gateway" and plan.ollama_port:
            rows.append(("", address(plan.host, plan.ollama_port), "the same, where Ollama's clients look"))
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
