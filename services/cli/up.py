"""`sparkstack up`: check, start or bring up to date, wait for a token, say where everything is."""

import os

import click

from services.cli.arrival import Endpoints, Place, Running, tell, wait_until_it_answers
from services.cli.containers.project import is_offline
from services.cli.embedded import Embedded, endpoints_of, health_places, places_of
from services.cli.home import Home, find_home
from services.cli.key import VARIABLE, ensure_env_file
from services.cli.lock import stack_lock
from services.cli.models import engines_client
from services.cli.modes import choose_mode
from services.cli.plan import Plan, check_disk, make_plan
from services.cli.probes import new_client
from services.cli.processes import end_units, find_units
from services.cli.progress import Progress
from services.cli.supervision import Supervisor
from services.cli.units import STOP_WAIT_S, write_units
from services.kit.files import write_json
from services.kit.keys import first_key


@click.command()
@click.option(
    "--gguf", envvar="GGUF", default="", metavar="PATH", help="serve this GGUF file as the default model [GGUF]"
)
@click.option(
    "--timeout",
    "timeout_s",
    envvar="SPARKSTACK_UP_TIMEOUT_S",
    default=180.0,
    show_default=True,
    type=click.FloatRange(1),
    help="seconds to wait for the first token [SPARKSTACK_UP_TIMEOUT_S]",
)
def up(gguf: str, timeout_s: float) -> None:
    """Start the stack, or bring a running one up to date; wait until it answers; print where everything is.

    MODE=embedded runs processes, MODE=compose containers; without it, containers where Docker runs.
    """
    progress = Progress()
    home = find_home()
    if is_offline(os.environ):
        # Libraries that know no OFFLINE.
        os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", DO_NOT_TRACK="1")
    mode = choose_mode(home, os.environ)
    click.echo(str(mode))
    if mode.name == "compose":
        from services.cli.containers.up import up_containers

        up_containers(home, mode, gguf, timeout_s, progress)
    else:
        up_processes(home, gguf, timeout_s, progress)


def up_processes(home: Home, gguf: str, timeout_s: float, progress: Progress) -> None:
    """Start the stack as processes under supervisord, or bring them up to date.

    Raises:
        click.ClickException: with what to do.
    """
    home.make_folders()
    check_disk(home)
    supervisor = Supervisor(home)
    with stack_lock(home):  # two at a time would each make a key
        for line in ensure_env_file(home):
            click.echo(line)
        key = first_key(os.environ.get(VARIABLE, ""))
        _end_what_a_dead_supervisor_left(home, supervisor)
        plan = make_plan(home, gguf, os.environ)
        for line in plan.remarks:
            click.echo(line)
        started = _apply(home, supervisor, plan)
        write_json(home.stack_file, plan.record())
    endpoints = endpoints_of(plan, key)
    click.echo(f"started: {', '.join(started)}" if started else "nothing has changed; the stack runs on")
    with new_client() as client, engines_client(home) as engines:
        running = Embedded(home, supervisor, client, engines, health_places(plan))
        wait_and_tell(running, endpoints, places_of(plan), progress, timeout_s)


def wait_and_tell(
    running: Running, endpoints: Endpoints, places: list[Place], progress: Progress, timeout_s: float
) -> None:
    """Wait until the stack answers, then say where everything is.

    Raises:
        click.ClickException: it doesn't.
    """
    try:
        wait_until_it_answers(running, endpoints, progress, timeout_s)
    except KeyboardInterrupt:
        progress.say("the stack goes on starting in the background: `make status` shows it, `make down` ends it")
        raise
    progress.say(f"ready after {progress.seconds:.1f} s\n")
    tell(places, endpoints)


def _end_what_a_dead_supervisor_left(home: Home, supervisor: Supervisor) -> None:
    if supervisor.is_running():
        return
    left = end_units(find_units(home), grace_s=STOP_WAIT_S)
    if left:
        names = ", ".join(sorted({unit.name for unit in left}))
        click.echo(f"ended what an earlier start had left without its supervisor: {names}")
    # It would take its own old socket for a running supervisord's, or wait for it.
    home.socket.unlink(missing_ok=True)


def _apply(home: Home, supervisor: Supervisor, plan: Plan) -> list[str]:
    """Start supervisord, or have a running one do what the plan says; return what was (re)started."""
    write_json(home.catalogue, plan.catalogue)
    write_units(home, plan.units)
    if supervisor.is_running():
        return supervisor.update()
    for unit in plan.units:
        home.log(unit.service.name).touch(mode=0o600)
    supervisor.forget_starts(unit.service.name for unit in plan.units)
    supervisor.start()
    return [unit.service.name for unit in plan.units]
