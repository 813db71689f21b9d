"""The way from a verb to the stack: where its door is, with which key, and what is said when nothing answers."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import httpx

import services
from services.kit.files import read_json
from services.kit.keys import first_key

_ANSWER_S = 60.0
_CONNECT_S = 5.0


class Failed(click.ClickException):
    """The service refused; its own sentence says why."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Stack:
    """The stack's gateway, as one user calls it."""

    def __init__(self, client: httpx.Client, url: str) -> None:
        self.client = client
        self.url = url

    def ask(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        """Return what is answered.

        Raises:
            click.ClickException: nothing answers, or it is refused.
        """
        try:
            response = self.client.request(method, self.url + path, **request)
        except httpx.ConnectError:
            raise click.ClickException(
                f"nothing answers at {self.url}; start the stack with `make up` (`sparkstack status` shows it), "
                "or name another gateway: --url URL"
            ) from None
        except httpx.TransportError as error:
            raise click.ClickException(
                f"the stack at {self.url} stopped answering ({error or type(error).__name__}); see `sparkstack status`"
            ) from None
        if response.status_code >= 400:
            raise _failure(response)
        document: dict[str, Any] = response.json()
        return document


@contextmanager
def stack(url: str = "") -> Iterator[Stack]:
    """Open the way to the stack; `url` where it is not the one that `up` has started."""
    key = stack_key()
    headers = {"authorization": f"Bearer {key}"} if key else {}
    timeout = httpx.Timeout(_ANSWER_S, connect=_CONNECT_S)
    # No proxy of the environment stands between this machine's processes.
    with httpx.Client(headers=headers, timeout=timeout, trust_env=False) as client:
        yield Stack(client, url.rstrip("/") or stack_url("gateway"))


def stack_key() -> str:
    """Return the key that clients of the stack send; "" where it wants none."""
    return first_key(os.environ.get("SPARKSTACK_API_KEY", ""))


def stack_url(service: str) -> str:
    """Return where a service of the stack listens: the gateway by default at port 8000, any other only if it runs."""
    place = read_json(state_folder() / "stack.json").get("services", {}).get(service)
    if not isinstance(place, dict):
        return f"http://127.0.0.1:{os.environ.get('GATEWAY_PORT') or 8000}" if service == "gateway" else ""
    host = str(place.get("host") or "127.0.0.1")
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - what it listens on
    return f"http://{f'[{reachable}]' if ':' in reachable else reachable}:{place.get('port')}"


def state_folder() -> Path:
    """Return where the stack keeps its state."""
    root = Path(os.environ.get("SPARKSTACK_HOME") or Path(services.__file__).resolve().parents[1]).expanduser()
    return Path(os.environ.get("SPARKSTACK_STATE") or root / ".state").expanduser()


def show_table(rows: Sequence[Sequence[str]]) -> None:
    """Write rows in columns: the first to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())


def _failure(response: httpx.Response) -> Failed:
    if response.status_code == 404 and "tracking" not in response.text and "/openapi.json" in response.text:
        return Failed(
            "the stack runs without its tracking service: `python3 scripts/bootstrap.py tracking` and a restart add it",
            404,
        )
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"{response.request.url} answers {response.status_code}: {response.text[:200]}"
    return Failed(message, response.status_code)
