"""A run in MLflow, and in Weights & Biases."""

import json
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import services
from services.kit import mlflow
from services.tracking.evaluation.runs import Run

EXPERIMENT = "evaluation"
_ROOT = Path(services.__file__).resolve().parents[1]
_WANDB_S = 300.0
_OWN_FOLDERS = ("WANDB_ARTIFACT_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR")


class NotRecordedError(Exception):
    """The run could not be recorded there; it is whole where it is."""


def log_to_mlflow(run: Run, files: Sequence[Path], uri: str) -> str:
    """Log a run; return its address in MLflow.

    Raises:
        NotRecordedError
    """
    try:
        return mlflow.log_run(
            uri,
            EXPERIMENT,
            name=run.id,
            metrics=metrics_of(run),
            parameters=parameters_of(run),
            tags=tags_of(run),
            files=files,
        )
    except (mlflow.MlflowError, OSError) as error:
        raise NotRecordedError(str(error)) from None


def log_to_wandb(run: Run, folder: Path, state: Path) -> str:
    """Log a run by wandb's own library, in an environment of its own; return what it said of where.

    It writes to `state/wandb` and asks nobody (WANDB_MODE=offline), unless WANDB_MODE says otherwise.

    Raises:
        NotRecordedError
    """
    home = Path(os.environ.get("WANDB_ENVIRONMENT") or _ROOT / ".venvs" / "wandb")
    python = home / "bin" / "python"
    if not python.exists():
        raise NotRecordedError(
            "wandb has an environment of its own, which is not here yet: `python3 scripts/bootstrap.py wandb` makes it "
            "(or WANDB_ENVIRONMENT names one)"
        )
    place = state / "wandb"  # where the library puts its runs below WANDB_DIR
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    request = {
        "project": os.environ.get("WANDB_PROJECT") or "sparkstack-evaluation",
        "name": run.id,
        "config": parameters_of(run) | tags_of(run),
        "metrics": metrics_of(run),
        "items": str(folder / "items.jsonl"),
        "dir": str(state),
    }
    environment = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": str(state)}
    environment |= {name: str(place / ".own") for name in _OWN_FOLDERS}
    command = [str(python), "-P", "-m", "services.tracking.evaluation.wandb_child"]
    try:
        done = subprocess.run(  # noqa: S603 - our own Python and module
            command,
            input=json.dumps(request),
            env=environment | dict(os.environ) | {"PYTHONPATH": str(_ROOT)},
            capture_output=True,
            text=True,
            timeout=_WANDB_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NotRecordedError(f"wandb: {error}") from None
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise NotRecordedError(f"wandb ended with status {done.returncode}: {said[-1][:300]}")
    return done.stdout.strip()


def metrics_of(run: Run) -> dict[str, float]:
    """Return a run's figures, counts and times under names that MLflow takes."""
    found: dict[str, float] = {}
    for name, value in run.figures.items():
        key = _key(name)
        found |= {key: value.mean, f"{key}.low": value.low, f"{key}.high": value.high}
    found |= {f"count.{_key(name)}": float(value) for name, value in run.counts.items()}
    return found | {f"time.{_key(name)}": value for name, value in run.times.items()}


def parameters_of(run: Run) -> dict[str, str]:
    """Return how a run was made."""
    names = (
        "model", "served", "recipe", "revision", "engine", "kind", "set", "set_digest", "limit", "temperature", "seed",
        "max_tokens", "concurrency",
    )  # fmt: skip
    found = {name: getattr(run, name) for name in names}
    return {name: str(value) for name, value in found.items() if value not in ("", None)}


def tags_of(run: Run) -> dict[str, str]:
    """Return what a run is found by."""
    found = {
        "sparkstack.run": run.id,
        "sparkstack.model": run.model,
        "sparkstack.recipe": run.recipe,
        "sparkstack.set": run.set,
        "sparkstack.state": run.state,
        "sparkstack.commit": run.commit,
        "mlflow.source.name": "sparkstack eval run",
        "mlflow.source.git.commit": run.commit.partition("+")[0],
        **{f"version.{name}": version for name, version in run.versions.items()},
        **run.tags,
    }
    return {name: value for name, value in found.items() if value}


def _key(name: str) -> str:
    return re.sub(r"[^\w\-. /]", "_", name)
