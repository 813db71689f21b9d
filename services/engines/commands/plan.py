"""`sparkstack plan`: whether models fit on a machine, before anything is loaded."""

import json
import sys

import click

from services.engines.commands.known import known_recipes

NOT_FITTING = 3


@click.command(short_help="say whether models fit on a machine, and what they take")
@click.argument("models", nargs=-1, required=True, metavar="MODELS…")
@click.option(
    "--machine",
    "machine_name",
    default="this",
    show_default=True,
    metavar="NAME",
    help="spark-128, spark-64, dual-spark, this, or a size such as 24GiB",
)
@click.option("--context", type=click.IntRange(1), help="tokens of one request  [default: the recipe's]")
@click.option(
    "--sequences",
    type=click.IntRange(1, 1024),
    help="requests that must have room at a time  [default: the recipe's; where they can wait for room, one]",
)
@click.option("--kv-dtype", metavar="TYPE", help="of the KV cache: f16, bf16, fp8, q8_0, q4_0, f32")
@click.option(
    "--utilization",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="share of the memory, for engines that take one",
)
@click.option("--json", "as_json", is_flag=True, help="one JSON document instead of a table")
@click.pass_context
def plan(
    ctx: click.Context,
    models: tuple[str, ...],
    machine_name: str,
    context: int | None,
    sequences: int | None,
    kv_dtype: str | None,
    utilization: float | None,
    as_json: bool,
) -> None:
    """Add up what MODELS take, side by side, and compare it with a machine.

    MODELS are recipes' ids or aliases; id@engine picks an engine. The exit status is 0 where they fit and 3 where they
    don't. What is loaded at the moment plays no part: the plan is made for the whole machine.

    \b
    sparkstack plan smollm2
    sparkstack plan qwen3.6-35b-a3b-nvfp4 --machine spark-128 --context 131072 --sequences 4
    """
    from services.engines.planning.machines import MachineError
    from services.engines.planning.memory import PlanError
    from services.engines.planning.named import Wishes, plan_named
    from services.engines.planning.view import in_encoding, show
    from services.engines.recipes import RecipeError

    wishes = Wishes(context, sequences, kv_dtype, utilization)
    try:
        found = plan_named(models, machine_name, wishes, recipes=known_recipes())
    except (MachineError, PlanError, RecipeError) as error:
        raise click.UsageError(str(error), ctx) from None
    text = json.dumps(found.document(), indent=1) if as_json else show(found)
    click.echo(in_encoding(text, sys.stdout.encoding))
    ctx.exit(0 if found.fits else NOT_FITTING)
