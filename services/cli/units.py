"""What supervisord is to run: each service's command and environment, rendered from the table of services."""

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from services.cli.home import SUPERVISOR, Home
from services.kit.files import write_json, write_private
from services.kit.launch import MARK
from services.kit.supervisord import Unquotable, program, section
from services.stack import Service, start_order

# Its first seconds don't count as running: who ends in them is started again with growing pauses (1, 2, 3 … s).
_START_S = 3
_START_RETRIES = 20
# The gateway lets requests in flight go on for 10 s.
STOP_WAIT_S = 15
STAMP = ".sparkstack-stamp"


@dataclass(frozen=True)
class ServiceUnit:
    """One service as it is to run.

    Args:
        arguments: added to the row's command.
        environment: added to the variables that the row names.
        inputs: files that it reads at its start; it is restarted when one changes.
    """

    service: Service
    port: int
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    inputs: Sequence[Path] = ()


def write_units(home: Home, units: Sequence[ServiceUnit]) -> None:
    """Write supervisord's configuration and each service's launch file."""
    digests = {unit.service.name: _write_launch(home, unit) for unit in units}
    write_private(home.supervisor_config, supervisor_config(home, digests))


def _write_launch(home: Home, unit: ServiceUnit) -> str:
    """Write what launch.py reads; return a digest of all that must restart the service when it changes."""
    name = unit.service.name
    launch = {
        "command": [
            python_of(home, unit.service),
            "-m",
            "services.cli.main",
            *unit.service.command,
            *unit.arguments,
        ],
        "environment": {
            **passed_variables(unit.service, os.environ),
            **unit.environment,
            "SPARKSTACK_HOME": str(home.root),
            "SPARKSTACK_STATE": str(home.state),
            "PYTHONUNBUFFERED": "1",
            MARK: home.mark(name),
        },
        "supervisor_pid_file": str(home.run / f"{SUPERVISOR}.pid"),
        "starts_file": str(starts_file(home, name)),
    }
    write_json(launch_file(home, name), launch)
    digest = hashlib.sha256(json.dumps(launch, sort_keys=True).encode())
    for path in unit.inputs:
        digest.update(path.read_bytes())
    digest.update(_code_state(home, unit.service))
    return digest.hexdigest()[:16]


def python_of(home: Home, service: Service) -> str:
    """Return the interpreter that runs a service."""
    return str(home.environment(service) / "bin" / "python") if service.environment else sys.executable


def launch_file(home: Home, name: str) -> Path:
    """Return where a service's command and environment are written."""
    return home.run / f"{name}.json"


def starts_file(home: Home, name: str) -> Path:
    """Return where the number of a service's starts is kept."""
    return home.run / f"{name}.starts"


def passed_variables(service: Service, variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a service reads."""
    return {name: value for name, value in variables.items() if name.startswith(service.variables)}


def foreign_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that no service reads: what supervisord, and by it every service, inherits.

    So a variable that was set for one `up` alone is gone with the next.
    """
    read = tuple(prefix for service in start_order() for prefix in service.variables)
    return {name: value for name, value in variables.items() if not name.startswith(read)}


def _code_state(home: Home, service: Service) -> bytes:
    """Return a fingerprint of the code that a service runs, and of the packages that it runs with.

    After a `git pull`, or with new packages, the next `up` restarts what has changed.
    """
    parts = []
    for folder in service.code:
        for path in sorted((home.code / "services" / folder).rglob("*")):
            if path.suffix in (".py", ".yaml") and "tests" not in path.parts:
                found = path.stat()
                parts.append(f"{path}:{found.st_size}:{found.st_mtime_ns}")
    stamp = home.environment(service) / STAMP
    if stamp.is_file():
        parts.append(stamp.read_text(encoding="utf-8"))
    return "\n".join(parts).encode()


def supervisor_config(home: Home, digests: Mapping[str, str]) -> str:
    """Return supervisord's configuration.

    Args:
        digests: of each service, by name.

    Raises:
        click.ClickException: a path can't be written there.
    """
    try:
        return "\n".join(_sections(home, digests))
    except Unquotable as path:
        raise click.ClickException(
            f"supervisord can't handle the path {str(path)!r}; name another: SPARKSTACK_STATE=/path"
        ) from None


def _sections(home: Home, digests: Mapping[str, str]) -> list[str]:
    sections = [
        section(
            "supervisord",
            logfile=home.log(SUPERVISOR),
            logfile_maxbytes="10MB",
            logfile_backups=3,
            pidfile=home.run / f"{SUPERVISOR}.pid",
            childlogdir=home.logs,
            directory=home.code,
            umask="077",
            minprocs=20,
            nocleanup="true",
        ),
        section("unix_http_server", file=home.socket, chmod="0700"),
        section(
            "rpcinterface:supervisor",
            **{"supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"},
        ),
    ]
    # What the engines service adds while supervisord runs, and only then. From the configuration's own folder:
    # spaces divide patterns here, and no quoting helps. Nor does any for a bracket, in whatever folder.
    if "[" in str(home.state):
        raise Unquotable(home.state)
    sections.append(section("include", files=(home.programs / "*.conf").relative_to(home.supervisor_config.parent)))
    for priority, service in enumerate(start_order(), start=1):
        if service.name in digests:
            sections.append(_program(home, service, digests[service.name], priority))
    return sections


def _program(home: Home, service: Service, digest: str, priority: int) -> str:
    command = [sys.executable, "-m", "services.kit.launch", str(launch_file(home, service.name)), digest]
    return program(
        service.name,
        command,
        log=home.log(service.name),
        # From there the `services` package is found, installed or not.
        directory=home.code,
        priority=priority,
        autorestart="true",
        startsecs=_START_S,
        startretries=_START_RETRIES,
        stopwaitsecs=STOP_WAIT_S,
    )
