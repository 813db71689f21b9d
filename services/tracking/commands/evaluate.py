"""`sparkstack eval`: the list of its verbs, each imported when it is called."""

import click

from services.kit.verbs import LazyGroup

# verb → where it is, and what the list of verbs says of it.
VERBS = {
    "run": ("services.tracking.commands.evaluate_run:run", "ask a model a set, or a task of lm-evaluation-harness"),
    "sets": ("services.tracking.commands.evaluations:sets", "list the sets and tasks that are shipped; check one"),
    "list": ("services.tracking.commands.evaluations:list_runs", "list the runs"),
    "show": ("services.tracking.commands.evaluations:show", "show a run: figures, items, what went wrong"),
    "judge": ("services.tracking.commands.judge:judge", "have a model judge the answers of one run, or of two"),
    "compare": ("services.tracking.commands.compare:compare", "put two runs or more side by side"),
}


@click.group("eval", cls=LazyGroup, verbs=VERBS)
def evaluate() -> None:
    """Measure models on sets of questions, compare them, judge their answers. The gateway is asked, as any client asks.

    \b
    sparkstack eval run smollm2 --set basics
    sparkstack eval run smollm2 --task sparkstack_arithmetic
    sparkstack eval show RUN
    """
