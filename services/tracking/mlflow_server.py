"""MLflow's server in this very process.

`mlflow server` would be two: one that waits, with all of MLflow in memory, and the server as its child, which outlives
it when it is killed. What that command prepares is done here: variables, tables, then the app under uvicorn.
Source: mlflow.cli.server and mlflow.server._run_server of MLflow 3.17
"""

import importlib.util
import os
from typing import Any

import click

from services.kit.asgi import Receive, Scope, Send, send_response
from services.kit.errors import NotFound
from services.kit.logs import configure_logs
from services.kit.server import AddressTaken, bind, serve
from services.kit.settings import SettingsError
from services.tracking.mlflow_settings import MlflowSettings

_ASSISTANT = "/mlflow/assistant"
# Before MLflow is imported: no report of use to anybody, no list of prices from the internet (each model's provider is
# asked for, and spans wait meanwhile), and no pool of processes for jobs that nobody here gives it, which would double
# its memory.
_ALWAYS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_MODEL_CATALOG_URI": "",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ENABLE_WORKSPACES": "false",
}


def run(settings: MlflowSettings) -> None:
    """Bind, say where, and serve until told to stop.

    Raises:
        SettingsError: MLflow is not installed here, the port is taken, or the database can't be used.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise SettingsError(
            "MLflow is not installed in this Python; it has an environment of its own: "
            "`python3 scripts/bootstrap.py tracking`, then `.venvs/tracking/bin/python -m services.cli.main mlflow`"
        )
    configure_logs("mlflow", settings.log_level)
    try:
        listener = bind(settings.host, settings.port)
    except AddressTaken as error:
        raise SettingsError(f"{error}. Pick another port: MLFLOW_PORT={settings.port + 1}") from None
    host, port = listener.getsockname()[:2]
    app = _prepare(settings)
    click.echo(f"mlflow: http://{f'[{host}]' if ':' in host else host}:{port}", err=True)
    serve(app, [listener])


class WithoutAssistant:
    """MLflow without its assistant, which runs commands on this machine at the word of a page.

    MLflow has no switch for it, and takes the word of every page of this machine, whatever the port.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 404 for the assistant's paths; hand on everything else."""
        if scope["type"] == "http" and _ASSISTANT in scope["path"].lower():
            error = NotFound("MLflow's assistant is left out here: it runs commands on this machine")
            await send_response(send, error.status, error.headers(), error.body())
        else:
            await self._app(scope, receive, send)


def _prepare(settings: MlflowSettings) -> WithoutAssistant:
    """Make the tables and return the app.

    Raises:
        SettingsError: the database can't be used.
    """
    settings.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ.update(_ALWAYS)
    os.environ["MLFLOW_SERVER_ALLOWED_HOSTS"] = settings.allowed_hosts
    from mlflow import server

    os.environ[server.BACKEND_STORE_URI_ENV_VAR] = settings.database
    os.environ[server.ARTIFACT_ROOT_ENV_VAR] = "mlflow-artifacts:/"
    os.environ[server.ARTIFACTS_DESTINATION_ENV_VAR] = settings.artifacts
    os.environ[server.SERVE_ARTIFACTS_ENV_VAR] = "true"
    from mlflow.server.handlers import initialize_backend_stores

    try:
        initialize_backend_stores(settings.database, settings.database, "mlflow-artifacts:/")
    except Exception as error:  # whatever SQLAlchemy, Alembic or a driver raises
        raise SettingsError(
            f"MLflow can't use its database ({type(error).__name__}: {error}); it is in {settings.folder}, unless "
            "MLFLOW_BACKEND_STORE_URI names another"
        ) from None
    from mlflow.server.fastapi_app import app

    return WithoutAssistant(app)
