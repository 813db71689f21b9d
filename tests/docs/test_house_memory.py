"""docs/memory.md is of today's constants and recipes, and its errors are those of its own figures."""

import re

from loadtests.engine_memory.report import NAMES, TARGET, WITHIN
from loadtests.engine_memory.settings import GIB, SETTINGS, Setting
from services.engines.llamacpp import LlamaCppOptions, parameters
from services.engines.planning.overheads import LLAMACPP_PROMPT_CACHE
from services.engines.threads import Threads

_ROW = re.compile(r"^\| (llama\.cpp|vLLM) \| ([\d,]+) \| (\d+) \| (–|\d+ GiB) \| (.*) \|$", re.MULTILINE)


def rows() -> dict[str, list[str]]:
    """Return each row's cells from the prediction on, by its setting's key."""
    engines = {name: engine for engine, name in NAMES.items()}
    found: dict[str, list[str]] = {}
    for name, context, sequences, pool, rest in _ROW.findall(TARGET.read_text(encoding="utf-8")):
        size = None if pool == "–" else int(pool.split()[0]) * GIB
        key = Setting(engines[name], number(context), int(sequences), size).key
        assert key not in found, f"{key} stands there twice"
        found[key] = rest.split(" | ")
    return found


def number(text: str) -> int:
    return int(text.replace(",", ""))


def test_every_setting_was_measured_and_six_of_each_engine_check() -> None:
    assert set(rows()) == {setting.key for setting in SETTINGS}
    for engine in NAMES:
        assert sum(setting.engine == engine and setting.use == "check" for setting in SETTINGS) >= 6


def test_the_predictions_are_of_todays_constants_and_recipes() -> None:
    found = rows()
    for setting in SETTINGS:
        assert found[setting.key][0] == f"{setting.plan().held_bytes / 1e6:,.0f}", f"{setting.key}: make bench-memory"


def test_each_error_is_that_of_its_row() -> None:
    for key, (predicted, held, error, *_) in rows().items():
        assert abs(float(error.rstrip("%")) / 100 - (number(predicted) / number(held) - 1)) < 0.002, key


def test_the_verdict_counts_what_is_within() -> None:
    found, check = rows(), [setting.key for setting in SETTINGS if setting.use == "check"]
    within = [key for key in check if abs(float(found[key][2].rstrip("%"))) <= 100 * WITHIN]
    assert f"**{len(within)} of {len(check)} checked settings are within 15%**" in TARGET.read_text(encoding="utf-8")


class _Filled:
    """Takes whatever is set, as llama.cpp's parameters do."""

    def __getattr__(self, name: str) -> "_Filled":
        part = _Filled()
        object.__setattr__(self, name, part)
        return part


def test_the_prompt_cache_that_is_planned_is_the_one_that_the_engine_gets(tmp_path) -> None:
    options = LlamaCppOptions(tmp_path, "m", 1, slots=1, context_tokens=512, threads=Threads(1, 1))
    assert parameters(options, _Filled()).cache_ram_mib << 20 == LLAMACPP_PROMPT_CACHE
