"""What the command lines of services share."""

import click

from services.kit.settings import ServiceSettings, describe_settings


def settings_command(cls: type[ServiceSettings]) -> type[click.Command]:
    """Return a kind of command whose help shows the variables of these settings, and their defaults."""

    class SettingsCommand(click.Command):
        def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
            rows = [
                (row.variable, f"{row.description} [{row.default}]" if row.default else row.description)
                for row in describe_settings(cls)
            ]
            with formatter.section("Environment (also read from .env; the environment wins)"):
                formatter.write_dl(rows)

    return SettingsCommand
