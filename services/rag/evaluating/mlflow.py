"""An evaluation as a run in MLflow, by its REST API: no client library, and no harm where the server is away."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

EXPERIMENT = "rag-evaluation"
_API = "/api/2.0/mlflow"
_PROXIED = "mlflow-artifacts:/"
_TIMEOUT = httpx.Timeout(30.0, connect=3.0)


class MlflowError(Exception):
    """The tracking server can't be reached or refuses; the evaluation is not affected."""


def log_run(uri: str, summary: Mapping[str, Any], files: Sequence[Path]) -> str:
    """Write measures, parameters and files as one run; return its address.

    Args:
        uri: of the tracking server, as MLFLOW_TRACKING_URI has it.

    Raises:
        MlflowError
    """
    if not uri.startswith(("http://", "https://")):
        raise MlflowError(f"MLFLOW_TRACKING_URI={uri} is no address of a server (http://…)")
    try:
        with connect(uri) as client:
            experiment = _experiment(client)
            run = _call(client, "/runs/create", {"experiment_id": experiment, "start_time": _now()})["run"]
            run_id = run["info"]["run_id"]
            metrics, parameters = metrics_of(summary), _parameters(summary)
            _call(client, "/runs/log-batch", {"run_id": run_id, "metrics": metrics, "params": parameters})
            _upload(client, str(run["info"]["artifact_uri"]), files)
            _call(client, "/runs/update", {"run_id": run_id, "status": "FINISHED", "end_time": _now()})
    except httpx.HTTPError as error:
        raise MlflowError(f"{uri} doesn't answer: {error or type(error).__name__}") from None
    return f"{uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"


def connect(uri: str) -> httpx.Client:
    """Return a client of the tracking server."""
    return httpx.Client(base_url=uri.rstrip("/"), timeout=_TIMEOUT)


def metrics_of(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the measures of all presets in MLflow's form; a name is `fast.ndcg_at_10`."""
    found: dict[str, float] = {}
    for name, preset in summary["presets"].items():
        for measure, value in preset["measures"].items():
            key = f"{name}.{measure}" if measure == "mrr" else f"{name}.{measure}_at_{summary['k']}"
            found |= {key: value["mean"], f"{key}.low": value["low"], f"{key}.high": value["high"]}
        found[f"{name}.ms_median"] = preset["ms"]["median"]
        for measure in ("faithfulness", "relevance"):
            if preset["answers"] and preset["answers"][measure]:
                found[f"{name}.{measure}"] = preset["answers"][measure]["mean"]
    return [{"key": key, "value": value, "timestamp": _now(), "step": 0} for key, value in found.items()]


def _parameters(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    names = ("collection", "split", "k", "judge", "best")
    return [{"key": name, "value": str(summary[name])} for name in names if summary[name] != ""]


def _experiment(client: httpx.Client) -> str:
    found = client.get(f"{_API}/experiments/get-by-name", params={"experiment_name": EXPERIMENT})
    if found.status_code == 200:
        return str(found.json()["experiment"]["experiment_id"])
    return str(_call(client, "/experiments/create", {"name": EXPERIMENT})["experiment_id"])


def _upload(client: httpx.Client, where: str, files: Sequence[Path]) -> None:
    """Put files beside the run, where the server stores them for its clients; else they stay where they are."""
    if not where.startswith(_PROXIED):
        return
    folder = where.removeprefix(_PROXIED).lstrip("/")
    for path in files:
        answer = client.put(f"/api/2.0/mlflow-artifacts/artifacts/{folder}/{path.name}", content=path.read_bytes())
        _checked(answer)


def _call(client: httpx.Client, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = _checked(client.post(f"{_API}{path}", json=dict(body))).json()
    return document


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.status_code != 200:
        raise MlflowError(f"{answer.request.url.path} says {answer.status_code}: {answer.text[:200]}")
    return answer


def _now() -> int:
    return int(time.time() * 1000)
