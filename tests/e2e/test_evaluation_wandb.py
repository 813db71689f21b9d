"""`sparkstack eval run --wandb`: by wandb's own library, offline, into the state folder."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from services.tracking.commands.evaluate import evaluate
from tests.testkit.server import fake_engine, in_thread

pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]
ENVIRONMENT = Path(os.environ.get("WANDB_ENVIRONMENT") or Path(__file__).parents[2] / ".venvs" / "wandb")


def test_a_run_is_written_for_wandb_without_the_network(tmp_path, monkeypatch):
    if not (ENVIRONMENT / "bin" / "python").exists():
        pytest.skip("optional: .venvs/wandb is not made; `make test-engines` makes it")
    monkeypatch.setenv("SPARKSTACK_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing answers there
    for name in ("WANDB_MODE", "WANDB_API_KEY", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    row = {"id": "q1", "prompt": "echo: Paris", "scorer": "exact", "reference": "Paris"}
    (tmp_path / "capitals.jsonl").write_text(json.dumps(row))
    with in_thread(fake_engine()) as engine:
        arguments = ["run", "fake-chat", "--set", str(tmp_path / "capitals.jsonl"), "--url", engine.url, "--wandb"]
        done = CliRunner().invoke(evaluate, arguments)
    assert done.exit_code == 0, done.output
    assert "wandb: " in done.stderr, done.stderr
    (run,) = (tmp_path / "state" / "wandb").glob("offline-run-*/run-*.wandb")
    written = run.read_bytes()
    assert b"score.low" in written
    assert b"capitals" in written
    (table,) = (tmp_path / "state" / "wandb").glob("offline-run-*/files/media/table/items_*.table.json")
    assert json.loads(table.read_text())["data"][0][:4] == ["q1", "", "echo: Paris", "Paris"]
    assert list((tmp_path / "home").glob("**/*wandb*")) == [], "nothing is left elsewhere"
