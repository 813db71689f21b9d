"""`sparkstack status`: how each service and each model is, and what is being waited for."""

import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import click
import psutil

from services.cli.home import Home, find_home
from services.cli.models import SERVING, ModelStatus, engines_client, read_models
from services.cli.modes import running_mode
from services.cli.probes import Health, address, new_client, probe
from services.cli.supervision import Supervisor
from services.cli.table import print_table
from services.cli.units import starts_file
from services.kit.files import read_json
from services.kit.supervisord import ProcessState
from services.stack import Service, find_service

NOT_READY = 3
_LONGEST_NOTE = 30


@dataclass(frozen=True)
class ServiceStatus:
    """One line of the status.

    Args:
        state: `ready`, `waiting` (it runs, and says what it waits for), `starting`, `crashing` (it is started again
            and again), `failed` (given up) or `stopped`.
        restarts: by themselves, since it was last started on purpose.
        rss_bytes: memory of it and its children.
    """

    name: str
    state: str
    waiting_for: str
    address: str
    pid: int
    uptime_s: int
    restarts: int
    rss_bytes: int


@click.command()
@click.option("--json", "as_json", is_flag=True, help="one JSON document instead of a table")
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Show each service's and model's state; exit with 0 when all services and the default model are ready, else 3."""
    home = find_home()
    rows = read_any_status(home)
    with engines_client(home) as client:
        models = read_models(client)
    ready = bool(rows) and all(row.state == "ready" for row in rows) and bool(models) and models[0].state in SERVING
    if as_json:
        document = {
            "ready": ready,
            "services": [asdict(row) for row in rows],
            "models": [asdict(model) for model in models],
        }
        click.echo(json.dumps(document, indent=1))
    elif rows:
        _show(rows)
        click.echo()
        show_models(models)
    else:
        click.echo("nothing is running here; `make up` starts it")
    ctx.exit(0 if ready else NOT_READY)


def read_any_status(home: Home) -> list[ServiceStatus]:
    """Return how each service of the last start is, processes or containers; [] when nothing was started."""
    if running_mode(home) == "compose":
        from services.cli.containers.status import read_container_status

        return read_container_status(home)
    return read_status(home)


def read_status(home: Home) -> list[ServiceStatus]:
    """Return how each service of the last start, as processes, is; [] when nothing was started."""
    placed = read_json(home.stack_file).get("services", {})
    known = [(service, placed[name]) for name in placed if (service := find_service(name))]
    if not known:
        return []
    processes = Supervisor(home).processes()
    with new_client() as client, ThreadPoolExecutor(len(known)) as pool:

        def look(item: tuple[Service, Mapping[str, Any]]) -> ServiceStatus:
            service, place = item
            url = address(place["host"], place["port"])
            process = processes.get(service.name)
            health = Health(False) if process is None else probe(client, url + service.health_path)
            return _judge(home, service.name, url, process, health)

        return list(pool.map(look, reversed(known)))


def _judge(home: Home, name: str, url: str, process: ProcessState | None, health: Health) -> ServiceStatus:
    state, waiting_for = judge(process, health)
    pid = process.pid if process else 0
    uptime = max(0, int(time.time()) - process.started_at) if process and pid else 0
    return ServiceStatus(name, state, waiting_for, url, pid, uptime, _restarts(home, name), rss_of(pid))


def judge(process: ProcessState | None, health: Health) -> tuple[str, str]:
    """Return a service's state and what it waits for, of what supervisord and the service itself say."""
    if process is None:
        return "stopped", "supervisord does not run; `make up` starts it"
    if process.state == "fatal":
        return "failed", f"given up ({process.problem or 'too many crashes'}); see `sparkstack logs {process.name}`"
    if process.state in ("backoff", "exited"):
        ended = process.problem or f"ended with status {process.exit_status}"
        return "crashing", f"{ended}; see `sparkstack logs {process.name}`"
    if process.state in ("stopped", "stopping"):
        return "stopped", f"`sparkstack restart {process.name}` starts it"
    if health.ready:
        return "ready", ""
    return ("starting" if process.state == "starting" else "waiting"), health.waiting_for


def _restarts(home: Home, name: str) -> int:
    try:
        return max(0, int(starts_file(home, name).read_text(encoding="ascii")) - 1)
    except (OSError, ValueError):
        return 0


def rss_of(pid: int) -> int:
    """Return the memory of a process and its children, in bytes; 0 where there is none."""
    if not pid:
        return 0
    try:
        process = psutil.Process(pid)
        return sum(p.memory_info().rss for p in (process, *process.children(recursive=True)))
    except psutil.Error:
        return 0


def _show(rows: list[ServiceStatus]) -> None:
    table = [("service", "state", "address", "pid", "up", "restarts", "memory", "waiting for")]
    for row in rows:
        memory = f"{row.rss_bytes / 1e6:.0f} MB" if row.pid else ""
        up = duration(row.uptime_s) if row.pid else ""
        table.append(
            (row.name, row.state, row.address, str(row.pid or ""), up, str(row.restarts), memory, row.waiting_for)
        )
    print_table(table)


def show_models(models: list[ModelStatus]) -> None:
    """Print a table of models, and sentences about some of them below it."""
    sentences = []
    table = [("model", "engine", "state", "address", "pid", "planned memory", "requests", "")]
    for model in models:
        memory = f"{model.held_bytes / 2**30:.2f} GiB" if model.held_bytes else ""
        note = model.note.partition("\n")[0]
        if len(note) > _LONGEST_NOTE:
            sentences.append(f"{model.id}: {note}")
            note = "see below"
        notes = [*(["pinned"] if model.pinned else []), *([note] if note else [])]
        where = {True: " (gpu)", False: " (cpu)", None: ""}[model.on_gpu]
        pid = str(model.pids[0]) if model.pids else ""
        requests = str(model.in_flight) if model.address else ""
        row = (model.id, model.engine + where, model.state, model.address, pid, memory, requests, "; ".join(notes))
        table.append(row)
    print_table(table)
    for sentence in sentences:
        click.echo(f"\n{sentence}")


def duration(seconds: int) -> str:
    """Return a time as people say it: 42 s, 3 min, 5 h, 2 d."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
