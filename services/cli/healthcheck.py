"""Ask the service of a container whether it can do its work: what the images' health checks run.

    python -m services.cli.healthcheck gateway
    python -m services.cli.healthcheck http://127.0.0.1:8080/health

A service is asked where its variables say that it listens. It is run every few seconds, so it imports next to nothing.
"""

import os
import socket
import sys
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from services.stack import find_service

_TIMEOUT_S = 4.0
_EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (what is listened on, and where to ask)
_ENOUGH_BYTES = 4096


class Page(NamedTuple):
    """What is asked for, and where."""

    host: str
    port: int
    path: str


def main() -> int:
    """Return 0 where the page answers with 200; else 1, having said what it answered."""
    page = page_of(sys.argv[1], os.environ)
    try:
        status, text = get(page)
    except OSError as error:
        print(f"{page.host}:{page.port}{page.path}: {error}")
        return 1
    print(f"{page.host}:{page.port}{page.path}: {status} {text}")
    return 0 if status == 200 else 1


def page_of(target: str, variables: Mapping[str, str]) -> Page:
    """Return the page of an address, or the health page of a service of the stack.

    Raises:
        ValueError: there is no such service.
    """
    if "://" in target:
        parts = urlsplit(target)
        return Page(parts.hostname or "127.0.0.1", parts.port or 80, parts.path or "/")
    service = find_service(target)
    if service is None:
        raise ValueError(f"there is no service {target!r} in the table of services")
    host = variables.get(service.port_variable.removesuffix("PORT") + "HOST", "")
    return Page(
        _EVERYWHERE.get(host, host), int(variables.get(service.port_variable) or service.port), service.health_path
    )


def get(page: Page) -> tuple[int, str]:
    """Return a page's status, and the beginning of its text.

    Raises:
        OSError: nothing answers there, or not in time, or not in HTTP.
    """
    host = f"[{page.host}]" if ":" in page.host else page.host
    request = f"GET {page.path} HTTP/1.1\r\nHost: {host}:{page.port}\r\nConnection: close\r\n\r\n"
    with socket.create_connection((page.host, page.port), timeout=_TIMEOUT_S) as connection:
        connection.sendall(request.encode("ascii"))
        answer = b""
        while len(answer) < _ENOUGH_BYTES and (chunk := connection.recv(_ENOUGH_BYTES)):
            answer += chunk
    head, _, text = answer.decode("utf-8", "replace").partition("\r\n\r\n")
    words = head.split(maxsplit=2)
    if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdigit():
        raise OSError(f"the answer is not HTTP: {head[:80]!r}")
    return int(words[1]), text.strip()[:500]


if __name__ == "__main__":
    sys.exit(main())
