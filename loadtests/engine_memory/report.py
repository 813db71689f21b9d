"""docs/memory.md: what was measured, beside what the memory plan says of the same settings now."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from loadtests.engine_memory.measuring import ROOT, Measured
from loadtests.engine_memory.settings import GIB, RECIPES, SETTINGS, Setting, Use
from services.engines.planning import overheads

TARGET = ROOT / "docs" / "memory.md"
RESULTS = ROOT / "loadtests" / "results" / "engine-memory.json"
WITHIN = 0.15
NAMES = {"llamacpp": "llama.cpp", "vllm": "vLLM"}

_COLUMNS = (
    "| engine | context | sequences | KV pool | predicted MB | held MB | error | when ready MB | peak MB | "
    "requests, tokens |\n|---|---|---|---|---|---|---|---|---|---|"
)
_HEAD = """# Memory: predicted and measured

Made by `make bench-memory` (`python -m loadtests.engine_memory`); change that, not this file.

Does an engine hold what `sparkstack plan` says? The engines that run without a GPU are started at several settings,
filled with requests, and measured. How the plan makes its sums: [memory-plan.md](memory-plan.md).

- **predicted**: the plan's weights + KV cache + overhead, which admission also reckons with.
- **held**: after the requests, when none has run for some seconds. **when ready**: before the first request.
  **peak**: the most from the launch on, looked at twice a second.
- All are the PSS of the engine's process tree, in which a page that several processes share counts once. The fall of
  the machine's available memory, which a load's receipt also looks at, is left out here: other programs disturb it.
- **error**: predicted against held; + is a plan that asks for more than the engine holds.
- The requests' prompts fill every sequence to its context, as many at a time as there are sequences. llama.cpp gets as
  many more as fill its prompt cache. An engine that has just started holds less than its plan says: llama.cpp takes
  memory for KV cache and prompts when they come.
"""


@dataclass(frozen=True)
class Row:
    """A setting and what was measured at it."""

    setting: Setting
    measured: Measured

    @property
    def predicted_bytes(self) -> int:
        """What the plan says, with the constants of now."""
        return self.setting.plan().held_bytes

    @property
    def error(self) -> float:
        """Of the prediction, as a share of what was held."""
        return self.predicted_bytes / self.measured.held_bytes - 1


def table(rows: Iterable[Row]) -> str:
    """Return a Markdown table."""
    return "\n".join([_COLUMNS, *map(_line, rows)]) + "\n"


def _line(row: Row) -> str:
    setting, found = row.setting, row.measured
    pool = "–" if setting.pool_bytes is None else f"{setting.pool_bytes // GIB} GiB"
    cells = (
        NAMES[setting.engine],
        f"{setting.context_tokens:,}",
        str(setting.sequences),
        pool,
        _mb(row.predicted_bytes),
        _mb(found.held_bytes),
        f"{row.error:+.1%}",
        _mb(found.ready_bytes),
        _mb(found.peak_bytes),
        f"{found.requests}, {found.tokens:,}",
    )
    return f"| {' | '.join(cells)} |"


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.0f}"


def document(rows: Iterable[Row]) -> str:
    """Return docs/memory.md."""
    listed = list(rows)
    parts = [_HEAD, _verdict(listed), _machine(), _constants()]
    calibration = [row for row in listed if row.setting.use == "calibration"]
    check = [row for row in listed if row.setting.use == "check"]
    parts += [
        "## Checks\n\nSettings that no constant was chosen by.\n\n" + table(check),
        "## Calibration\n\nThe constants were chosen by these, and committed before a check was run.\n\n"
        + table(calibration),
    ]
    return "\n".join(parts) + _LIMITS


def _verdict(rows: list[Row]) -> str:
    check = [row for row in rows if row.setting.use == "check"]
    within = [row for row in check if abs(row.error) <= WITHIN]
    worst = max(check, key=lambda row: abs(row.error), default=None)
    if worst is None:
        return "No setting has been checked.\n"
    return (
        f"**{len(within)} of {len(check)} checked settings are within {WITHIN:.0%}**; the largest error is "
        f"{worst.error:+.1%} ({NAMES[worst.setting.engine]}, {worst.setting.sequences} × "
        f"{worst.setting.context_tokens:,} tokens).\n"
    )


def _machine() -> str:
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    cores = len(os.sched_getaffinity(0))
    models = ", ".join(f"`{RECIPES[engine]}` on {name}" for engine, name in NAMES.items())
    return (
        f"Measured on Linux, {cores} cores, {memory_gib:.0f} GiB, no GPU, beside other work (which moves times, not "
        f"PSS):\n{models}.\n"
    )


def _constants() -> str:
    cache = overheads.LLAMACPP_PROMPT_CACHE / 1e6
    return (
        "## Constants\n\n"
        f"- llama.cpp: {overheads.LLAMACPP_CPU_BASE / 1e6:.0f} MB + {overheads.LLAMACPP_CPU_PER_WEIGHT_BYTE:.0%} of "
        f"the weights + {cache:.0f} MB. The last is the limit of its prompt cache: answered prompts are kept in memory "
        "until it is reached, and given up only for others. Before that traffic it holds so much less; a plan that "
        "left it out would be exceeded by an engine that is merely used.\n"
        f"- vLLM: {overheads.VLLM_CPU_BASE / 1e6:,.0f} MB + {overheads.VLLM_CPU_PER_BATCH_TOKEN / 1e3:.0f} kB a token "
        f"of a prefill batch, of which there are the context's, {overheads.VLLM_CPU_BATCH_TOKENS:,} at most. Its KV "
        "pool is taken whole at the start, so that contexts and sequences hardly matter.\n"
    )


_LIMITS = """
## What this does not show

One small model on each engine: the share of the weights in llama.cpp's overhead was not varied. What engines hold on a
GPU was not measured here; those constants are from publications (memory-plan.md names them). Each setting was
measured once.
"""


def save(rows: Iterable[Row], path: Path = RESULTS) -> None:
    """Write what was measured, beside what the file has of other settings."""
    known = {row.setting.key: row for row in load(path)} | {row.setting.key: row for row in rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({key: asdict(row.measured) for key, row in known.items()}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def load(path: Path = RESULTS) -> list[Row]:
    """Return what was measured so far, in the settings' order; settings that are no more are left out."""
    if not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    return [Row(setting, Measured(**found[setting.key])) for setting in SETTINGS if setting.key in found]


def chosen(engines: Iterable[str], use: Use | None) -> list[Setting]:
    """Return the settings of these engines, for one use or for both."""
    wanted = set(engines)
    return [each for each in SETTINGS if each.engine in wanted and use in (None, each.use)]
