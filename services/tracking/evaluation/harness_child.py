"""Run a task of lm-evaluation-harness, in the environment that has it: `python -m …harness_child REQUEST.json`.

It tells what it does in JSON lines on standard output (`planned`, `answered`, `done`, `failed`), and keeps each answer
as it comes, so that a run that was ended can go on. The harness makes the requests, filters and scores; what is added
to it is written beside: tokens, seconds and finish reason of each answer, and patience with a model that loads.
"""

import asyncio
import difflib
import hashlib
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TextIO

from services.kit.launch import tie_to_parent

_PATIENCE_S = 900.0
_LONGEST_WAIT_S = 30.0
_PREFERRED = ("exact_match", "acc", "f1")
# What the harness's filters say where an answer has not the form that they look for.
_INVALID = "[invalid]"


class Stop(BaseException):
    """There is no sense in going on; the message is for the user."""

    def __init__(self, message: str, *, can_go_on: bool = False) -> None:
        super().__init__(message)
        self.can_go_on = can_go_on


class Notes:
    """What is known of each answer beside its text, by the digest of its prompt; kept in a file of JSON lines.

    Args:
        tell: gets an event for each answer.
    """

    def __init__(self, path: Path, out: TextIO) -> None:
        self._path = path
        self._out = out
        self.rows: dict[str, dict[str, Any]] = {}
        self.kept = 0
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                    self.rows[row["prompt"]] = row
                except (ValueError, KeyError, TypeError):
                    continue
        self.kept = len(self.rows)
        self.answered = self.kept

    def tell(self, event: str, **more: Any) -> None:
        """Write an event."""
        self._out.write(json.dumps({"event": event, **more}) + "\n")
        self._out.flush()

    def add(self, prompt: str, document: Mapping[str, Any], seconds: float, error: str = "") -> None:
        """Keep what is known of an answer."""
        choices = document.get("choices") or [{}]
        usage = document.get("usage") or {}
        row = {
            "prompt": sha256(prompt),
            "served": str(document.get("model") or ""),
            "finish_reason": str(choices[0].get("finish_reason") or ""),
            "prompt_tokens": usage.get("prompt_tokens"),
            "completion_tokens": usage.get("completion_tokens"),
            "seconds": round(seconds, 4),
            "error": error,
        }
        self.rows[row["prompt"]] = row
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.answered += 1
        self.tell("answered", answered=self.answered)

    def of(self, prompt: str) -> Mapping[str, Any]:
        """Return what is known of the answer to a prompt."""
        return self.rows.get(sha256(prompt), {})


def main() -> None:
    """Run what the request says."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    tie_to_parent(int(request["parent"]))
    # The harness and what it uses print; the protocol has standard output for itself.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    notes = Notes(Path(request["folder"]) / "requests.jsonl", out)
    can_go_on = not request["temperature"]
    try:
        run(request, notes)
    except Stop as stop:
        notes.tell("failed", message=str(stop), can_go_on=stop.can_go_on and can_go_on)
        sys.exit(1)
    except Exception as error:
        import traceback

        traceback.print_exc()
        message = f"lm-evaluation-harness: {type(error).__name__}: {error}"
        notes.tell("failed", message=message[:2000], can_go_on=notes.answered > 0 and can_go_on)
        sys.exit(1)


def run(request: Mapping[str, Any], notes: Notes) -> None:
    """Load the task, have it run, write the items.

    Raises:
        Stop
    """
    manager = task_manager(request)
    from lm_eval import simple_evaluate

    settings: dict[str, Any] = {"temperature": request["temperature"], "do_sample": request["temperature"] > 0}
    if request["max_tokens"]:
        settings["max_gen_toks"] = request["max_tokens"]
    results = simple_evaluate(
        model=watched(request, notes),
        tasks=[request["name"]],
        task_manager=manager,
        num_fewshot=request["shots"],
        limit=request["limit"],
        apply_chat_template=request["api"] == "chat",
        gen_kwargs=settings,
        use_cache=str(Path(request["folder"]) / "answered"),
        log_samples=True,
        bootstrap_iters=0,
    )
    samples = results.pop("samples")
    items = [item for name, rows in samples.items() for item in items_of(name, rows, results["configs"][name], notes)]
    folder = Path(request["folder"])
    write(folder / "results.json", results)
    write(folder / "answers.json", {"items": items, "digest": digest_of(samples, results.get("versions", {}))})
    notes.tell("done", items=len(items))


def task_manager(request: Mapping[str, Any]) -> Any:
    """Return the harness's task manager, if it knows the task and the API can give what the task asks for.

    Raises:
        Stop
    """
    own = request["name"] in request["shipped"]
    if own:
        # The shipped tasks name their files by paths from their own folder, and need no network.
        os.chdir(request["tasks"])
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    from lm_eval.tasks import TaskManager

    places = [request["tasks"], *([request["include"]] if request["include"] else [])]
    manager = TaskManager(include_path=places, include_defaults=not own)
    if request["name"] not in manager.all_tasks:
        raise Stop(unknown(request["name"], manager.all_tasks))
    tasks = manager.load([request["name"]])["tasks"]
    compared = [name for name, task in tasks.items() if task.get_config("output_type") != "generate_until"]
    if compared and request["api"] == "chat":
        raise Stop(
            f"{compared[0]} compares the probabilities of given answers, which a chat can't tell: take a task that "
            "generates (many have a sister whose name ends in _gen or _generative), or --api completions with an "
            "engine that tells the prompt's probabilities (vLLM)"
        )
    if compared and not request["tokenizer"]:
        raise Stop(f"{compared[0]} compares the probabilities of given answers: name the model's --tokenizer")
    return manager


def unknown(name: str, known: Iterable[str]) -> str:
    """Return what is said of a task that there is not, with near names."""
    names = list(known)
    near = difflib.get_close_matches(name, names, 5, 0.6)
    near += sorted((each for each in names if name.lower() in each.lower() and each not in near), key=len)[:5]
    said = f"; near it: {', '.join(near[:6])}" if near else ""
    return f"lm-evaluation-harness has no task {name}{said} (`sparkstack eval sets` lists what is shipped)"


def watched(request: Mapping[str, Any], notes: Notes) -> Any:
    """Return the harness's model of an OpenAI-compatible server, which also notes what comes back.

    The requests are the harness's own. What is added: an answer that a server refuses for what the question is (too
    long a prompt) is noted and counts as empty, instead of ending the run; a server that is loading is waited for.
    """
    from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

    chat = request["api"] == "chat"
    parent: Any = LocalChatCompletion if chat else LocalCompletionsAPI
    begun: ContextVar[float] = ContextVar("begun")
    prompt_of: ContextVar[str] = ContextVar("prompt_of")
    empty: dict[str, Any] = {"choices": [{"index": 0, "text": "", "message": {"content": ""}}]}

    class Timed:
        """The harness's semaphore; a request's time begins when it has got through."""

        def __init__(self, semaphore: asyncio.Semaphore) -> None:
            self._semaphore = semaphore

        async def acquire(self) -> bool:
            got = await self._semaphore.acquire()
            begun.set(time.perf_counter())
            return got

        def release(self) -> None:
            self._semaphore.release()

    class Watched(parent):  # type: ignore[misc]  # its type is not known here
        """What the harness calls."""

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            notes.tell("planned", items=notes.kept + len(requests), answered=notes.answered)
            found: list[str] = super().generate_until(requests, disable_tqdm)
            return found

        def model_call(self, messages: Any, **more: Any) -> Any:
            import requests

            give_up = time.monotonic() + _PATIENCE_S
            while True:
                started = time.perf_counter()
                try:
                    outputs = super().model_call(messages, **more)
                except requests.HTTPError as error:
                    response = error.response
                    message = said_by(response.status_code, response.text)
                    wait = waits(response.status_code, response.headers, message, give_up, notes)
                    if wait is None:
                        notes.add(text_of(messages), {}, time.perf_counter() - started, message)
                        return empty
                    time.sleep(wait)
                except requests.ConnectionError as error:
                    raise dead(request, notes, error) from None
                else:
                    notes.add(text_of(messages), outputs or {}, time.perf_counter() - started)
                    return outputs

        async def amodel_call(self, session: Any, sem: Any, messages: Any, **more: Any) -> Any:
            import aiohttp

            prompt_of.set(text_of(messages))
            give_up = time.monotonic() + _PATIENCE_S
            while True:
                try:
                    return await super().amodel_call(session, Timed(sem), messages, **more)
                except aiohttp.ClientResponseError as error:
                    wait = waits(error.status, error.headers or {}, error.message, give_up, notes)
                    if wait is None:
                        notes.add(text_of(messages), {}, time.perf_counter() - begun.get(), said_by(error.status, ""))
                        return [""]
                    await asyncio.sleep(wait)
                except aiohttp.ClientConnectionError as error:
                    raise dead(request, notes, error) from None

        def parse_generations(self, outputs: Any, **more: Any) -> Any:
            prompt = prompt_of.get("")
            if prompt:
                notes.add(prompt, outputs if isinstance(outputs, dict) else {}, time.perf_counter() - begun.get())
            return super().parse_generations(outputs, **more)

    tokenizer = {"tokenizer": request["tokenizer"], "tokenizer_backend": "huggingface"} if request["tokenizer"] else {}
    return Watched(
        model=request["model"],
        base_url=f"{request['url']}/v1/{'chat/completions' if chat else 'completions'}",
        num_concurrent=request["concurrency"],
        max_retries=3,
        timeout=600,
        seed=request["seed"],
        tokenized_requests=False,
        **({"tokenizer_backend": None} | tokenizer),
    )


def waits(status: int, headers: Mapping[str, str], message: str, give_up: float, notes: Notes) -> float | None:
    """Return how long to wait before the request is sent again; None where this one question has no answer.

    Raises:
        Stop: no request will be answered.
    """
    if status in (401, 403):
        raise Stop(f"the gateway refuses the key ({message}); give the right one by --key or SPARKSTACK_API_KEY")
    if status == 404:
        raise Stop(message)
    if status in (429, 503) and time.monotonic() < give_up:
        try:
            asked = float(headers.get("retry-after", 1))
        except ValueError:
            asked = 1.0
        return min(max(asked, 0.1), _LONGEST_WAIT_S)
    if status >= 500 or status == 429:
        raise Stop(message, can_go_on=notes.answered > 0)
    return None


def dead(request: Mapping[str, Any], notes: Notes, error: Exception) -> Stop:
    """Return what ends a run when the gateway is gone."""
    words = "stopped answering" if notes.answered else "doesn't answer"
    return Stop(f"{request['url']} {words} ({type(error).__name__}); see `sparkstack status`", can_go_on=True)


def items_of(
    task: str, rows: Iterable[Mapping[str, Any]], config: Mapping[str, Any], notes: Notes
) -> list[dict[str, Any]]:
    """Return a task's samples as items: one a document, with the metrics of all filters."""
    by_document: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        by_document[row["doc_id"]].append(row)
    listed = [metric["metric"] for metric in config.get("metric_list") or () if isinstance(metric["metric"], str)]
    found = []
    for document in sorted(by_document):
        samples = by_document[document]
        scores = {name: value for sample in samples for name, value in metrics_of(sample, len(samples) > 1).items()}
        first = metrics_of(samples[0], named=False)
        main = next((name for name in (*listed, *_PREFERRED) if name in first), next(iter(first), ""))
        prompt = prompt_text(samples[0]["arguments"][0][0])
        note = notes.of(prompt)
        filtered = samples[0]["filtered_resps"]
        found.append(
            {
                "id": f"{task}/{document}",
                "prompt": readable(prompt),
                "prompt_digest": sha256(prompt),
                "answer": answer_of(samples[0]["resps"]),
                "reference": plain(samples[0]["target"]),
                "score": first.get(main, 0.0),
                "format_failed": bool(filtered) and filtered[0] == _INVALID,
                "scores": scores if len(scores) > 1 else {},
                "kind": task,
                **{name: note[name] for name in ("served", "finish_reason", "error") if note.get(name)},
                **{name: note.get(name) for name in ("prompt_tokens", "completion_tokens", "seconds")},
            }
        )
    return found


def metrics_of(sample: Mapping[str, Any], named: bool) -> dict[str, float]:
    """Return a sample's metrics that are numbers; `named` by the filter, too, as the harness does."""
    found = {}
    for metric in sample["metrics"]:
        value = sample.get(metric)
        if hasattr(value, "item"):
            value = value.item()
        if isinstance(value, bool | int | float):
            found[f"{metric},{sample['filter']}" if named else metric] = float(value)
    return found


def answer_of(responses: Any) -> str:
    """Return the first answer, as it came."""
    while isinstance(responses, list | tuple) and responses:
        responses = responses[0]
    return responses if isinstance(responses, str) else json.dumps(plain(responses), ensure_ascii=False)


def text_of(messages: Any) -> str:
    """Return the prompt of a request as the harness hands it on: a list of one."""
    return prompt_text(messages[0] if isinstance(messages, list | tuple) else messages)


def prompt_text(context: Any) -> str:
    """Return the text of a prompt: of a chat, its messages as JSON."""
    return str(getattr(context, "prompt", context))


def readable(prompt: str) -> str:
    """Return a chat's messages as one text."""
    try:
        messages = json.loads(prompt)
        return "\n\n".join(str(message["content"]) for message in messages)
    except (ValueError, KeyError, TypeError):
        return prompt


def digest_of(samples: Mapping[str, Iterable[Mapping[str, Any]]], versions: Mapping[str, Any]) -> str:
    """Return the digest of what was asked and held to: versions, prompts and targets of all tasks."""
    rows = {
        name: [[row["doc_id"], row["filter"], row["prompt_hash"], row["target_hash"]] for row in each]
        for name, each in samples.items()
    }
    return sha256(json.dumps([rows, plain(dict(versions))], sort_keys=True))


def said_by(status: int, text: str) -> str:
    """Return a refusal in the server's own words."""
    try:
        return f"{status}: {json.loads(text)['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return f"{status}: {text[:200]}" if text else f"status {status}"


def sha256(text: str) -> str:
    """Return a text's SHA-256 in hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def plain(value: Any) -> Any:
    """Return a value as JSON can have it."""
    return json.loads(json.dumps(value, default=str, ensure_ascii=False))


def write(path: Path, document: Any) -> None:
    """Write a document whole or not at all."""
    unfinished = path.with_name(f"{path.name}.new")
    text = json.dumps(document, indent=1, default=str, ensure_ascii=False)
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


if __name__ == "__main__":
    main()
