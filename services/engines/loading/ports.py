"""Ports of engines: the first free one of each engine's range of ten."""

import os
import socket
from collections.abc import Mapping

from services.engines.recipes import EngineName
from services.engines.rendering import PORTS
from services.engines.runtimes import EngineStartError

_HOST = "127.0.0.1"
_RANGE = 10


def free_port(engine: EngineName, variables: Mapping[str, str] = os.environ) -> int:
    """Return a port that nothing listens on; `LLAMACPP_PORT`, `VLLM_PORT`, … move the range's beginning.

    Raises:
        EngineStartError: all of the range are taken, or the variable is no port.
    """
    variable = f"{engine.upper()}_PORT"
    text = variables.get(variable, "").strip()
    if text and not (text.isdecimal() and 0 < int(text) <= 65535):
        raise EngineStartError(f"{variable}={text}: it must be a port, 1 to 65535")
    first = int(text) if text else PORTS[engine]
    for port in range(first, min(first + _RANGE, 65536)):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_HOST, port))
            except OSError:
                continue
            return port
    raise EngineStartError(
        f"ports {first} to {first + _RANGE - 1} are all taken; set {variable} to the beginning of a free range"
    )
