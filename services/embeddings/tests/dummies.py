"""Models of no weights for the tests of the queue and the API."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from services.embeddings.backends import Backend
from services.embeddings.backends.dummy import DummyBackend
from services.embeddings.catalogue import Card, Files
from services.embeddings.settings import EmbeddingsSettings


def card(id: str = "dummy", **given: Any) -> Card:  # noqa: A002
    """Return the card of a dummy model; of one that embeds, where nothing else is said."""
    fields: dict[str, Any] = {
        "capability": "embeddings",
        "backend": "dummy",
        "family": "dummy",
        "context_tokens": 64,
        "dimensions": 8,
        "shortest_dimensions": 2,
        "licence": "Apache-2.0",
        "origin": "made here",
        **given,
    }
    return Card(id=id, **fields)


RERANKER = card("ranker", capability="rerank", dimensions=0, shortest_dimensions=0)


def settings(tmp_path: Path, **given: Any) -> EmbeddingsSettings:
    """Return settings that the environment of the tests does not change."""
    return EmbeddingsSettings(**{"state": tmp_path, "api_key": "sk-embeddings-tests", **given})


class Gate:
    """Stops a model before each batch until it is opened, and writes down what comes."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.seen: list[list[str]] = []
        self._open = threading.Event()
        if is_open:
            self._open.set()

    @property
    def texts(self) -> list[str]:
        """All texts that the model has been given."""
        return [text for batch in self.seen for text in batch]

    def open(self) -> None:
        self._open.set()

    def __call__(self, texts: Sequence[str]) -> None:
        self.seen.append(list(texts))
        assert self._open.wait(10), "nobody opened the gate"


class Openings:
    """Opens dummy models, and counts how often; `before` is every model's."""

    def __init__(self, before: Callable[[Sequence[str]], None] = lambda _texts: None) -> None:
        self.backends: list[DummyBackend] = []
        self.before = before
        self.failure: Exception | None = None

    def __call__(self, card: Card, _files: Files, _settings: EmbeddingsSettings) -> Backend:
        if self.failure is not None:
            raise self.failure
        backend = DummyBackend(dimensions=card.dimensions, max_tokens=card.context_tokens, before=self.before)
        self.backends.append(backend)
        return backend
