"""`sparkstack gateway`: run the gateway alone, in front of any OpenAI-compatible server."""

import secrets
import socket
from typing import Any

import click

from services.gateway.settings import GatewaySettings
from services.kit.commands import settings_command
from services.kit.settings import SettingsError, load_settings


@click.command(cls=settings_command(GatewaySettings))
@click.option(
    "--backend",
    "backends",
    multiple=True,
    metavar="NAME=URL",
    help="An OpenAI-compatible server to stand in front of; its models are found by its /v1/models. Repeatable.",
)
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one. [GATEWAY_PORT]")
@click.option("--host", help="Address to listen on. [GATEWAY_HOST]")
def gateway(backends: tuple[str, ...], port: int | None, host: str | None) -> None:
    """Run the gateway: OpenAI's and Ollama's APIs in front of one server or many.

    \b
    Example: sparkstack gateway --backend mine=http://127.0.0.1:8080 --port 8000
    """
    overrides: dict[str, Any] = {"port": port, "host": host, "backends": ",".join(backends)}
    given = {name: value for name, value in overrides.items() if value not in (None, "")}
    try:
        settings = load_settings(GatewaySettings, **given)
        run(settings)
    except SettingsError as error:
        raise click.ClickException(str(error)) from None


def run(settings: GatewaySettings) -> None:
    """Bind, say where, and serve until told to stop."""
    from services.gateway.app import create_app
    from services.kit.logs import configure_logs
    from services.kit.server import AddressTaken, bind, serve

    configure_logs("gateway", settings.log_level)
    one_run_key = ""
    if not settings.api_keys and not settings.allow_loopback_without_key:
        one_run_key = f"sk-spark-{secrets.token_urlsafe(24)}"
        settings = settings.model_copy(update={"api_keys": (one_run_key,)})
    app = create_app(settings)
    try:
        sockets = [bind(settings.host, settings.port)]
    except AddressTaken as error:
        raise SettingsError(f"{error}. Pick another port: GATEWAY_PORT={settings.port + 1}") from None
    _say_where(settings, sockets[0], one_run_key)
    if settings.ollama_port:
        try:
            sockets.append(bind(settings.host, settings.ollama_port))
        except AddressTaken as error:
            click.echo(f"Ollama's port is not served: {error}; Ollama clients use port {settings.port}", err=True)
    serve(app, sockets)


def _say_where(settings: GatewaySettings, listener: socket.socket, one_run_key: str) -> None:
    host, port = listener.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    click.echo(f"gateway: {address} in front of {', '.join(settings.backends) or 'the catalogue'}", err=True)
    if one_run_key:
        click.echo(
            f"no SPARKSTACK_API_KEY is set; for this run the key is {one_run_key}\npage: {address}/#key={one_run_key}",
            err=True,
        )
