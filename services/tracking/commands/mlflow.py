"""`sparkstack mlflow`: run the MLflow server alone."""

from typing import Any

import click

from services.kit.settings import SettingsError, describe_settings, load_settings
from services.tracking.mlflow_settings import MlflowSettings


class _SettingsCommand(click.Command):
    """Shows the variables and their defaults below the options."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the reference of the environment's variables."""
        rows = [
            (row.variable, f"{row.description} [{row.default}]" if row.default else row.description)
            for row in describe_settings(MlflowSettings)
        ]
        with formatter.section("Environment (also read from .env; the environment wins)"):
            formatter.write_dl(rows)


@click.command(cls=_SettingsCommand)
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
