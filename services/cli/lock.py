"""One `up`, `down` or `restart` at a time for each state folder."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

import click

from services.cli.home import Home


@contextmanager
def stack_lock(home: Home) -> Iterator[None]:
    """Hold the lock of the state folder; wait for whoever holds it."""
    with (home.state / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            click.echo("another `sparkstack` is starting or stopping this stack; waiting for it …")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
