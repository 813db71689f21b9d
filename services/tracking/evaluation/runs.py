"""Evaluation runs on disk: `<folder>/<run id>/run.json`, `items.jsonl`, `report.md` and what else a run leaves there.

`run.json` says what was asked of whom and what came of it; it is replaced whole. `items.jsonl` grows by a line an item,
as answers come: where a run is killed, what was answered stays, and a line that was cut off is not read.
"""

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

import services
from services.kit.files import write_json

VERSION = 1
State = Literal["running", "finished", "interrupted", "failed"]
Kind = Literal["set", "lm-eval"]


class RunError(Exception):
    """There is no such run, or its files can't be read; the message says which and what to do."""


@dataclass(frozen=True)
class Figure:
    """A mean over items and the 95 % bootstrap interval around it."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Item:
    """One question and what became of it.

    Args:
        id: stands once in a run, and for the same question in every run of the set.
        prompt: as the model got it; the messages of a chat joined by blank lines.
        prompt_digest: SHA-256 of what was sent, messages and all.
        reference: what the answer was held to: a text, a number, a schema; None where nothing was.
        score: 0 … 1; 0 where the request failed, with `error`.
        format_failed: the answer had not the form that was asked for, whatever it says.
        served: the model's name in the answer.
        scores: by name, where an item is measured in more than one way.
        seconds: from the request sent to the answer read; None where it is not known.
        finish_reason: the engine's: `stop`, `length`, …
        error: why there is no answer; empty otherwise.
    """

    id: str
    prompt: str
    prompt_digest: str
    answer: str
    reference: Any
    score: float
    format_failed: bool = False
    scores: Mapping[str, float] = field(default_factory=dict)
    kind: str = ""
    served: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float | None = None
    finish_reason: str = ""
    error: str = ""


@dataclass(frozen=True)
class Run:
    """What was asked of which model, how, and what came of it.

    Args:
        model: as it was asked for; `served`: as the answers named it.
        recipe, engine: from the gateway's list of models; empty where it doesn't say.
        revision: of the model's files, from the same place.
        kind: a set of ours, or a task of lm-evaluation-harness; `set` is its name.
        set_digest: of the set's lines as they were asked, or of the task's configuration and its documents.
        limit: the first so many items alone; None: all.
        commit: of this project, where it is a checkout.
        versions: of what may change answers: sparkstack, lm_eval, the engine.
        figures: `score` first; the others by name.
        counts: `items`, `errors`, `format_failures`, `cut` (finish_reason `length`), `prompt_tokens`,
            `completion_tokens`.
        times: `p50` and `p95`, seconds an answer; `tokens_per_s` of one request.
        note: why it has not finished, and whether it can go on.
    """

    id: str
    model: str
    kind: Kind
    set: str
    set_digest: str
    state: State = "running"
    served: str = ""
    recipe: str = ""
    revision: str = ""
    engine: str = ""
    limit: int | None = None
    seed: int = 0
    temperature: float = 0.0
    max_tokens: int | None = None
    concurrency: int = 1
    url: str = ""
    started: str = ""
    ended: str = ""
    seconds: float = 0.0
    commit: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    times: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    version: int = VERSION

    @property
    def score(self) -> Figure | None:
        """The figure that the run is about."""
        return self.figures.get("score")


class Runs:
    """The runs in a folder.

    Args:
        folder: made where there is none; `evaluations_folder()` is the stack's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create(self, run: Run) -> Run:
        """Make the folder of a new run and return the run with its id and its time.

        The id is made of the time, the model and the set: whatever `run.id` says is replaced.
        """
        now = datetime.now(UTC)
        words = "-".join(part for part in (_slug(run.model), _slug(run.set)) if part)
        begun = f"{now:%Y%m%d-%H%M%S}-{words}"
        while True:
            created = replace(run, id=f"{begun}-{secrets.token_hex(3)}", started=timestamp(now))
            with suppress(FileExistsError):
                (self.folder / created.id).mkdir(mode=0o700, parents=True)
                break
        self.save(created)
        return created

    def save(self, run: Run) -> None:
        """Write what is known of a run, whole or not at all."""
        write_json(self.path(run.id) / "run.json", asdict(run))

    def remove(self, run: Run) -> None:
        """Delete a run's folder."""
        shutil.rmtree(self.path(run.id))

    def path(self, run_id: str) -> Path:
        """Return a run's folder."""
        return self.folder / run_id

    def load(self, name: str) -> Run:
        """Return a run by its id, or by the beginning of one that only one run has.

        Raises:
            RunError
        """
        return _read(self._find(name))

    def items(self, run: Run | str) -> list[Item]:
        """Return a run's items in the order of its set; an item that was asked again counts once, as it was last.

        Raises:
            RunError
        """
        path = self.path(run if isinstance(run, str) else run.id) / "items.jsonl"
        if not path.exists():
            return []
        return list({item.id: item for item in _items(path)}.values())

    def append(self, run: Run, items: Sequence[Item]) -> None:
        """Add items to a run's file."""
        path = self.path(run.id) / "items.jsonl"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            # A kill may have cut the last line off: the next one begins anew.
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(b"".join(_line(item) for item in items))

    def replace_items(self, run: Run, items: Sequence[Item]) -> None:
        """Write a run's items anew, in this order."""
        path = self.path(run.id) / "items.jsonl"
        unfinished = path.with_name("items.jsonl.new")
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(b"".join(_line(item) for item in items))
        unfinished.replace(path)

    @contextmanager
    def held(self, run: Run) -> Iterator[None]:
        """Hold a run while it is at work, so that no second process takes it up.

        Raises:
            RunError: another process holds it.
        """
        with (self.path(run.id) / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(f"{run.id} is at work in another process") from None
            yield

    def at_work(self, run: Run) -> bool:
        """Say whether a process is at work on a run: one that was killed leaves `running` behind."""
        if run.state != "running":
            return False
        try:
            with self.held(run):
                return False
        except RunError:
            return True

    def list(self, model: str = "", set_name: str = "") -> list[Run]:
        """Return the runs, the newest first; folders that hold none, or a broken one, are left out."""
        found = []
        for path in self.folder.glob("*/run.json"):
            try:
                run = _read(path.parent)
            except RunError:
                continue
            if (not model or run.model == model) and (not set_name or run.set == set_name):
                found.append(run)
        return sorted(found, key=lambda run: (run.started, run.id), reverse=True)

    def latest(self, model: str, set_name: str) -> Run | None:
        """Return the newest finished run of a model on a set; None where there is none."""
        return next((run for run in self.list(model, set_name) if run.state == "finished"), None)

    def _find(self, name: str) -> Path:
        if name and os.sep not in name:
            exact = self.folder / name
            if (exact / "run.json").is_file():
                return exact
            found = sorted(path.parent for path in self.folder.glob("*/run.json") if path.parent.name.startswith(name))
            if len(found) == 1:
                return found[0]
            if found:
                raise RunError(f"{len(found)} runs begin with {name}: {', '.join(path.name for path in found[:4])}")
        raise RunError(f"there is no run {name!r} in {self.folder}; `sparkstack eval list` lists them")


def evaluations_folder() -> Path:
    """Return where the stack keeps its runs: `evaluations` in the folder of its state."""
    root = Path(os.environ.get("SPARKSTACK_HOME") or Path(services.__file__).resolve().parents[1]).expanduser()
    return Path(os.environ.get("SPARKSTACK_STATE") or root / ".state").expanduser() / "evaluations"


def digest(content: Any) -> str:
    """Return the SHA-256 of a text or of a document in one fixed spelling, in hex."""
    text = content if isinstance(content, str) else json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def timestamp(moment: datetime) -> str:
    """Return a time as runs write it: UTC, to the millisecond."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _read(folder: Path) -> Run:
    try:
        run = msgspec.json.decode((folder / "run.json").read_bytes(), type=Run)
    except (OSError, msgspec.DecodeError) as error:
        raise RunError(f"{folder / 'run.json'} can't be read: {error}") from None
    if run.version > VERSION:
        raise RunError(f"{folder.name} was written by a later version of sparkstack ({run.version} > {VERSION})")
    return run


def _items(path: Path) -> Iterator[Item]:
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield msgspec.json.decode(line, type=Item)
        except msgspec.DecodeError as error:
            if _was_cut(line):
                continue
            raise RunError(f"{path}, line {number}: {error}") from None


def _was_cut(line: bytes) -> bool:
    """Say whether a line is the beginning of one, as a kill leaves it."""
    return not line.rstrip().endswith(b"}")


def _line(item: Item) -> bytes:
    return msgspec.json.encode(item) + b"\n"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")[:40]
