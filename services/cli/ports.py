"""Choose the ports that services listen on, and say who holds one that is taken."""

import errno
import os
import socket
from collections.abc import Callable, Mapping

import click

from services.cli.home import Home
from services.cli.processes import Holder, holder_of
from services.stack import Service

OLLAMA_VARIABLE = "GATEWAY_OLLAMA_PORT"
OLLAMA_PORT = 11434


def choose_port(home: Home, service: Service, host: str, variables: Mapping[str, str]) -> int:
    """Return the port for a service.

    Raises:
        click.ClickException: with who holds the port, and which variable names another.
    """
    port = port_number(variables, service.port_variable, service.port)
    if not why_taken(host, port) or holds(home, service, port):
        return port
    raise click.ClickException(_taken(service, host, port))


def choose_ollama_port(host: str, variables: Mapping[str, str], is_ours: Callable[[int], bool]) -> tuple[int, str]:
    """Return the port for Ollama's clients, 0 for none, and a remark when it can't be had.

    Args:
        is_ours: whether this stack's gateway listens on a port already.

    Raises:
        click.ClickException: when the user has named one that is taken.
    """
    port = port_number(variables, OLLAMA_VARIABLE, OLLAMA_PORT, lowest=0)
    reason = why_taken(host, port) if port else ""
    if not reason or is_ours(port):
        return port, ""
    holder = holder_of(port) if reason == IN_USE else reason
    if variables.get(OLLAMA_VARIABLE, "").strip():
        raise click.ClickException(
            f"{OLLAMA_VARIABLE}={port} is taken by {holder}. Stop it, choose another port, or set 0 for none"
        )
    return 0, f"Ollama's port {port} is taken by {holder}; Ollama clients use the gateway's address instead"


def port_number(variables: Mapping[str, str], name: str, default: int, lowest: int = 1) -> int:
    """Return the port that a variable names.

    Raises:
        click.ClickException: when it names none.
    """
    text = variables.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal() or not lowest <= int(text) <= 65535:
        raise click.ClickException(f"{name}={text}: it must be a port, {lowest} to 65535")
    return int(text)


IN_USE = os.strerror(errno.EADDRINUSE)
"""What `why_taken` says where somebody listens already."""


def why_taken(host: str, port: int) -> str:
    """Return why nobody can listen here, in the system's words; empty when one can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As servers do: a port that is only waiting for old connections to end is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
    except OSError as error:  # an unknown name of a host too
        return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror or error)
    return ""


def holds(home: Home, service: Service, port: int) -> bool:
    """Say whether it is this stack's own service that listens on the port."""
    return holder_of(port).mark == home.mark(service.name)


def _taken(service: Service, host: str, port: int) -> str:
    reason = why_taken(host, port)
    if reason != IN_USE:
        return (
            f"{service.name} can't listen on {host}:{port}: {reason}. Choose another port "
            f"({service.port_variable}) or address"
        )
    holder = holder_of(port)
    other = next((free for free in range(port + 1, 65536) if not why_taken(host, free)), port + 1)
    return (
        f"port {port} is taken by {holder}.{_whose(holder)} Stop it, or choose another: "
        f"{service.port_variable}={other} make up"
    )


def _whose(holder: Holder) -> str:
    state, _, _ = holder.mark.rpartition(":")
    return f" It belongs to the stack in {state} (SPARKSTACK_STATE={state} sparkstack down)." if state else ""
