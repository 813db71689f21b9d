"""Free ports that stay free.

Ports are taken from below the range that the kernel gives to outgoing connections: else a connection of another
test could take a port between its choice and its use, and a client that calls a dead port of that range could
even connect to itself.
"""

import random
import socket

from services.kit.server import AddressTaken, bind

_RANGE = range(20_000, 30_000)
_TRIES = 200


def free_listener(host: str = "127.0.0.1") -> socket.socket:
    """Return a socket that listens on a free port."""
    dice = random.SystemRandom()
    for _ in range(_TRIES):
        try:
            return bind(host, dice.choice(_RANGE))
        except AddressTaken:
            continue
    raise AddressTaken(host, _RANGE.start, f"no free port in {_TRIES} tries from {_RANGE.start} to {_RANGE.stop}")


def free_port() -> int:
    """Return a port on which nothing listens, for a child process to take."""
    with free_listener() as listener:
        return int(listener.getsockname()[1])
