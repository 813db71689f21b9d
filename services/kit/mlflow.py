"""Runs, their files and figures in MLflow, by its REST API: no client library, and no harm where the server is away."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from services.kit.settings import LOOPBACK

API = "/api/2.0/mlflow"
_PROXIED = "mlflow-artifacts:/"
_TIMEOUT = httpx.Timeout(30.0, connect=3.0)
# MLflow's own bounds: of a batch, of a parameter's value, of a tag's.
_METRICS, _PARAMETERS, _TAGS = 1000, 100, 100
_PARAMETER_CHARACTERS, _TAG_CHARACTERS = 6000, 5000


class MlflowError(Exception):
    """The tracking server can't be reached or refuses; what was to be logged is not affected."""


def log_run(
    uri: str,
    experiment: str,
    *,
    metrics: Mapping[str, float],
    parameters: Mapping[str, str],
    tags: Mapping[str, str] | None = None,
    files: Sequence[Path] = (),
    name: str = "",
) -> str:
    """Write figures, parameters, tags and files as one finished run; return its address.

    Args:
        uri: of the tracking server, as MLFLOW_TRACKING_URI has it.
        experiment: made where there is none of this name.

    Raises:
        MlflowError
    """
    if not uri.startswith(("http://", "https://")):
        raise MlflowError(f"MLFLOW_TRACKING_URI={uri} is no address of a server (http://…)")
    try:
        with connect(uri) as client:
            experiment_id = _experiment(client, experiment)
            run_id = _log(client, experiment_id, name, metrics, parameters, tags or {}, files)
    except httpx.HTTPError as error:
        raise MlflowError(f"{uri} doesn't answer: {error or type(error).__name__}") from None
    return f"{uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"


def connect(uri: str) -> httpx.Client:
    """Return a client of the tracking server. No proxy of the environment stands before one on this machine."""
    elsewhere = httpx.URL(uri).host not in LOOPBACK
    return httpx.Client(base_url=uri.rstrip("/"), timeout=_TIMEOUT, trust_env=elsewhere)


def post(client: httpx.Client, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Call a method below `/api/2.0/mlflow`, such as `/registered-models/alias`.

    Raises:
        MlflowError: it is refused.
        httpx.HTTPError: nothing answers.
    """
    document: dict[str, Any] = _checked(client.post(f"{API}{path}", json=dict(body))).json()
    return document


def _log(
    client: httpx.Client,
    experiment_id: str,
    name: str,
    metrics: Mapping[str, float],
    parameters: Mapping[str, str],
    tags: Mapping[str, str],
    files: Sequence[Path],
) -> str:
    begin: dict[str, Any] = {"experiment_id": experiment_id, "start_time": _now()}
    run = post(client, "/runs/create", begin | ({"run_name": name} if name else {}))["run"]
    run_id = str(run["info"]["run_id"])
    status = "FAILED"
    try:
        for batch in _batches(metrics, parameters, tags):
            post(client, "/runs/log-batch", {"run_id": run_id, **batch})
        _upload(client, str(run["info"]["artifact_uri"]), files)
        status = "FINISHED"
    finally:
        post(client, "/runs/update", {"run_id": run_id, "status": status, "end_time": _now()})
    return run_id


def _batches(
    metrics: Mapping[str, float], parameters: Mapping[str, str], tags: Mapping[str, str]
) -> list[dict[str, list[dict[str, Any]]]]:
    """Return what is logged in as few calls as the server takes."""
    rows: dict[str, tuple[int, list[dict[str, Any]]]] = {
        "metrics": (
            _METRICS,
            [{"key": key, "value": value, "timestamp": _now(), "step": 0} for key, value in metrics.items()],
        ),
        "params": (
            _PARAMETERS,
            [{"key": key, "value": value[:_PARAMETER_CHARACTERS]} for key, value in parameters.items()],
        ),
        "tags": (_TAGS, [{"key": key, "value": value[:_TAG_CHARACTERS]} for key, value in tags.items()]),
    }
    found = []
    while any(left for _, left in rows.values()):
        found.append({kind: left[:most] for kind, (most, left) in rows.items() if left})
        rows = {kind: (most, left[most:]) for kind, (most, left) in rows.items()}
    return found


def _experiment(client: httpx.Client, name: str) -> str:
    found = client.get(f"{API}/experiments/get-by-name", params={"experiment_name": name})
    if found.status_code == 200:
        return str(found.json()["experiment"]["experiment_id"])
    return str(post(client, "/experiments/create", {"name": name})["experiment_id"])


def _upload(client: httpx.Client, where: str, files: Sequence[Path]) -> None:
    """Put files beside the run, where the server stores them for its clients; else they stay where they are."""
    if not where.startswith(_PROXIED):
        return
    folder = where.removeprefix(_PROXIED).lstrip("/")
    for path in files:
        answer = client.put(f"/api/2.0/mlflow-artifacts/artifacts/{folder}/{path.name}", content=path.read_bytes())
        _checked(answer)


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.status_code != 200:
        raise MlflowError(f"{answer.request.url.path} says {answer.status_code}: {answer.text[:200]}")
    return answer


def _now() -> int:
    return int(time.time() * 1000)
