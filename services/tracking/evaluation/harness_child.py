"""Run a task of lm-evaluation-harness, in the environment that has it: `python -m …harness_child REQUEST.json`.

It tells what it does in JSON lines on standard output (`planned`, `answered`, `done`, `failed`), and keeps each answer
as it comes, so that a run that was ended can go on. The harness makes the requests, filters and scores; what is added
to it is written beside: tokens, seconds and finish reason of each answer, and patience with a model that loads.
"""

import difflib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from services.kit.launch import tie_to_parent
from services.tracking.evaluation.harness_items import digest_of, items_of
from services.tracking.evaluation.harness_notes import Notes
from services.tracking.evaluation.harness_stops import Stop


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

    from services.tracking.evaluation.harness_model import watched

    settings: dict[str, Any] = {"temperature": request["temperature"], "do_sample": request["temperature"] > 0}
    if request["max_tokens"]:
        settings["max_gen_toks"] = request["max_tokens"]
    results = simple_evaluate(
        model=watched(request, notes, request["api"] == "chat"),
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


def write(path: Path, document: Any) -> None:
    """Write a document whole or not at all."""
    unfinished = path.with_name(f"{path.name}.new")
    text = json.dumps(document, indent=1, default=str, ensure_ascii=False)
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


if __name__ == "__main__":
    main()
