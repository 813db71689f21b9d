"""`sparkstack restart`: stop and start a service, or all, and wait until they are well."""

import time
from collections.abc import Callable, Iterable, Sequence

import click

from services.cli.arrival import CrashWatch, Running, crash_report
from services.cli.embedded import Embedded
from services.cli.home import Home, find_home
from services.cli.lock import stack_lock
from services.cli.modes import running_mode
from services.cli.probes import new_client
from services.cli.progress import Progress
from services.cli.status import ServiceStatus, read_status
from services.cli.supervision import Supervisor
from services.kit.files import read_json

_POLL_S = 0.2


@click.command()
@click.argument("services", nargs=-1)
@click.option("--timeout", "timeout_s", default=120.0, show_default=True, type=click.FloatRange(1))
def restart(services: tuple[str, ...], timeout_s: float) -> None:
    """Restart SERVICES, all of them when none is named, with the settings of the last `up`."""
    home = find_home()
    if running_mode(home) == "compose":
        from services.cli.containers.restart import restart_containers

        restart_containers(home, services, timeout_s)
    else:
        restart_processes(home, services, timeout_s)


def restart_processes(home: Home, services: tuple[str, ...], timeout_s: float) -> None:
    """Restart services that are processes, and wait for them.

    Raises:
        click.ClickException: one isn't running, crashes, or isn't ready in time.
    """
    supervisor = Supervisor(home)
    running = read_json(home.stack_file).get("services", {})
    if not running or not supervisor.is_running():
        raise click.ClickException("nothing is running here; `make up` starts it")
    names = chosen(services, running)
    progress = Progress()
    with stack_lock(home):
        supervisor.restart(names)
    with new_client() as client:
        wait_for(Embedded(home, supervisor, client, None, {}), lambda: read_status(home), names, progress, timeout_s)


def chosen(services: Iterable[str], running: Iterable[str]) -> list[str]:
    """Return the services that are meant, in the order of their start; all of them where none is named.

    Raises:
        click.ClickException: one of them isn't running.
    """
    there, wanted = list(running), list(services)
    unknown = [name for name in wanted if name not in there]
    if unknown:
        raise click.ClickException(f"no service {unknown[0]!r} is running; there are: {', '.join(there)}")
    return [name for name in there if name in wanted or not wanted]


def wait_for(
    running: Running,
    read: Callable[[], list[ServiceStatus]],
    names: Sequence[str],
    progress: Progress,
    timeout_s: float,
) -> None:
    """Wait until services are ready, and say so.

    Raises:
        click.ClickException: one crashes again and again, or isn't ready in time.
    """
    watch = CrashWatch()
    while progress.seconds < timeout_s:
        crashed = watch.crashing(running.processes())
        if crashed is not None:
            progress.clear()
            running.stop(crashed.name)
            raise click.ClickException(crash_report(running, crashed))
        missing = [row for row in read() if row.name in names and row.state != "ready"]
        if not missing:
            progress.say(f"ready after {progress.seconds:.1f} s: {', '.join(names)}")
            return
        progress.waiting(f"{missing[0].name}: {missing[0].waiting_for or missing[0].state}")
        time.sleep(_POLL_S)
    progress.clear()
    raise click.ClickException(f"not ready after {timeout_s:.0f} s; `sparkstack status` shows how far it is")
