"""The samples of lm-evaluation-harness as items of a run. Imported by harness_child.py alone."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from services.tracking.evaluation.harness_notes import Notes, prompt_text, sha256

_PREFERRED = ("exact_match", "acc", "f1")
# What the harness's filters say where an answer has not the form that they look for.
_INVALID = "[invalid]"


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
        value: Any = sample.get(metric)
        if value is not None and hasattr(value, "item"):
            value = value.item()
        if isinstance(value, bool | int | float):
            found[f"{metric},{sample['filter']}" if named else metric] = float(value)
    return found


def answer_of(responses: Any) -> str:
    """Return the first answer, as it came."""
    while isinstance(responses, list | tuple) and responses:
        responses = responses[0]
    return responses if isinstance(responses, str) else json.dumps(plain(responses), ensure_ascii=False)


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


def plain(value: Any) -> Any:
    """Return a value as JSON can have it."""
    return json.loads(json.dumps(value, default=str, ensure_ascii=False))
