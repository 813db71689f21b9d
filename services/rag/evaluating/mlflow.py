"""An evaluation as a run in MLflow."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from services.kit import mlflow

EXPERIMENT = "rag-evaluation"


def log_run(uri: str, summary: Mapping[str, Any], files: Sequence[Path]) -> str:
    """Write measures, parameters and files as one run; return its address.

    Raises:
        MlflowError
    """
    return mlflow.log_run(uri, EXPERIMENT, metrics=metrics_of(summary), parameters=_parameters(summary), files=files)


def metrics_of(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the measures of all presets; a name is `fast.ndcg_at_10`."""
    found: dict[str, float] = {}
    for name, preset in summary["presets"].items():
        for measure, value in preset["measures"].items():
            key = f"{name}.{measure}" if measure == "mrr" else f"{name}.{measure}_at_{summary['k']}"
            found |= {key: value["mean"], f"{key}.low": value["low"], f"{key}.high": value["high"]}
        found[f"{name}.ms_median"] = preset["ms"]["median"]
        for measure in ("faithfulness", "relevance"):
            if preset["answers"] and preset["answers"][measure]:
                found[f"{name}.{measure}"] = preset["answers"][measure]["mean"]
    return found


def _parameters(summary: Mapping[str, Any]) -> dict[str, str]:
    names = ("collection", "split", "k", "judge", "best")
    return {name: str(summary[name]) for name in names if summary[name] != ""}
