"""`sparkstack doctor`: look at the machine and the stack, and say what is wrong and how to mend it."""

import os
import platform
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import click
import psutil

from services.cli.findings import Finding
from services.cli.home import Home, find_home
from services.cli.key import VARIABLE
from services.cli.modes import choose_mode
from services.cli.plan import LOOPBACK
from services.cli.ports import holds, port_number, why_taken
from services.cli.processes import holder_of
from services.cli.status import ServiceStatus, read_status
from services.cli.supervision import Supervisor
from services.kit.keys import first_key
from services.stack import SERVICES, Service

_OLDEST, _NEWEST = (3, 11), (3, 14)
_NEEDED_DISK_BYTES = 2_000_000_000
_NEEDED_MEMORY_BYTES = 1_500_000_000


@click.command()
@click.pass_context
def doctor(ctx: click.Context) -> None:
    """Look at the machine and the stack; exit with 1 when something is wrong."""
    worst = 0
    for finding in examine(find_home(), os.environ):
        click.echo(f"{finding.level:4}  {finding.text}")
        worst = max(worst, finding.level == "fail")
    ctx.exit(worst)


def examine(home: Home, variables: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what is found, the machine first."""
    yield python_version(sys.version_info[:2])
    yield Finding("ok", f"{platform.system()} {platform.release()} on {platform.machine()}")
    yield free_disk(home)
    yield free_memory(psutil.virtual_memory().available)
    yield environment(home, Path(sys.prefix))
    yield env_file(home)
    yield api_key(variables.get(VARIABLE, ""))
    try:
        mode = choose_mode(home, variables)
    except click.ClickException as error:
        yield Finding("fail", error.message)
        return
    yield Finding("ok", str(mode))
    if mode.name == "compose":
        from services.cli.containers.examination import examine_containers

        yield from examine_containers(home, mode, variables)
    else:
        yield from examine_processes(home, variables)


def examine_processes(home: Home, variables: Mapping[str, str]) -> Iterator[Finding]:
    """Yield how the processes are, or whether they could start."""
    running = Supervisor(home).is_running()
    yield Finding("ok", "supervisord runs") if running else Finding("warn", "nothing is running; `make up` starts it")
    if running:
        yield from services_of(read_status(home))
    else:
        for service in SERVICES:
            yield port(home, service, variables)


def services_of(rows: Iterable[ServiceStatus]) -> Iterator[Finding]:
    """Yield a line for each service of a running stack."""
    for row in rows:
        if row.state == "ready":
            yield Finding("ok", f"{row.name} answers{f' at {row.address}' if row.address else ''}")
        else:
            yield Finding("fail", f"{row.name} is {row.state}: {row.waiting_for}")


def python_version(version: tuple[int, ...]) -> Finding:
    """Judge the version of Python."""
    text = f"Python {'.'.join(map(str, version))}"
    if _OLDEST <= version <= _NEWEST:
        return Finding("ok", text)
    return Finding("fail", f"{text}: 3.11 to 3.14 are needed; make up PYTHON=/path/to/python3.12")


def free_disk(home: Home) -> Finding:
    """Judge the room where state and logs are written."""
    folder = home.state if home.state.exists() else home.root
    free = shutil.disk_usage(folder).free
    if free >= _NEEDED_DISK_BYTES:
        return Finding("ok", f"{free / 1e9:.0f} GB free at {folder}")
    return Finding("warn", f"{free / 1e9:.1f} GB free at {folder}: little for logs and models; free some")


def free_memory(available: int) -> Finding:
    """Judge the memory for the default model and the services."""
    text = f"{available / 1e9:.1f} GB of memory available"
    if available >= _NEEDED_MEMORY_BYTES:
        return Finding("ok", text)
    return Finding("warn", f"{text}: the default stack takes about 1 GB; end something, or set LLAMACPP_SLOTS=1")


def environment(home: Home, prefix: Path) -> Finding:
    """Say whether the packages are those of the lock files."""
    if prefix != home.code / ".venv":
        return Finding("warn", f"{prefix} was not made by `make up`; its packages are not checked")
    check = [sys.executable, str(home.code / "scripts" / "bootstrap.py"), "--check", "embedded"]
    done = subprocess.run(check, capture_output=True, text=True, timeout=60, check=False)
    said = (done.stdout + done.stderr).strip().removeprefix("sparkstack: ")
    if done.returncode == 0:
        return Finding("ok", said)
    return Finding("warn", f"{said}; run `make up`")


def env_file(home: Home) -> Finding:
    """Judge who can read .env."""
    try:
        mode = stat.S_IMODE(home.env_file.stat().st_mode)
    except OSError:
        return Finding("warn", f"there is no {home.env_file} yet; `make up` makes it")
    if mode & 0o077:
        return Finding("fail", f"{home.env_file} can be read by others (mode {mode:o}); chmod 600 {home.env_file}")
    return Finding("ok", f"{home.env_file} is yours alone (mode {mode:o})")


def api_key(text: str) -> Finding:
    """Judge the key, without showing it."""
    found = first_key(text)
    if not found:
        return Finding("warn", f"there is no {VARIABLE} yet; `make up` makes one")
    if len(found) < 16:
        return Finding("warn", f"{VARIABLE} has {len(found)} characters, easy to guess; empty it, and `make up` again")
    return Finding("ok", f"{VARIABLE} is set")


def port(home: Home, service: Service, variables: Mapping[str, str]) -> Finding:
    """Say whether a service that isn't running could listen."""
    wanted = port_number(variables, service.port_variable, service.port)
    if not why_taken(LOOPBACK, wanted) or holds(home, service, wanted):
        return Finding("ok", f"port {wanted} is free for {service.name}")
    return Finding(
        "fail", f"port {wanted} is taken by {holder_of(wanted)}; stop it, or set {service.port_variable} to another"
    )
