"""The matrix of engines and checks, from the results that the suite writes.

    python -m tests.conformance.matrix      write docs/engine-matrix.md anew

`make test-engines CONFORMANCE_RESULTS=tests/conformance/results` and a run of the fast and slow tests with the same
variable write the results.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.conformance.checks import CHECKS

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).with_name("results")
DOCUMENT = ROOT / "docs" / "engine-matrix.md"
NAMES = {"fake": "fake", "llamacpp": "llama.cpp", "vllm": "vLLM", "sglang": "SGLang", "trtllm": "TensorRT-LLM"}
_MARKS = {"works": "✓", "broken": "✗"}
_HEAD = """\
# What each engine does, and what it can't

Every check of `tests/conformance`, asked through the gateway with openai's client and plain HTTP. Written by
`python -m tests.conformance.matrix` from the results of real runs (`tests/conformance/results/`): not by hand. A number
leads to the reason, which stands in the recipe (`lacks`), and the suite makes sure that it is still true. The fake
engine is the tests' own.

SmolLM2 does not think: for `reasoning`, vLLM was started with a parser of thoughts that are marked by words, and an
expression made the model write those. What a model is worth is not asked here; the wire is.

None of these runs had a GPU: vLLM is the build for the CPU. What runs on a DGX Spark alone (vLLM for CUDA, SGLang,
TensorRT-LLM, Ollama) has not been asked: no such machine was there.
"""


def table(outcomes: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return the matrix for a terminal: a line a check, a column an engine, the reasons behind it."""
    width = max(map(len, CHECKS))
    lines = [" ".join([" " * width, *(f"{NAMES.get(name, name):>10}" for name in outcomes)])]
    for check in CHECKS:
        marks = [_mark(found.get(check, "")) for found in outcomes.values()]
        lines.append(" ".join([f"{check:{width}}", *(f"{mark:>10}" for mark in marks)]))
    for name, found in outcomes.items():
        lines += [f"{NAMES.get(name, name)}, {check}: {reason}" for check, reason in _reasons(found)]
    return lines


def document(results: Iterable[Mapping[str, Any]]) -> str:
    """Return docs/engine-matrix.md."""
    results = list(results)
    reasons: dict[str, int] = {}
    for result in results:
        for _, reason in _reasons(result["checks"]):
            reasons.setdefault(reason, len(reasons) + 1)
    titles = [" ".join(filter(None, (NAMES[each["engine"]], each["version"]))) for each in results]
    lines = [_HEAD, f"| check | {' | '.join(titles)} | what a client can rely on |"]
    lines += ["|---|" + "---|" * (len(results) + 1)]
    models = [f"`{each['model']}`" if each["version"] else "" for each in results]
    lines += [f"| | {' | '.join(models)} | |"]
    for name, check in CHECKS.items():
        cells = [_cell(each["checks"].get(name, ""), reasons) for each in results]
        lines.append(f"| `{name}` | {' | '.join(cells)} | {check.promise} |")
    lines += ["", *(f"{number}. {reason}" for reason, number in reasons.items()), ""]
    return "\n".join(lines)


def read_results() -> list[dict[str, Any]]:
    """Return the results that are in the tree, in the order of the columns."""
    found = {path.stem: json.loads(path.read_text()) for path in RESULTS.glob("*.json")}
    return [found[name] for name in NAMES if name in found]


def _mark(outcome: str) -> str:
    return _MARKS.get(outcome, "lacks" if outcome else "–")


def _cell(outcome: str, reasons: Mapping[str, int]) -> str:
    return _MARKS[outcome] if outcome in _MARKS else f"({reasons[outcome.removeprefix('lacks: ')]})" if outcome else "–"


def _reasons(found: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(name, outcome.removeprefix("lacks: ")) for name, outcome in found.items() if outcome.startswith("lacks: ")]


if __name__ == "__main__":
    DOCUMENT.write_text(document(read_results()), encoding="utf-8")
    print(f"{DOCUMENT.relative_to(ROOT)} is written", file=sys.stderr)
