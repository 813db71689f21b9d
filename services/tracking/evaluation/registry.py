"""Promoted names in MLflow's model registry, by its REST API: a registered model a name, a version a promotion.

The alias `current` stands on the version that the name stands for now; a rollback puts it back on the one before.
"""

from collections.abc import Mapping

import httpx

from services.kit.mlflow import MlflowError, connect, post

CURRENT = "current"
# MLflow wants an address with an absolute path; there are no files to be had from it.
_SOURCE = "sparkstack:/models/"
_TAG_CHARACTERS = 5000


def register(uri: str, name: str, model: str, tags: Mapping[str, str], description: str = "") -> str:
    """Make a version of a name's registered model and put the alias on it; return the version.

    Raises:
        MlflowError: nothing answers, or it refuses; the promotion is not affected.
    """
    shown = [{"key": key, "value": value[:_TAG_CHARACTERS]} for key, value in tags.items() if value]
    try:
        with _client(uri) as client:
            registered = _registered(client, name)
            made = post(
                client,
                "/model-versions/create",
                {"name": registered, "source": f"{_SOURCE}{model}", "tags": shown, "description": description},
            )
            version = str(made["model_version"]["version"])
            _point(client, registered, version)
    except httpx.HTTPError as error:
        raise MlflowError(f"{uri} doesn't answer: {error or type(error).__name__}") from None
    return version


def point(uri: str, name: str, version: str) -> None:
    """Put the alias on an earlier version.

    Raises:
        MlflowError
    """
    try:
        with _client(uri) as client:
            _point(client, _name(name), version)
    except httpx.HTTPError as error:
        raise MlflowError(f"{uri} doesn't answer: {error or type(error).__name__}") from None


def _client(uri: str) -> httpx.Client:
    if not uri.startswith(("http://", "https://")):
        raise MlflowError(f"MLFLOW_TRACKING_URI={uri} is no address of a server (http://…)")
    return connect(uri)


def _registered(client: httpx.Client, name: str) -> str:
    registered = _name(name)
    found = client.get("/api/2.0/mlflow/registered-models/get", params={"name": registered})
    if found.status_code == 404:
        about = f"What the model name {name!r} stands for at the gateway; `sparkstack promote` changes it."
        post(client, "/registered-models/create", {"name": registered, "description": about})
    return registered


def _point(client: httpx.Client, registered: str, version: str) -> None:
    post(client, "/registered-models/alias", {"name": registered, "alias": CURRENT, "version": version})


def _name(name: str) -> str:
    """Return a name as the registry takes it: without slashes."""
    return name.replace("/", ".")
