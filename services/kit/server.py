"""Run an app on one address or two with uvicorn, and end it well."""

import gc
import socket
from typing import Any

import uvicorn


class AddressTaken(Exception):
    """Something else listens on the address already."""

    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(f"{host}:{port} can't be bound: {reason}")
        self.host = host
        self.port = port


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        AddressTaken: when the address is in use or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio switches Nagle's algorithm off only where it is: without it, an answer
    # in two writes waits 40 ms for the client's delayed acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise AddressTaken(host, port, error.strerror or str(error)) from None
    listener.set_inheritable(True)
    return listener


def serve(app: Any, sockets: list[socket.socket], *, grace_s: int = 10) -> None:
    """Serve until SIGTERM or SIGINT; requests in flight get `grace_s` seconds to end."""
    config = uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        lifespan="on",
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=grace_s,
        timeout_keep_alive=75,
        h11_max_incomplete_event_size=64 * 1024,
    )
    _Server(config).run(sockets=sockets)


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then take all that was made until now out of the garbage collector's sight.

        Modules, types and the app live as long as the process, and a full collection would walk all of them while
        every stream waits. What a request leaves is freed by reference counts: the collector may come seldom.
        """
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 20, 50)
