"""The entry point: the list of verbs, each imported when it is called."""

import os
import sys

import click

from services import __version__
from services.cli.home import load_environment
from services.kit.launch import MARK
from services.kit.verbs import LazyGroup

# verb → where it is, and what the list of verbs says of it. `sparkstack --help` imports none of them.
VERBS = {
    "up": ("services.cli.up:up", "start the stack, wait until it answers, print where"),
    "down": ("services.cli.down:down", "stop the stack and leave nothing behind"),
    "status": ("services.cli.status:status", "show each service's state and what is being waited for"),
    "logs": ("services.cli.logs:logs", "show the services' logs, or follow them"),
    "restart": ("services.cli.restart:restart", "restart one service, or all"),
    "backup": ("services.cli.keeping.backup:backup", "keep documents, indexes, records, keys and settings"),
    "restore": ("services.cli.keeping.restore:restore", "put a backup back"),
    "bundle": ("services.cli.bundling.bundle:bundle", "put all that a machine without a network needs into a folder"),
    "unbundle": ("services.cli.bundling.unbundle:unbundle", "take over the images and models of a bundle"),
    "doctor": ("services.cli.doctor:doctor", "look at the machine and the stack, and say what is wrong"),
    "mode": ("services.cli.modes:mode", "print how `up` would run the stack here: embedded or compose"),
    "key": ("services.cli.key:key", "print the API key that clients send"),
    "models": ("services.engines.commands.models:models", "list the models, and which are here"),
    "plan": ("services.engines.commands.plan:plan", "say whether models fit on a machine, and what they take"),
    "pull": ("services.engines.commands.models:pull", "get a model's files, or go on getting them"),
    "rm": ("services.engines.commands.models:rm", "delete a model's files"),
    "load": ("services.cli.control:load", "load a model and keep it"),
    "unload": ("services.cli.control:unload", "unload a model"),
    "recipe": ("services.engines.commands.recipe:recipe", "show a recipe, draft one, say how its engine is started"),
    "rag": ("services.rag.commands.rag:rag", "put documents into collections, search and ask them"),
    "cost": ("services.tracking.commands.cost:cost", "what requests took and cost, by key, model and day"),
    "feedback": ("services.tracking.commands.feedback:feedback", "rate an answer, list or import ratings"),
    "eval": ("services.tracking.commands.evaluate:evaluate", "ask models sets of questions, compare and judge them"),
    "promote": ("services.tracking.commands.promote:promote", "give a model a name if it is not worse than who has it"),
    "drift": ("services.tracking.commands.drift:drift", "say whether traffic has changed, and against what"),
    "records": ("services.tracking.commands.records:records", "see or delete what is kept of requests"),
    "gateway": ("services.gateway.commands:gateway", "run the gateway alone, in front of any server"),
    "engine": ("services.engines.commands.engine:engine", "run one engine alone"),
    "engines": ("services.engines.commands.service:engines", "run the service that loads models (`up` does)"),
    "embeddings": ("services.embeddings.commands:embeddings", "run the embeddings service alone"),
    "tracking": ("services.tracking.commands.service:tracking", "run the tracking service alone"),
    "mlflow": ("services.tracking.commands.mlflow:mlflow", "run the MLflow server alone"),
    "open-webui": ("services.ui.commands:open_webui", "run Open WebUI in front of the stack (`make open-webui`)"),
    "guard": ("services.engines.commands.guard:guard", "on a Spark, as root: drop caches while an engine loads"),
}


IN_CONTAINERS = frozenset({"models", "pull", "rm"})
"""Verbs about files that are in a volume where the stack runs as containers."""


class Verbs(LazyGroup):
    """The stack's verbs; some of them run in a container where the stack does."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a verb, or what runs it in its container."""
        inside = _inside(cmd_name) if cmd_name in IN_CONTAINERS else None
        return inside or super().get_command(ctx, cmd_name)


def _inside(verb: str) -> click.Command | None:
    """Return the verb as it runs in its container; None where the stack does not run as containers."""
    if MARK in os.environ:
        return None
    from services.cli.home import find_home
    from services.cli.modes import running_mode

    load_environment()
    home = find_home()
    if running_mode(home) != "compose":
        return None
    from services.cli.containers.inside import inside_command

    return inside_command(home, verb)


@click.group(cls=Verbs, verbs=VERBS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sparkstack")
def cli() -> None:
    """Run LLM services on one machine behind one gateway.

    SPARKSTACK_HOME names the project's folder, SPARKSTACK_STATE the one for state and logs (.state there).
    Variables are also read from .env in the project's folder; the environment wins.
    """
    # What the stack has started has got its variables already.
    if MARK not in os.environ:
        load_environment()


def main() -> None:
    """Run the command line and exit with its status."""
    try:
        sys.exit(cli.main(prog_name="sparkstack", standalone_mode=False))
    except click.Abort:
        click.echo("\nsparkstack: interrupted", err=True)
        sys.exit(130)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.UsageError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        click.echo(f"sparkstack: {error.format_message()}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # `sparkstack logs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
