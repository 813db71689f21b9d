"""Judgements on disk: `<evaluations>/judgements/<id>/judgement.json`, `verdicts.jsonl` and `report.md`.

An id is made of what was judged, by whom and how: the same question again is the same judgement, which goes on where it
was interrupted, and is not asked anew where it has finished.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from services.kit.files import write_json
from services.tracking.evaluation.figures import figure
from services.tracking.evaluation.grading import Graded, Rubric
from services.tracking.evaluation.length_control import LengthControlled, length_controlled
from services.tracking.evaluation.pairwise import Judged
from services.tracking.evaluation.runs import Figure, State, digest

VERSION = 1
Kind = Literal["pairwise", "grades"]
_WINS: Mapping[str, float] = {"a": 1.0, "b": 0.0, "tie": 0.5}

Line = TypeVar("Line", Judged, Graded)


class JudgementError(Exception):
    """There is no such judgement, or its files can't be read; the message says which and what to do."""


@dataclass(frozen=True)
class Judgement:
    """Who judged what, how, and what came of it.

    Args:
        judge: as it was asked for; `served`: the id by which the gateway lists it.
        method: of asking: prompt and schema.
        run_a, run_b: whose answers; grades have no `run_b`. Win rates are a's.
        figures: `win_rate` and `win_rate_length_controlled`, or `grade` and `score` (the grade as 0 … 1).
        counts: of pairs: `pairs`, `a`, `b`, `tie`, `invalid`, `identical`, `unanswered`, `asked`, `first`, `second`,
            `wavered`, `first_place`, `second_place`; of grades: `answers`, `invalid`, `unanswered`, `grade_1` ….
        length: the length-controlled win rate; None without a readable verdict.
        note: why it has not finished.
    """

    id: str
    kind: Kind
    judge: str
    method: str
    run_a: str
    model_a: str
    set: str
    set_digest: str
    run_b: str = ""
    model_b: str = ""
    served: str = ""
    rubric: str = ""
    rubric_digest: str = ""
    reasons: bool = True
    references: bool = False
    max_tokens: int | None = None
    state: State = "running"
    started: str = ""
    ended: str = ""
    seconds: float = 0.0
    url: str = ""
    figures: Mapping[str, Figure] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    length: LengthControlled | None = None
    note: str = ""
    version: int = VERSION

    @property
    def consistency(self) -> float | None:
        """The share of pairs with readable verdicts in which the judge did not contradict itself; None without any."""
        readable = self.counts.get("asked", 0) - self.counts.get("invalid", 0)
        contradicted = sum(self.counts.get(name, 0) for name in ("first", "second", "wavered"))
        return (readable - contradicted) / readable if readable > 0 else None


def identify(judgement: Judgement) -> str:
    """Return the id of a judgement: of what is judged, by whom and how."""
    names = ["kind", "judge", "served", "method", "run_a", "run_b", "rubric_digest"]
    names += ["reasons", "references", "max_tokens"]
    return f"{judgement.kind}-{digest({name: getattr(judgement, name) for name in names})[:12]}"


class Judgements:
    """The judgements in the folder of the evaluation runs."""

    def __init__(self, evaluations: Path) -> None:
        self.folder = evaluations / "judgements"

    def path(self, judgement: Judgement) -> Path:
        """Return a judgement's folder."""
        return self.folder / judgement.id

    def find(self, judgement_id: str) -> Judgement | None:
        """Return a judgement; None where there is none yet.

        Raises:
            JudgementError
        """
        path = self.folder / judgement_id / "judgement.json"
        try:
            found = msgspec.json.decode(path.read_bytes(), type=Judgement)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise JudgementError(f"{path} can't be read ({error}); --again judges anew") from None
        if found.version > VERSION:
            raise JudgementError(f"{path} was written by a later version of sparkstack; --again judges anew")
        return found

    def save(self, judgement: Judgement) -> None:
        """Write what is known of a judgement, whole or not at all."""
        write_json(self.path(judgement) / "judgement.json", asdict(judgement))

    def lines(self, judgement: Judgement, kind: type[Line]) -> list[Line]:
        """Return what was judged, by id, the last word on each item; a line that was cut off by a kill is left out.

        Raises:
            JudgementError
        """
        path = self.path(judgement) / "verdicts.jsonl"
        found: dict[str, Line] = {}
        for number, line in enumerate(path.read_bytes().split(b"\n") if path.exists() else (), 1):
            if not line.strip():
                continue
            try:
                each = msgspec.json.decode(line, type=kind)
            except msgspec.DecodeError as error:
                if line.rstrip().endswith(b"}"):
                    raise JudgementError(f"{path}, line {number}: {error}; --again judges anew") from None
                continue
            found[each.id] = each
        # In one order, however they came: resampling draws by place.
        return sorted(found.values(), key=lambda each: each.id)

    def append(self, judgement: Judgement, line: Judged | Graded) -> None:
        """Add what was judged to a judgement's file."""
        path = self.path(judgement) / "verdicts.jsonl"
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b") as file:
            # A kill may have cut the last line off: the next one begins anew.
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(msgspec.json.encode(line) + b"\n")

    def forget(self, judgement: Judgement) -> None:
        """Remove what was judged: it is asked anew."""
        (self.path(judgement) / "verdicts.jsonl").unlink(missing_ok=True)

    @contextmanager
    def held(self, judgement: Judgement) -> Iterator[None]:
        """Hold a judgement while it is at work, so that no second process takes it up.

        Raises:
            JudgementError: another process holds it.
        """
        self.path(judgement).mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.path(judgement) / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise JudgementError(f"{judgement.id} is at work in another process") from None
            yield


def pairwise_counts(judged: Sequence[Judged]) -> dict[str, int]:
    """Return how pairs ended, and how often the judge contradicted itself or could not be read."""
    asked = [each for each in judged if each.basis == "judged"]
    choices = [verdict.choice for each in asked for verdict in each.verdicts]
    return {
        "pairs": len(judged),
        **{name: sum(each.outcome == name for each in judged) for name in ("a", "b", "tie", "invalid")},
        **{name: sum(each.basis == name for each in judged) for name in ("identical", "unanswered")},
        "asked": len(asked),
        **{name: sum(each.bias == name for each in asked) for name in ("first", "second", "wavered")},
        "first_place": choices.count("first"),
        "second_place": choices.count("second"),
    }


def pairwise_figures(
    judged: Sequence[Judged], confidence: float = 0.95
) -> tuple[dict[str, Figure], LengthControlled | None]:
    """Return a's win rate, and the one at equal lengths; ties count half, pairs without a readable verdict nothing.

    Args:
        confidence: of the length-controlled rate's one-sided lower bound.
    """
    readable = [each for each in judged if each.outcome in _WINS]
    if not readable:
        return {}, None
    wins = [_WINS[each.outcome] for each in readable]
    lengths, others = [each.length_a for each in readable], [each.length_b for each in readable]
    controlled = length_controlled(wins, lengths, others, confidence=confidence)
    figures = {
        "win_rate": figure(wins),
        "win_rate_length_controlled": Figure(controlled.win_rate, controlled.low, controlled.high, controlled.n),
    }
    return figures, controlled


def win_rate_range(counts: Mapping[str, int]) -> tuple[float, float]:
    """Return what the win rate would be if all unreadable pairs were lost, and if all were won."""
    won = counts["a"] + counts["tie"] / 2
    return won / counts["pairs"], (won + counts["invalid"]) / counts["pairs"]


def grade_counts(graded: Sequence[Graded], rubric: Rubric) -> dict[str, int]:
    """Return how many answers have which grade, or none."""
    return {
        "answers": len(graded),
        "invalid": sum(each.grade is None for each in graded),
        "unanswered": sum(each.unanswered for each in graded),
        **{f"grade_{grade}": sum(each.grade == grade for each in graded) for grade in sorted(rubric.grades)},
    }


def grade_figures(graded: Sequence[Graded], rubric: Rubric) -> dict[str, Figure]:
    """Return the mean grade, and as 0 … 1; answers whose grade can't be read count nothing."""
    grades = [each.grade for each in graded if each.grade is not None]
    if not grades:
        return {}
    return {"grade": figure(grades), "score": figure(rubric.share(grade) for grade in grades)}
