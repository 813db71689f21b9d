"""A command's verbs, each imported when it is called: its help costs nothing of theirs."""

import importlib
from collections.abc import Mapping
from typing import Any

import click

Verbs = Mapping[str, tuple[str, str]]
"""Verb → where it is (`package.module:attribute`), and what the list of verbs says of it."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called.

    Args:
        verbs: in the order in which the help lists them.
    """

    def __init__(self, *args: Any, verbs: Verbs, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in their own order."""
        return list(self._verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a verb."""
        if cmd_name not in self._verbs:
            return None
        module, attribute = self._verbs[cmd_name][0].split(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of verbs without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, line) for verb, (_, line) in self._verbs.items()])
