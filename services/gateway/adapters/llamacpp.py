"""llama.cpp: its answers need no change. But where a model's template has no tools, it ignores them silently."""

from typing import Any

from services.gateway.adapters.forced_tools import forced_tools
from services.gateway.exchange import Exchange


def normalisers(exchange: Exchange) -> list[Any]:
    """Return what an exchange with llama.cpp needs."""
    return forced_tools(exchange)
