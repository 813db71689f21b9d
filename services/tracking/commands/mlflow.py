"""`sparkstack mlflow`: run the MLflow server alone."""

from typing import Any

import click

from services.kit.commands import settings_command
from services.kit.settings import SettingsError, load_settings
from services.tracking.mlflow_settings import MlflowSettings


@click.command(cls=settings_command(MlflowSettings))
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one. [MLFLOW_PORT]")
@click.option("--host", help="Address to listen on. [MLFLOW_HOST]")
def mlflow(port: int | None, host: str | None) -> None:
    """Run MLflow: experiments, models, prompts, and the traces that the services send.

    Its page is at the address that is printed. Everything is kept under the state folder.

    \b
    Example: sparkstack mlflow --port 5000
    """
    given: dict[str, Any] = {"port": port, "host": host}
    try:
        settings = load_settings(MlflowSettings, **{name: value for name, value in given.items() if value is not None})
        from services.tracking.mlflow_server import run

        run(settings)
    except SettingsError as error:
        raise click.ClickException(str(error)) from None
