"""`sparkstack up`: check, start or bring up to date, wait for a token, say where everything is."""

import os

import click

from services.cli.arrival import Endpoints, tell, wait_until_it_answers
from services.cli.home import Home, find_home
from services.cli.key import VARIABLE, ensure_env_file, first_key
from services.cli.lock import stack_lock
from services.cli.plan import Plan, check_disk, make_plan
from services.cli.processes import end_units, find_units
from services.cli.progress import Progress
from services.cli.supervision import Supervisor
from services.cli.units import STOP_WAIT_S, write_units
from services.kit.files import write_json


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
    """Start the stack, or bring a running one up to date; wait until it answers; print where everything is."""
    progress = Progress()
    home = find_home()
    check_mode(os.environ.get("MODE", ""))
    click.echo("mode: embedded (processes under supervisord; containers are not there yet)")
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
    endpoints = Endpoints.of(plan, key)
    click.echo(f"started: {', '.join(started)}" if started else "nothing has changed; the stack runs on")
    try:
        wait_until_it_answers(home, supervisor, endpoints, progress, timeout_s)
    except KeyboardInterrupt:
        progress.say("the stack goes on starting in the background: `make status` shows it, `make down` ends it")
        raise
    progress.say(f"ready after {progress.seconds:.1f} s\n")
    tell(plan, endpoints)


class NoSuchModeError(click.ClickException):
    """The user wants a way to run the stack that there isn't."""

    exit_code = 2


def check_mode(mode: str) -> None:
    """Check that the stack can run in the mode that the user wants.

    Raises:
        NoSuchModeError: when it can't.
    """
    if mode in ("", "embedded"):
        return
    if mode == "compose":
        refusal = "MODE=compose: containers are not there yet; leave MODE out, or set MODE=embedded"
    else:
        refusal = f"MODE={mode}: there is no such mode; leave MODE out, or set MODE=embedded"
    raise NoSuchModeError(refusal)


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
