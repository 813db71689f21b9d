"""vLLM: it says `reasoning`; and where a model's template has no tools, it ignores them unless a call is forced.

A forced call of its own need not follow the tool's schema (`"strict": false` is its default, too), so that a model
that was not trained for tools gets ours.
"""

from typing import Any

from services.gateway.adapters.forced_tools import forced_tools
from services.gateway.adapters.reasoning import ReasoningSpelling
from services.gateway.exchange import Exchange


def normalisers(exchange: Exchange) -> list[Any]:
    """Return what an exchange with vLLM needs."""
    return [*forced_tools(exchange), ReasoningSpelling()]
