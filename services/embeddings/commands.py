"""`sparkstack embeddings`: run the embeddings service alone."""

from typing import Any

import click

from services.embeddings.settings import EmbeddingsSettings
from services.kit.commands import settings_command
from services.kit.settings import SettingsError, load_settings


@click.command(cls=settings_command(EmbeddingsSettings))
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one. [EMBEDDINGS_PORT]")
@click.option("--host", help="Address to listen on. [EMBEDDINGS_HOST]")
@click.option(
    "--model", "models", multiple=True, metavar="ID", help="A model to serve; the first is the default. Repeatable."
)
def embeddings(port: int | None, host: str | None, models: tuple[str, ...]) -> None:
    """Embed and rerank texts: OpenAI's /v1/embeddings, Cohere's and Jina's /v1/rerank.

    \b
    Example: sparkstack embeddings --model all-minilm-l6-v2 --port 8011
    """
    given: dict[str, Any] = {"port": port, "host": host, "models": ",".join(models)}
    try:
        run(
            load_settings(
                EmbeddingsSettings, **{name: value for name, value in given.items() if value not in (None, "")}
            )
        )
    except SettingsError as error:
        raise click.ClickException(str(error)) from None


def run(settings: EmbeddingsSettings) -> None:
    """Bind, say where, and serve until told to stop.

    Raises:
        SettingsError: a variable is wrong, or the port is taken.
    """
    from services.embeddings.app import create_app
    from services.kit.logs import configure_logs
    from services.kit.server import AddressTaken, bind, serve

    configure_logs("embeddings", settings.log_level)
    app = create_app(settings)
    try:
        listener = bind(settings.host, settings.port)
    except AddressTaken as error:
        raise SettingsError(f"{error}. Pick another port: EMBEDDINGS_PORT={settings.port + 1}") from None
    host, port = listener.getsockname()[:2]
    click.echo(f"embeddings: http://{f'[{host}]' if ':' in host else host}:{port}", err=True)
    serve(app, [listener])
