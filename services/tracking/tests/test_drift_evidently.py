"""A report made by Evidently itself, in the environment that has it."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from services.tracking.drift.signals import compare
from services.tracking.drift.tabulating import rows_of
from services.tracking.drift.windows import columns_of
from services.tracking.tests.samples_of_drift import sampled

ROOT = Path(__file__).resolve().parents[3]
PYTHON = Path(os.environ.get("TRACKING_PYTHON") or ROOT / ".venvs" / "tracking" / "bin" / "python")
OUTSIDE = ('src="http', "src='http", 'href="http', "@import url(http")


@pytest.mark.slow
def test_a_page_has_our_findings_and_evidentlys_and_loads_nothing_from_outside(tmp_path):
    if not PYTHON.is_file():
        pytest.skip(f"Evidently's environment is not here: {PYTHON}; `python3 scripts/bootstrap.py tracking` makes it")
    reference = sampled(np.random.default_rng(1), 120, finish_reason="stop")
    window = sampled(np.random.default_rng(2), 60, seconds=lambda dice: float(dice.lognormal(2, 0.3)))
    findings = [each.document() for each in compare(columns_of(reference), columns_of(window))]
    about = {"id": 3, "size": 60, "reference": "first", "alarm": True, "findings": findings}
    current, former = rows_of(window, reference)
    source, target = tmp_path / "in.json", tmp_path / "out.html"
    source.write_text(json.dumps({"window": about, "current": current, "reference": former}))

    done = subprocess.run(
        [PYTHON, "-m", "services.tracking.drift.child", source, target],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "DO_NOT_TRACK": "1", "HTTPS_PROXY": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-2000:]
    page = target.read_text("utf-8")
    assert "Window 3 against first: has changed" in page
    assert '<tr class="changed"><td>latency</td>' in page
    assert "Drift Share" in page or "drift" in page.lower()
    for column in ("prompt_usual", "prompt_language", "refusal"):
        assert column in page
    assert not [mark for mark in OUTSIDE if mark in page.replace('href="https://', "")]
    assert "database" not in page
