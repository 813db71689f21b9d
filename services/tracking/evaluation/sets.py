"""Sets of questions: JSON lines, with a page beside them (`NAME.yaml`) for what all questions share.

    {"id": "capital-1", "prompt": "What is the capital of France?", "reference": "Paris", "scorer": "contains"}

A question has `id`, `prompt` or `messages`, `scorer` (scorers.py) and what that reads; it may have `kind`, `system`,
`max_tokens` and `note`. The page may have `description`, `licence`, `version`, and `system`, `max_tokens` and `scorer`
for questions that say nothing of them. Choices are written below the prompt, as A, B, C.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from services.tracking.evaluation.runs import digest
from services.tracking.evaluation.scorers import Scorer, ScorerError, prepare

SHIPPED = Path(__file__).parent / "sets"
_MAX_TOKENS = 256
_MAX_BYTES = 256_000_000
_KEYS = frozenset(
    {
        "id", "prompt", "messages", "system", "scorer", "reference", "choices", "schema", "tolerance", "kind",
        "max_tokens", "send_schema", "note",
    }
)  # fmt: skip
_PAGE_KEYS = frozenset({"description", "licence", "version", "system", "max_tokens", "scorer", "source"})
_ROLES = frozenset({"system", "user", "assistant"})


class SetError(Exception):
    """There is no such set, or it has a mistake; the message names the line."""


@dataclass(frozen=True)
class Question:
    """One question, as it is sent.

    Args:
        messages: of the chat.
        reference: what the answer is held to, for whoever reads the run.
        response_format: OpenAI's field; None where the answer's form is asked for in words alone.
    """

    id: str
    messages: tuple[Mapping[str, str], ...]
    scorer: Scorer
    scorer_kind: str
    reference: Any
    kind: str
    max_tokens: int
    response_format: Mapping[str, Any] | None = None

    @property
    def prompt(self) -> str:
        """The messages as one text."""
        return "\n\n".join(message["content"] for message in self.messages)

    @property
    def digest(self) -> str:
        """The digest of what is sent."""
        return digest([dict(message) for message in self.messages])


@dataclass(frozen=True)
class QuestionSet:
    """A set, read and checked.

    Args:
        rows: the lines as they stand in the file, with what the page says for all of them filled in.
    """

    name: str
    questions: tuple[Question, ...]
    rows: tuple[Mapping[str, Any], ...]
    description: str = ""
    licence: str = ""
    version: str = ""

    @property
    def digest(self) -> str:
        """The digest of the questions with their references: two runs of one digest were held to the same."""
        return digest([dict(row) for row in self.rows])

    def first(self, limit: int | None) -> "QuestionSet":
        """Return the set of the first questions alone."""
        if limit is None or limit >= len(self.questions):
            return self
        return QuestionSet(
            self.name, self.questions[:limit], self.rows[:limit], self.description, self.licence, self.version
        )


def shipped() -> list[Path]:
    """Return the sets that come with the project."""
    return sorted(SHIPPED.glob("*.jsonl"))


def find_set(name: str) -> Path:
    """Return the file of a set: one that is shipped, by its name, or any, by its path.

    Raises:
        SetError
    """
    path = SHIPPED / f"{name}.jsonl"
    if path.name in {each.name for each in shipped()}:
        return path
    path = Path(name).expanduser()
    if path.is_file():
        return path
    names = ", ".join(each.stem for each in shipped())
    raise SetError(f"there is no set {name}: give the path of a JSON-lines file, or one of {names}")


def read_set(path: Path, name: str = "") -> QuestionSet:
    """Return a set.

    Raises:
        SetError
    """
    page = _page(path.with_suffix(".yaml"))
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise SetError(f"{path} has more than {_MAX_BYTES // 1_000_000} MB")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SetError(f"{path} can't be read: {error}") from None
    rows = [_row(path, number, line, page) for number, line in enumerate(lines, 1) if line.strip()]
    found = [_question(path, number, row) for number, row in rows]
    if not found:
        raise SetError(f"{path} has no questions")
    seen: set[str] = set()
    for (number, _), question in zip(rows, found, strict=True):
        if question.id in seen:
            raise SetError(f"{path}, line {number}: the id {question.id} stands there twice")
        seen.add(question.id)
    about = {key: str(page.get(key, "")) for key in ("description", "licence", "version")}
    return QuestionSet(name or path.stem, tuple(found), tuple(row for _, row in rows), **about)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a set so that it can be read again without its page."""
    path.write_text("".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _page(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        page = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SetError(f"{path} can't be read: {error}") from None
    if not isinstance(page, dict):
        raise SetError(f"{path} must be a mapping of {', '.join(sorted(_PAGE_KEYS))}")
    unknown = page.keys() - _PAGE_KEYS
    if unknown:
        raise SetError(
            f"{path} has {', '.join(sorted(map(str, unknown)))}; it may have {', '.join(sorted(_PAGE_KEYS))}"
        )
    return page


def _row(path: Path, number: int, line: str, page: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise SetError(f"{path}, line {number}: not JSON ({error})") from None
    if not isinstance(row, dict):
        raise SetError(f"{path}, line {number}: not an object")
    unknown = row.keys() - _KEYS
    if unknown:
        raise SetError(
            f"{path}, line {number}: unknown {', '.join(sorted(unknown))}; known are {', '.join(sorted(_KEYS))}"
        )
    shared = {key: page[key] for key in ("system", "max_tokens", "scorer") if key in page}
    return number, shared | row


def _question(path: Path, number: int, row: Mapping[str, Any]) -> Question:
    where = f"{path}, line {number}"
    name = row.get("id")
    if not isinstance(name, str) or not name.strip():
        raise SetError(f"{where}: a question needs an `id`")
    kind, most = row.get("scorer"), row.get("max_tokens", _MAX_TOKENS)
    if not isinstance(kind, str):
        raise SetError(f"{where}: {name} needs a `scorer`")
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise SetError(f"{where}: `max_tokens` of {name} must be a number of 1 or more")
    try:
        scorer = prepare(kind, row)
    except ScorerError as error:
        raise SetError(f"{where}: {name}: {error}") from None
    response_format = None
    if kind == "json_schema" and row.get("send_schema", True):
        schema = {"name": "answer", "schema": row["schema"], "strict": True}
        response_format = {"type": "json_schema", "json_schema": schema}
    return Question(
        id=name,
        messages=_messages(where, row),
        scorer=scorer,
        scorer_kind=kind,
        reference=row.get("reference", row.get("schema")),
        kind=str(row.get("kind", "")),
        max_tokens=most,
        response_format=response_format,
    )


def _messages(where: str, row: Mapping[str, Any]) -> tuple[Mapping[str, str], ...]:
    messages, prompt = row.get("messages"), row.get("prompt")
    if (messages is None) == (prompt is None):
        raise SetError(f"{where}: {row['id']} needs a `prompt` or `messages`, one of them")
    if messages is None:
        if not isinstance(prompt, str) or not prompt.strip():
            raise SetError(f"{where}: the `prompt` of {row['id']} must be a text")
        messages = [{"role": "user", "content": prompt + _listed(row.get("choices"))}]
    if not isinstance(messages, list) or not messages or not all(_is_message(each) for each in messages):
        raise SetError(f"{where}: `messages` of {row['id']} must be a list of {{role, content}}")
    if row.get("system") and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": str(row["system"])}, *messages]
    return tuple({"role": each["role"], "content": each["content"]} for each in messages)


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") in _ROLES and isinstance(message.get("content"), str)


def _listed(choices: Any) -> str:
    if not choices:
        return ""
    return "\n" + "\n".join(f"{chr(ord('A') + place)}. {text}" for place, text in enumerate(choices))
