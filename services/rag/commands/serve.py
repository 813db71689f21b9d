"""`sparkstack rag serve`: run the RAG service in the foreground."""

from typing import Any

import click

from services.kit.commands import settings_command
from services.kit.settings import SettingsError, load_settings
from services.rag.settings import RagSettings


@click.command(cls=settings_command(RagSettings), short_help="run the RAG service in the foreground (`up` does)")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one. [RAG_PORT]")
@click.option("--host", help="Address to listen on. [RAG_HOST]")
def serve(port: int | None, host: str | None) -> None:
    """Run the RAG service: collections, OpenAI's files and vector stores, and the models rag/NAME."""
    given: dict[str, Any] = {name: value for name, value in {"port": port, "host": host}.items() if value is not None}
    try:
        settings = load_settings(RagSettings, **given)
        run(settings)
    except SettingsError as error:
        raise click.ClickException(str(error)) from None


def run(settings: RagSettings) -> None:
    """Bind, say where, and serve until told to stop."""
    from services.kit.logs import configure_logs
    from services.kit.server import AddressTaken, bind
    from services.kit.server import serve as serve_app
    from services.rag.app import create_app

    configure_logs("rag", settings.log_level)
    app = create_app(settings)
    try:
        listener = bind(settings.host, settings.port)
    except AddressTaken as error:
        raise SettingsError(f"{error}. Pick another port: RAG_PORT={settings.port + 1}") from None
    host, port = listener.getsockname()[:2]
    click.echo(f"rag: http://{f'[{host}]' if ':' in host else host}:{port}, state in {settings.folder}", err=True)
    serve_app(app, [listener])
