"""The way from a verb to the stack: where its door is, with which key, and what is said when nothing answers."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import httpx

import services
from services.kit.files import read_json
from services.kit.keys import first_key

_ANSWER_S = 300.0
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

    def get(self, path: str, **parameters: Any) -> dict[str, Any]:
        """Return a document."""
        return self._ask("GET", path, params=parameters)

    def post(self, path: str, body: Any = None, **parameters: Any) -> dict[str, Any]:
        """Send a body, return what comes of it."""
        return self._ask("POST", path, json=body, params=parameters)

    def patch(self, path: str, body: Any) -> dict[str, Any]:
        """Change something."""
        return self._ask("PATCH", path, json=body)

    def upload(self, path: str, files: list[Any], **parameters: Any) -> dict[str, Any]:
        """Send files, streamed from disk."""
        return self._ask("POST", path, files=files, params=parameters)

    def delete(self, path: str) -> dict[str, Any]:
        """Remove something."""
        return self._ask("DELETE", path)

    @contextmanager
    def events(self, method: str, path: str, body: Any = None) -> Iterator[Iterator[str]]:
        """Give the lines of a stream of events."""
        with self._explained(), self.client.stream(method, self.url + path, json=body) as response:
            if response.status_code >= 400:
                response.read()
                raise _failure(response)
            yield response.iter_lines()

    def _ask(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        with self._explained():
            response = self.client.request(method, self.url + path, **request)
        if response.status_code >= 400:
            raise _failure(response)
        document: dict[str, Any] = response.json()
        return document

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError:
            raise click.ClickException(
                f"nothing answers at {self.url}; start the stack with `make up` (`sparkstack status` shows it), "
                "or name another gateway: sparkstack rag --url URL …"
            ) from None
        except httpx.TransportError as error:
            raise click.ClickException(
                f"the stack at {self.url} stopped answering ({error or type(error).__name__}); see `sparkstack status`"
            ) from None


@contextmanager
def stack(url: str = "") -> Iterator[Stack]:
    """Open the way to the stack; `url` where it is not the one that `up` has started."""
    key = first_key(os.environ.get("SPARKSTACK_API_KEY", ""))
    headers = {"authorization": f"Bearer {key}"} if key else {}
    timeout = httpx.Timeout(_ANSWER_S, connect=_CONNECT_S)
    # No proxy of the environment stands between this machine's processes.
    with httpx.Client(headers=headers, timeout=timeout, trust_env=False) as client:
        yield Stack(client, (url or _gateway_url()).rstrip("/"))


def collection_path(name: str, rest: str = "") -> str:
    """Return the path of a collection; `rest` begins with a slash."""
    return f"/v1/collections/{quote(name, safe='')}{rest}"


def _gateway_url() -> str:
    root = Path(os.environ.get("SPARKSTACK_HOME") or Path(services.__file__).resolve().parents[1]).expanduser()
    state = Path(os.environ.get("SPARKSTACK_STATE") or root / ".state").expanduser()
    place = read_json(state / "stack.json").get("services", {}).get("gateway")
    if not isinstance(place, dict):
        return f"http://127.0.0.1:{os.environ.get('GATEWAY_PORT') or 8000}"
    host = str(place.get("host") or "127.0.0.1")
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - what it listens on
    return f"http://{f'[{reachable}]' if ':' in reachable else reachable}:{place.get('port')}"


def _failure(response: httpx.Response) -> Failed:
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"{response.request.url} answers {response.status_code}: {response.text[:200]}"
    return Failed(message, response.status_code)
