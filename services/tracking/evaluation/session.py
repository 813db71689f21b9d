"""A run from its beginning to its end: what is known of the model, the asking, the figures, the report."""

import asyncio
import json
import platform
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import services
from services.tracking.evaluation import door as doors
from services.tracking.evaluation import harness
from services.tracking.evaluation.door import Door, DoorError, Model
from services.tracking.evaluation.figures import summarised
from services.tracking.evaluation.harness import HarnessError, Task
from services.tracking.evaluation.report import markdown
from services.tracking.evaluation.running import Progress, ask_all
from services.tracking.evaluation.runs import Run, RunError, Runs, State, timestamp
from services.tracking.evaluation.sets import QuestionSet, read_set, write_rows

QUESTIONS = "questions.jsonl"
"""A set as it was asked, in the run's folder: a run goes on with it, whatever has become of the file."""
TASK = "task.json"


@dataclass(frozen=True)
class Place:
    """Where the gateway is, and the key to it."""

    url: str
    key: str


@dataclass(frozen=True)
class Asked:
    """How a model is to be asked."""

    model: str
    limit: int | None = None
    seed: int = 0
    temperature: float = 0.0
    max_tokens: int | None = None
    concurrency: int = 1


def begin_set(asked: Asked, questions: QuestionSet, place: Place, runs: Runs) -> Run:
    """Make a run of a set; nothing is asked yet but the gateway's list of models.

    Raises:
        DoorError: nothing answers, the key is refused, or there is no such model.
    """
    chosen = questions.first(asked.limit)
    known = look_up(asked.model, place)
    run = runs.create(
        replace(_described(asked, known, place), kind="set", set=questions.name, set_digest=chosen.digest)
    )
    write_rows(runs.path(run.id) / QUESTIONS, chosen.rows)
    return run


def begin_task(asked: Asked, task: Task, place: Place, runs: Runs) -> Run:
    """Make a run of a task of lm-evaluation-harness.

    Raises:
        DoorError: as above.
        HarnessError: its environment is not here.
    """
    version = harness.version()
    known = look_up(asked.model, place)
    described = _described(asked, known, place)
    versions = {**described.versions, "lm_eval": version}
    run = runs.create(replace(described, kind="lm-eval", set=task.name, versions=versions))
    (runs.path(run.id) / TASK).write_text(json.dumps(asdict(task)), encoding="utf-8")
    return run


def look_up(model: str, place: Place) -> Model:
    """Return what the gateway says of a model.

    Raises:
        DoorError
    """

    async def ask() -> Model:
        async with doors.client(place.url, place.key) as client:
            return await Door(client).model(model)

    return asyncio.run(ask())


def perform(run: Run, runs: Runs, place: Place, progress: Progress) -> Run:
    """Ask what is still to be asked and return the run as it has ended: finished, interrupted or failed.

    Raises:
        RunError: another process is at work on it, or its files are gone.
        KeyboardInterrupt: after what is known is written down.
    """
    with runs.held(run):
        begun = time.monotonic()
        run = replace(run, state="running", note="", ended="")
        runs.save(run)
        state: State = "interrupted"
        note = "interrupted"
        try:
            if run.kind == "set":
                _ask_set(run, runs, place, progress)
            else:
                run = _ask_harness(run, runs, place, progress)
            state, note = "finished", ""
        except DoorError as error:
            note = str(error)
        except HarnessError as error:
            state, note = ("interrupted", str(error)) if error.can_go_on else ("failed", str(error))
        finally:
            run = _end(run, runs, state, note, time.monotonic() - begun)
    return run


def _ask_set(run: Run, runs: Runs, place: Place, progress: Progress) -> None:
    path = runs.path(run.id) / QUESTIONS
    if not path.exists():
        raise RunError(f"{path} is gone; begin a new run")
    questions = read_set(path, run.set)
    known = runs.items(run)

    async def ask() -> None:
        async with doors.client(place.url, place.key, run.concurrency) as client:
            await ask_all(run, questions, known, Door(client), lambda item: runs.append(run, [item]), progress)

    asyncio.run(ask())
    # As they came is not as they stand in the set, where several were asked at a time.
    order = {question.id: place for place, question in enumerate(questions.questions)}
    runs.replace_items(run, sorted(runs.items(run), key=lambda item: order[item.id]))


def _ask_harness(run: Run, runs: Runs, place: Place, progress: Progress) -> Run:
    folder = runs.path(run.id)
    try:
        task = Task(**json.loads((folder / TASK).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{folder / TASK} can't be read ({error}); begin a new run") from None
    done = harness.run_task(run, task, folder, place.url, place.key, progress)
    runs.replace_items(run, done.items)
    (folder / harness.ANSWERS).unlink()
    return replace(run, set_digest=done.digest)


def _end(run: Run, runs: Runs, state: State, note: str, seconds: float) -> Run:
    items = runs.items(run)
    if state == "finished" and items and all(item.error for item in items):
        state, note = "failed", f"no item has an answer; the first: {items[0].error}"
    if state == "interrupted":
        kept = len(items) or harness.answered(runs.path(run.id))
        note = f"{note}. {kept} answers are kept: `sparkstack eval run --resume {run.id}` goes on"
    served = ", ".join(sorted({item.served for item in items if item.served}))
    ended = replace(
        summarised(run, items),
        state=state,
        note=note,
        served=served or run.served,
        ended=timestamp(datetime.now(UTC)),
        seconds=round(run.seconds + seconds, 3),
    )
    runs.save(ended)
    (runs.path(run.id) / "report.md").write_text(markdown(ended, items), encoding="utf-8")
    return ended


def _described(asked: Asked, known: Model, place: Place) -> Run:
    return Run(
        id="",
        kind="set",
        set="",
        set_digest="",
        **asdict(asked),
        recipe=known.id,
        revision=known.revision,
        engine=known.engine,
        url=place.url,
        commit=_commit(),
        versions={"sparkstack": services.__version__, "python": platform.python_version()},
    )


def _commit() -> str:
    """Return the commit of the code that runs, with a mark where files were changed; "" outside a checkout."""
    git, root = shutil.which("git"), Path(services.__file__).resolve().parents[1]
    if not git or not (root / ".git").exists():
        return ""
    commit = _said([git, "-C", str(root), "rev-parse", "--short=12", "HEAD"])
    changed = _said([git, "-C", str(root), "status", "--porcelain", "--untracked-files=no"])
    return f"{commit}+changes" if commit and changed else commit


def _said(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603 - git
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def run_files(runs: Runs, run: Run) -> list[Path]:
    """Return a run's files that are of use elsewhere."""
    found = [runs.path(run.id) / name for name in ("report.md", "run.json", "items.jsonl", "results.json")]
    return [path for path in found if path.is_file()]
