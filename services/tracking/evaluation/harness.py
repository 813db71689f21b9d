"""lm-evaluation-harness as a process of its own, in an environment of its own (`.venvs/lm-eval`).

What runs there is `harness_child.py`: it tells each answer as it comes, in JSON lines on its standard output, and what
the harness itself says goes to `harness.log` in the run's folder.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import msgspec

import services
from services.tracking.evaluation.running import Progress
from services.tracking.evaluation.runs import Item, Run

ANSWERS = "answers.json"
"""What the child leaves: the items, and the digest of what was asked."""
TASKS = Path(__file__).parent / "tasks"
_ROOT = Path(services.__file__).resolve().parents[1]
_END_S = 10.0
_LAST_WORDS = 4000


class HarnessError(Exception):
    """The harness is not here, doesn't know the task, or has come to nothing.

    Args:
        can_go_on: whether what was answered is kept, so that the run can be taken up again.
    """

    def __init__(self, message: str, *, can_go_on: bool = False) -> None:
        super().__init__(message)
        self.can_go_on = can_go_on


@dataclass(frozen=True)
class Task:
    """What the harness is to run.

    Args:
        name: of a task, or of a group of tasks.
        include: folder with tasks of the user's own; empty for none.
        api: `chat` or `completions`.
        tokenizer: of `completions`, for tasks that compare probabilities: a Hugging Face name or folder.
        shots: examples before each question; None as the task says.
    """

    name: str
    include: str = ""
    api: str = "chat"
    tokenizer: str = ""
    shots: int | None = None


@dataclass(frozen=True)
class Done:
    """What came of it: the items, and the digest of the task's configuration and documents."""

    items: list[Item]
    digest: str


def python() -> Path:
    """Return the Python that has the harness.

    Raises:
        HarnessError: there is none.
    """
    folder = Path(os.environ.get("LM_EVAL_ENVIRONMENT") or _ROOT / ".venvs" / "lm-eval")
    found = folder / "bin" / "python"
    if not found.exists():
        raise HarnessError(
            "lm-evaluation-harness has an environment of its own, which is not here yet: "
            "`python3 scripts/bootstrap.py lm-eval` makes it (or LM_EVAL_ENVIRONMENT names one)"
        )
    return found


def version() -> str:
    """Return the harness's version.

    Raises:
        HarnessError
    """
    code = "import importlib.metadata; print(importlib.metadata.version('lm_eval'))"
    try:
        done = subprocess.run([python(), "-c", code], capture_output=True, text=True, timeout=60, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        raise HarnessError(f"{python()} has no lm-evaluation-harness ({error})") from None
    return done.stdout.strip()


def run_task(run: Run, task: Task, folder: Path, url: str, key: str, progress: Progress) -> Done:
    """Run a task to its end and return its items.

    Args:
        folder: of the run; answers are kept there, so that a second call goes on.

    Raises:
        HarnessError
    """
    request = {
        **asdict(task),
        "model": run.model,
        "url": url.rstrip("/"),
        "limit": run.limit,
        "seed": run.seed,
        "temperature": run.temperature,
        "max_tokens": run.max_tokens,
        "concurrency": run.concurrency,
        "folder": str(folder.resolve()),
        "tasks": str(TASKS),
        "shipped": sorted(shipped()),
        "parent": os.getpid(),
    }
    (folder / "harness.json").write_text(json.dumps(request), encoding="utf-8")
    with (folder / "harness.log").open("ab") as log, _child(folder, key, log) as child:
        last = _follow(child, progress)
        code = child.wait()
    if last.get("event") == "done":
        return _read(folder)
    if last.get("event") == "failed":
        raise HarnessError(str(last["message"]), can_go_on=bool(last.get("can_go_on")))
    raise HarnessError(f"lm-evaluation-harness ended {_how(code)}: {_last_words(folder)}", can_go_on=True)


def answered(folder: Path) -> int:
    """Return how many answers of the harness are kept in a run's folder."""
    notes = folder / "requests.jsonl"
    return sum(bool(line) for line in notes.read_bytes().splitlines()) if notes.exists() else 0


def shipped() -> dict[str, str]:
    """Return the tasks that come with the project, by name, with what they say of themselves."""
    import yaml

    found = {}
    for path in sorted(TASKS.glob("*.yaml")):
        # The harness's own marks (`!function`) mean nothing here.
        text = re.sub(r"!function\s+", "", path.read_text(encoding="utf-8"))
        page = yaml.safe_load(text)
        found[str(page["task"])] = str(page.get("metadata", {}).get("description", ""))
    return found


@contextlib.contextmanager
def _child(folder: Path, key: str, log: IO[bytes]) -> Iterator[subprocess.Popen[str]]:
    """Start the child, and end it whatever happens here."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {
        "OPENAI_API_KEY": key,
        # A proxy of the environment is for data sets, not for the gateway.
        "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY", ""), "127.0.0.1,localhost,::1"])),
        "HF_DATASETS_CACHE": str(folder.parent / ".datasets"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    if os.environ.get("OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    command = [str(python()), "-m", "services.tracking.evaluation.harness_child", str(folder / "harness.json")]
    # A session of its own: Ctrl-C reaches this process, which ends the child.
    child = subprocess.Popen(  # noqa: S603 - our own Python and module
        command,
        cwd=_ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        start_new_session=True,
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(_END_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        if child.stdout:
            child.stdout.close()


def _follow(child: subprocess.Popen[str], progress: Progress) -> Mapping[str, Any]:
    """Show how far it is; return its last word."""
    assert child.stdout is not None
    last: dict[str, Any] = {}
    total = 0
    for line in child.stdout:
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if not isinstance(said, dict):
            continue
        last = said
        total = said.get("items", total)
        if said.get("event") in ("planned", "answered"):
            progress(int(said.get("answered", 0)), total, None)
    return last


def _read(folder: Path) -> Done:
    try:
        document = json.loads((folder / ANSWERS).read_text(encoding="utf-8"))
        items = msgspec.convert(document["items"], list[Item])
        digest = str(document["digest"])
    except (OSError, ValueError, KeyError, msgspec.ValidationError) as error:
        raise HarnessError(f"what lm-evaluation-harness left in {folder} can't be read: {error}") from None
    return Done(items, digest)


def _how(code: int) -> str:
    return f"by signal {signal.Signals(-code).name}" if code < 0 else f"with status {code}"


def _last_words(folder: Path) -> str:
    log = folder / "harness.log"
    said = re.split(r"[\r\n]+", log.read_bytes()[-_LAST_WORDS:].decode(errors="replace"))
    # Its progress bars are written over and over.
    words = [line.strip() for line in said if line.strip() and "it/s]" not in line and "?it" not in line]
    return f"{words[-1][:300] if words else 'it said nothing'} ({log})"
