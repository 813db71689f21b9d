"""What is changed in an engine's requests and answers so that clients see one wire format, whatever the engine.

One exchange has at most one normaliser, made by its engine's module, and none where there is nothing to look for:
then not even a function is called for each event. Events that need no change go on byte for byte.

Reasoning has two spellings. What goes out always has `reasoning_content`, which most clients read (Open WebUI,
LiteLLM, DeepSeek's and LangChain's own DeepSeek client); an engine's `reasoning` stays beside it for those that read
that (OpenRouter's clients). openai's client takes both, LangChain's `ChatOpenAI` reads neither.
"""

from collections.abc import Callable
from typing import Any, Protocol

from services.gateway.adapters import llamacpp, sglang, vllm
from services.gateway.adapters.reasoning import ReasoningSpelling
from services.gateway.exchange import Exchange
from services.gateway.tool_index import ToolIndex
from services.kit.openai import Answer


class Normaliser(Protocol):
    """The changes in one exchange; used once."""

    def request(self, body: bytes) -> bytes:
        """Return the body that the engine gets.

        Raises:
            AppError: the engine can't do what is asked, and would not say so.
        """

    def event(self, event: bytes, answer: Answer) -> tuple[bytes, Answer | None]:
        """Return an event of a stream as the client gets it, and what it then says; often the same objects.

        Raises:
            AppError: the stream has failed.
        """

    def plain(self, body: bytes, answer: Answer) -> bytes:
        """Return a whole answer as the client gets it.

        Raises:
            AppError: it is no answer.
        """


class Several:
    """Normalisers one after another."""

    def __init__(self, *steps: Normaliser) -> None:
        self._steps = steps

    def request(self, body: bytes) -> bytes:
        for step in self._steps:
            body = step.request(body)
        return body

    def event(self, event: bytes, answer: Answer) -> tuple[bytes, Answer | None]:
        found: Answer | None = answer
        for step in self._steps:
            if found is None:
                break
            event, found = step.event(event, found)
        return event, found

    def plain(self, body: bytes, answer: Answer) -> bytes:
        for step in self._steps:
            body = step.plain(body, answer)
        return body


def _unknown(exchange: Exchange) -> list[Normaliser]:
    """An engine that nobody has named: what any of them is known to do."""
    return [ReasoningSpelling(), *([ToolIndex()] if "tools" in exchange.fields else [])]


_ENGINES: dict[str, Callable[[Exchange], list[Any]]] = {
    "llamacpp": llamacpp.normalisers,
    "vllm": vllm.normalisers,
    "sglang": sglang.normalisers,
    "sparkstack": lambda _exchange: [],  # its answers have been through this gateway already
}


def normaliser_for(engine: str, exchange: Exchange) -> Normaliser | None:
    """Return the normaliser of an exchange with an engine; None where every byte may pass."""
    if exchange.operation != "chat":
        return None
    steps = _ENGINES.get(engine, _unknown)(exchange)
    if len(steps) > 1:
        return Several(*steps)
    return steps[0] if steps else None
