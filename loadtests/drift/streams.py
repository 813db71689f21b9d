"""Streams of sampled requests, as the store gives them: drawn from pools of texts, with figures drawn beside them."""

from collections.abc import Callable, Mapping

import numpy as np

from loadtests.drift.corpus import Corpus, Exchange
from services.kit.records import RequestRecord
from services.tracking.drift.features import measure
from services.tracking.requests import SampledRequest


class Streams:
    """Draws requests.

    Args:
        vectors: of each text of the corpus, as the store keeps them.
    """

    def __init__(self, corpus: Corpus, vectors: Mapping[str, bytes]) -> None:
        self._pools = corpus.pools
        self._vectors = vectors

    def draw(
        self, count: int, dice: np.random.Generator, kind: str = "none", share: float = 1.0
    ) -> list[SampledRequest]:
        """Return requests of which a share is drawn from the pool of this kind."""
        return [self._one(seq, dice, kind if dice.random() < share else "none") for seq in range(1, count + 1)]

    def _one(self, seq: int, dice: np.random.Generator, kind: str) -> SampledRequest:
        pool = self._pools[kind]
        exchange = pool[int(dice.integers(len(pool)))]
        record = _record(exchange, seq, dice)
        prompt, answer = (self._vectors.get(text, b"") for text in (exchange.prompt, exchange.answer))
        return SampledRequest(seq, record, measure(record), prompt, answer)


def _record(exchange: Exchange, seq: int, dice: np.random.Generator) -> RequestRecord:
    """Return a record: seconds by the answer's length, some that want JSON or tools, a few that fail."""
    failed = dice.random() < 0.01
    wants_json, has_tools = dice.random() < 0.10, dice.random() < 0.15
    answer = exchange.answer
    if wants_json and dice.random() < 0.95:
        answer = '{"answer": "see the manual"}'
    calls = int(has_tools and dice.random() < 0.6)
    first_token_s = float(dice.lognormal(-1.5 + len(exchange.prompt) / 4000, 0.4))
    return RequestRecord(
        id=f"r{seq}",
        at=1_795_000_000.0 + seq,
        key="default",
        model="m",
        operation="chat",
        stream=True,
        status=502 if failed else 200,
        outcome="failed" if failed else "ok",
        seconds=first_token_s + len(answer) / 400 * float(dice.lognormal(0, 0.25)),
        first_token_s=None if failed else first_token_s,
        finish_reason="tool_calls" if calls else exchange.finish_reason if dice.random() < 0.97 else "length",
        tool_calls=calls,
        tools_offered=int(has_tools),
        format_asked=bool(wants_json),
        sampled=True,
        prompt=exchange.prompt,
        answer="" if calls else answer,
    )


def embedded(texts: list[str], embed: Callable[[list[str]], np.ndarray]) -> dict[str, bytes]:
    """Return the vectors of texts."""
    by_length = sorted(texts, key=len)
    found: dict[str, bytes] = {}
    for start in range(0, len(by_length), 64):
        part = by_length[start : start + 64]
        found |= {text: row.astype("<f4").tobytes() for text, row in zip(part, embed(part), strict=True)}
    return found
