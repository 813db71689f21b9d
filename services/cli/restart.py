"""`sparkstack restart`: stop and start a service, or all, and wait until they are well."""

import time

import click

from services.cli.arrival import CrashWatch, crash_report
from services.cli.home import Home, find_home
from services.cli.lock import stack_lock
from services.cli.progress import Progress
from services.cli.status import read_status
from services.cli.supervision import Supervisor
from services.kit.files import read_json

_POLL_S = 0.2


@click.command()
@click.argument("services", nargs=-1)
@click.option("--timeout", "timeout_s", default=120.0, show_default=True, type=click.FloatRange(1))
def restart(services: tuple[str, ...], timeout_s: float) -> None:
    """Restart SERVICES, all of them when none is named, with the settings of the last `up`."""
    home = find_home()
    supervisor = Supervisor(home)
    running = read_json(home.stack_file).get("services", {})
    if not running or not supervisor.is_running():
        raise click.ClickException("nothing is running here; `make up` starts it")
    unknown = [name for name in services if name not in running]
    if unknown:
        raise click.ClickException(f"no service {unknown[0]!r} is running; there are: {', '.join(running)}")
    names = [name for name in running if name in services or not services]
    progress = Progress()
    with stack_lock(home):
        supervisor.restart(names)
    _wait(home, supervisor, names, progress, timeout_s)
    progress.say(f"ready after {progress.seconds:.1f} s: {', '.join(names)}")


def _wait(home: Home, supervisor: Supervisor, names: list[str], progress: Progress, timeout_s: float) -> None:
    watch = CrashWatch()
    while progress.seconds < timeout_s:
        crashed = watch.crashing(supervisor.processes())
        if crashed is not None:
            progress.clear()
            supervisor.stop(crashed.name)
            raise click.ClickException(crash_report(home, crashed))
        missing = [row for row in read_status(home) if row.name in names and row.state != "ready"]
        if not missing:
            return
        progress.waiting(f"{missing[0].name}: {missing[0].waiting_for or missing[0].state}")
        time.sleep(_POLL_S)
    progress.clear()
    raise click.ClickException(f"not ready after {timeout_s:.0f} s; `sparkstack status` shows how far it is")
