"""The bound: the service's own backend, loaded as the service loads it, and called without it. Run as a child.

Reads requests from standard input and answers on standard output, a line of JSON each.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loadtests.embeddings.subjects import card_of
from services.embeddings.backends.network import batches
from services.embeddings.catalogue import locate
from services.embeddings.loading import budget_tokens, open_backend, open_tokeniser
from services.embeddings.settings import EmbeddingsSettings


class Direct:
    """Calls a backend as well as can be: all texts at hand, in batches of similar length, of the queue's size."""

    def __init__(self, model: str, state: Path, catalogue: Path) -> None:
        settings = EmbeddingsSettings(state=state)
        card = card_of(model, catalogue)
        files = locate(card, state)
        self._tokeniser = open_tokeniser(card, files)
        self._backend: Any = open_backend(card, files, settings)
        self._budget = budget_tokens(card, settings)
        self._most_texts = settings.batch_texts

    def embed(self, texts: list[str]) -> float:
        """Return the seconds that all texts took; to put them in order beforehand is not counted."""
        grouped = [
            [texts[index] for index in chosen[start : start + self._most_texts]]
            for chosen in batches(self._tokeniser.count(texts), self._budget)
            for start in range(0, len(chosen), self._most_texts)
        ]
        return _seconds(lambda: [self._backend.embed(batch) for batch in grouped])

    def embed_each(self, texts: list[str]) -> list[float]:
        """Return the seconds of each text by itself."""
        return [_seconds(lambda text=text: self._backend.embed([text])) for text in texts]

    def rerank(self, query: str, documents: list[str]) -> float:
        """Return the seconds that all documents took."""
        return _seconds(lambda: self._backend.score(query, documents))


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Serve until standard input ends: `direct MODEL STATE CATALOGUE`."""
    direct = Direct(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    _answer("ready")
    for line in sys.stdin:
        asked = json.loads(line)
        _answer(getattr(direct, asked.pop("call"))(**asked))


def _answer(value: Any) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
