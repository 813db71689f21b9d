"""`sparkstack tracking`: run the tracking service in the foreground."""

from typing import Any

import click

from services.kit.commands import settings_command
from services.kit.settings import SettingsError, load_settings
from services.tracking.settings import TrackingSettings


@click.command(cls=settings_command(TrackingSettings))
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one. [TRACKING_PORT]")
@click.option("--host", help="Address to listen on. [TRACKING_HOST]")
def tracking(port: int | None, host: str | None) -> None:
    """Run the tracking service: records of requests, drift, feedback, cost."""
    given: dict[str, Any] = {name: value for name, value in {"port": port, "host": host}.items() if value is not None}
    try:
        run(load_settings(TrackingSettings, **given))
    except SettingsError as error:
        raise click.ClickException(str(error)) from None


def run(settings: TrackingSettings) -> None:
    """Bind, say where, and serve until told to stop.

    Raises:
        SettingsError: a variable is wrong, or the port is taken.
    """
    from services.kit.logs import configure_logs
    from services.kit.server import AddressTaken, bind, serve
    from services.tracking.app import create_app

    configure_logs("tracking", settings.log_level)
    app = create_app(settings)
    try:
        listener = bind(settings.host, settings.port)
    except AddressTaken as error:
        raise SettingsError(f"{error}. Pick another port: TRACKING_PORT={settings.port + 1}") from None
    host, port = listener.getsockname()[:2]
    click.echo(f"tracking: http://{f'[{host}]' if ':' in host else host}:{port}", err=True)
    serve(app, [listener])
