"""SGLang: tool calls without an `index` in some of its parsers; templates without tools as with the others."""

from typing import Any

from services.gateway.adapters.forced_tools import forced_tools
from services.gateway.exchange import Exchange
from services.gateway.tool_index import ToolIndex


def normalisers(exchange: Exchange) -> list[Any]:
    """Return what an exchange with SGLang needs."""
    if "tools" not in exchange.fields:
        return []
    return forced_tools(exchange) or [ToolIndex()]
