"""`sparkstack open-webui`: run Open WebUI in front of the stack, without a container."""

import os
from typing import Any

import click
import httpx

from services.kit.settings import SettingsError, describe_settings, load_settings
from services.ui.settings import CODE, OpenWebuiSettings

_ENVIRONMENT = CODE / ".venvs" / "open-webui"
_ANSWER_S = 10.0


class _SettingsCommand(click.Command):
    """Shows the variables and their defaults below the options."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the reference of the environment's variables."""
        rows = [
            (row.variable, f"{row.description} [{row.default}]" if row.default else row.description)
            for row in describe_settings(OpenWebuiSettings)
        ]
        with formatter.section("Environment (also read from .env; the environment wins)"):
            formatter.write_dl(rows)


@click.command("open-webui", cls=_SettingsCommand)
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on. [OPENWEBUI_PORT]")
@click.option("--host", help="Address to listen on. [OPENWEBUI_HOST]")
def open_webui(port: int | None, host: str | None) -> None:
    """Run Open WebUI in front of the gateway, until Ctrl-C.

    `make open-webui` installs it first. Accounts, chats and files are kept under the state folder; its settings are
    services/ui/openwebui.env. With containers, `PROFILES=ui make up` runs it instead.
    """
    given: dict[str, Any] = {"port": port, "host": host}
    program = _ENVIRONMENT / "bin" / "open-webui"
    if not program.is_file():
        raise click.ClickException(
            f"Open WebUI is not installed in {_ENVIRONMENT}: `make open-webui` does it, with Python 3.11 or 3.12 "
            "(PYTHON=python3.12 make open-webui)"
        )
    try:
        settings = load_settings(OpenWebuiSettings, **{name: value for name, value in given.items() if value})
    except SettingsError as error:
        raise click.ClickException(str(error)) from None
    check_gateway(settings)
    _make_folder(settings)
    from services.ui.openwebui import environment

    variables = environment(settings, os.environ)
    click.echo(f"Open WebUI: {settings.url or settings.origins[0]} in half a minute; Ctrl-C ends it")
    click.echo(f"in front of {settings.gateway}; the first who signs up is its administrator")
    if not settings.shared_secret:
        click.echo(
            "all of its users are one for the gateway: give both the same GATEWAY_OPENWEBUI_SECRET to tell them apart"
        )
    os.chdir(settings.folder)
    command = [str(program), "serve", "--host", settings.host, "--port", str(settings.port)]
    os.execve(program, command, variables)  # noqa: S606


def check_gateway(settings: OpenWebuiSettings) -> None:
    """Check that the gateway answers, and takes the key.

    Raises:
        click.ClickException: with what to do.
    """
    try:
        with httpx.Client(timeout=_ANSWER_S, trust_env=False) as client:
            headers = {"authorization": f"Bearer {settings.key}"} if settings.key else {}
            response = client.get(f"{settings.gateway}/v1/models", headers=headers)
    except httpx.TransportError:
        raise click.ClickException(
            f"nothing answers at {settings.gateway}; start the stack with `make up` (`sparkstack status` shows it), "
            "or name another gateway: OPENWEBUI_GATEWAY_URL"
        ) from None
    if response.status_code != 200:
        raise click.ClickException(
            f"{settings.gateway} refuses: {response.text[:300]}\nThe key is the first of SPARKSTACK_API_KEY in .env"
        )


def _make_folder(settings: OpenWebuiSettings) -> None:
    try:
        settings.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise click.ClickException(
            f"{settings.folder} can't be made: {error.strerror}; name another folder: SPARKSTACK_STATE=/path"
        ) from None
