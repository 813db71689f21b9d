"""`sparkstack eval`: the list of its verbs, each imported when it is called."""

import importlib

import click

# verb → where it is, and what the list of verbs says of it.
VERBS = {
    "run": ("services.tracking.commands.evaluate_run:run", "ask a model a set, or a task of lm-evaluation-harness"),
    "sets": ("services.tracking.commands.evaluations:sets", "list the sets and tasks that are shipped; check one"),
    "list": ("services.tracking.commands.evaluations:list_runs", "list the runs"),
    "show": ("services.tracking.commands.evaluations:show", "show a run: figures, items, what went wrong"),
    "judge": ("services.tracking.commands.judge:judge", "have a model judge the answers of one run, or of two"),
    "compare": ("services.tracking.commands.compare:compare", "put two runs or more side by side"),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in their own order."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a verb."""
        if cmd_name not in VERBS:
            return None
        module, attribute = VERBS[cmd_name][0].split(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of verbs without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, line) for verb, (_, line) in VERBS.items()])


@click.group("eval", cls=LazyGroup)
def evaluate() -> None:
    """Measure models on sets of questions, compare them, judge their answers. The gateway is asked, as any client asks.

    \b
    sparkstack eval run smollm2 --set basics
    sparkstack eval run smollm2 --task sparkstack_arithmetic
    sparkstack eval show RUN
    """
