"""A pull in the foreground: its progress, the question before a large download, and Ctrl-C."""

import queue
import sys
import threading

import click

from services.engines.files.checksums import Interrupted
from services.engines.files.download_plan import DownloadPlan, Progress, PullOptions, gigabytes
from services.engines.files.getting import Declined, Getting
from services.engines.files.hub import PullError
from services.engines.files.pull_view import PullView
from services.engines.files.store import ModelStore
from services.engines.recipes import Recipe

_ASK_FROM_BYTES = 1_000_000_000
_LEAVE_S = 2.0


def run_pull(store: ModelStore, recipes: list[Recipe], recipe: Recipe, options: PullOptions, *, yes: bool) -> bool:
    """Pull a model and show how; False where all of it was here.

    Raises:
        click.ClickException: it can't be had; with what to do.
        click.Abort: Ctrl-C; what has come is kept.
        click.exceptions.Exit: a person said no.
    """
    work = _Work(store, recipes, recipe, options)
    view = PullView()
    work.start()
    try:
        while (item := work.news.get()) is not None:
            if isinstance(item, Progress):
                view.show(item)
            else:
                view.clear()
                work.answers.put(_may_download(recipe, item, yes))
    except (KeyboardInterrupt, click.Abort):
        work.end()
        view.clear()
        last = view.last
        how_far = f" at {gigabytes(last.all_done or 0)} of {gigabytes(last.all_total or 0)}" if last else ""
        click.echo(f"stopped{how_far}; `sparkstack pull {recipe.id}` goes on from there", err=True)
        raise click.Abort from None
    view.clear()
    if isinstance(work.problem, Declined):
        click.echo(f"{work.problem}; get it at any time with `sparkstack pull {recipe.id}`")
        raise click.exceptions.Exit(1)
    if isinstance(work.problem, PullError):
        raise click.ClickException(str(work.problem))
    if work.problem is not None:
        raise work.problem
    return work.got


class _Work:
    """The pull in a thread of its own, so that Ctrl-C is seen while the hub is silent."""

    def __init__(self, store: ModelStore, recipes: list[Recipe], recipe: Recipe, options: PullOptions) -> None:
        self.news: queue.SimpleQueue[Progress | DownloadPlan | None] = queue.SimpleQueue()
        """Progress; a plan, which a person is asked about; None at the end."""
        self.answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.got = False
        self.problem: BaseException | None = None
        self._recipe = recipe
        self._stop = threading.Event()
        self._getting = Getting(
            store, recipes, options, on_progress=self.news.put, stop=self._stop, confirm=self._confirm
        )
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Stop; what has come is kept."""
        self._stop.set()
        self.answers.put(False)
        self._thread.join(_LEAVE_S)

    def _run(self) -> None:
        try:
            self.got = self._getting.run(self._recipe)
        except BaseException as problem:  # it is raised by the thread that can tell
            self.problem = problem
        self.news.put(None)

    def _confirm(self, plan: DownloadPlan) -> bool:
        self.news.put(plan)
        answer = self.answers.get()
        if self._stop.is_set():
            raise Interrupted
        return answer


def _may_download(recipe: Recipe, plan: DownloadPlan, yes: bool) -> bool:
    here = plan.total_bytes - plan.needed_bytes
    rest = f" ({gigabytes(here)} of {gigabytes(plan.total_bytes)} are here)" if here else ""
    click.echo(
        f"{recipe.id} at {plan.commit[:12]}: {gigabytes(plan.needed_bytes)} to download{rest} to {plan.folder}, "
        f"where {gigabytes(plan.free_bytes)} are free"
    )
    if yes or plan.needed_bytes < _ASK_FROM_BYTES or not sys.stdin.isatty():
        return True
    return click.confirm("Download now?")
