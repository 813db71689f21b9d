"""The models that this machine can serve: their tokenizers, queues and threads; which are in memory."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from services.embeddings.backends import Backend, BackendError, EmbeddingBackend, RerankBackend, Tokeniser, Vectors
from services.embeddings.batching import Batch, Waiting
from services.embeddings.catalogue import Capability, Card, Files, NotHere, chosen, locate
from services.embeddings.loading import budget_tokens, open_backend, open_tokeniser
from services.embeddings.metrics import EmbeddingsMetrics
from services.embeddings.queue import BatchQueue, Capacity, Computed
from services.embeddings.settings import EmbeddingsSettings
from services.embeddings.worker import Worker
from services.kit.errors import ModelFailed, ModelNotFound, ModelNotPulled, UnsupportedParameter
from services.kit.settings import SettingsError

OpenBackend = Callable[[Card, Files, EmbeddingsSettings], Backend]

_AT_ONCE_CHARACTERS = 4096
"""Shorter texts are counted where they are: the way to another thread and back takes longer."""
_COUNTING_THREADS = 2
_FEWEST_TOKENS_PER_CHARACTER = 1 / 8


@dataclass(frozen=True, slots=True)
class Asked:
    """A rerank request's texts."""

    query: str
    documents: Sequence[str]


class Model:
    """One model: its tokenizer, its queue and its thread."""

    def __init__(
        self,
        card: Card,
        files: Files,
        settings: EmbeddingsSettings,
        metrics: EmbeddingsMetrics,
        counting: ThreadPoolExecutor,
        open_backend: OpenBackend,
        clock: Callable[[], float],
    ) -> None:
        self.card = card
        self.last_used = clock()
        self.worker = Worker(card.id, lambda: open_backend(card, files, settings), clock)
        self.capacity = Capacity(card.id, settings.queue_tokens, metrics)
        self.queue = BatchQueue(
            model=card.id,
            worker=self.worker,
            waiting=Waiting(budget_tokens(card, settings), settings.batch_texts),
            capacity=self.capacity,
            compute=_embed if card.capability == "embeddings" else _score,
            metrics=metrics,
        )
        self._files = files
        self._counting = counting
        self._clock = clock
        self._tokeniser: Tokeniser | None = None
        metrics.loaded.labels(card.id).set_function(lambda: float(self.worker.loaded))

    async def tokeniser(self) -> Tokeniser:
        """Return the model's tokenizer; it needs no loaded model.

        Raises:
            ModelFailed: its file is broken.
        """
        if self._tokeniser is None:
            try:
                found = await self.apart(lambda: open_tokeniser(self.card, self._files))
            except BackendError as error:
                raise ModelFailed(f"{self.card.id}: {error}") from None
            self._tokeniser = self._tokeniser or found  # another request may have been first
        return self._tokeniser

    async def count(self, texts: Sequence[str]) -> list[int]:
        """Return each text's tokens, special tokens included.

        Raises:
            RateLimited: the model has taken on all that it may.
        """
        tokeniser = await self.tokeniser()
        characters = sum(map(len, texts))
        if characters <= _AT_ONCE_CHARACTERS:
            return tokeniser.count(texts)
        # What is being counted waits too. Its tokens are not known yet: a low guess holds off a flood, and no single
        # request may be refused for it.
        guess = min(int(characters * _FEWEST_TOKENS_PER_CHARACTER), self.capacity.limit_tokens // 4)
        with self.capacity.held(guess):
            lengths: list[int] = await self.apart(lambda: tokeniser.count(texts))
        return lengths

    async def apart(self, work: Callable[[], Any]) -> Any:
        """Return what `work` returns, done in a thread beside the event loop and the models."""
        return await asyncio.get_running_loop().run_in_executor(self._counting, work)

    async def embed(self, texts: Sequence[str], lengths: list[int]) -> Computed:
        """Return `(n_texts, dimensions)` rows.

        Raises:
            RateLimited, InvalidRequest, ModelFailed: as `BatchQueue.run`.
        """
        return await self._run(lengths, texts)

    async def score(self, asked: Asked, lengths: list[int]) -> Computed:
        """Return `(n_documents,)` scores; `lengths` of what is computed for each document.

        Raises:
            RateLimited, InvalidRequest, ModelFailed: as `BatchQueue.run`.
        """
        return await self._run(lengths, asked)

    async def _run(self, lengths: list[int], work: Any) -> Computed:
        self.last_used = self._clock()
        try:
            return await self.queue.run(lengths, work)
        except BackendError as error:
            raise ModelFailed(f"{self.card.id} could not compute this: {error}") from None
        finally:
            self.last_used = self._clock()


def _embed(backend: Backend, batch: Batch) -> Vectors:
    texts = [job.work[index] for job, indexes in batch.parts for index in indexes]
    return cast("EmbeddingBackend", backend).embed(texts)


def _score(backend: Backend, batch: Batch) -> Vectors:
    reranker = cast("RerankBackend", backend)
    return np.concatenate(
        [
            reranker.score(job.work.query, [job.work.documents[index] for index in indexes])
            for job, indexes in batch.parts
        ]
    )


class Models:
    """All models by id and alias.

    Args:
        cards: that may be served.
        open_backend: loads one; tests hand in their own.
        clock: in seconds.

    Raises:
        SettingsError: a model is asked for that is not known or not here.
    """

    def __init__(
        self,
        cards: Sequence[Card],
        settings: EmbeddingsSettings,
        metrics: EmbeddingsMetrics,
        open_backend: OpenBackend = open_backend,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._counting = ThreadPoolExecutor(_COUNTING_THREADS, thread_name_prefix="counting")
        self._not_here: dict[str, str] = {}
        self._by_name: dict[str, Model] = {}
        self.all: list[Model] = []
        for card in chosen(cards, settings.models):
            names = {name.lower() for name in (card.id, *card.aliases)}
            try:
                files = locate(card, settings.state)
            except NotHere as missing:
                if settings.models:
                    raise SettingsError(f"EMBEDDINGS_MODELS: {missing}") from None
                self._not_here.update(dict.fromkeys(names, str(missing)))
                continue
            model = Model(card, files, settings, metrics, self._counting, open_backend, clock)
            self.all.append(model)
            self._by_name.update(dict.fromkeys(names, model))

    @property
    def defaults(self) -> dict[Capability, Model]:
        """The first model of each capability."""
        found: dict[Capability, Model] = {}
        for model in self.all:
            found.setdefault(model.card.capability, model)
        return found

    def get(self, name: str, capability: Capability | None) -> Model:
        """Return the model of a name; with a capability, one that has it.

        Raises:
            ModelNotPulled: its files are not on this machine; the message says how to get them.
            ModelNotFound: nobody knows it.
            UnsupportedParameter: it does something else.
        """
        key = name.lower()
        model = self._by_name.get(key)
        if model is None:
            if key in self._not_here:
                raise ModelNotPulled(self._not_here[key], param="model")
            known = ", ".join(each.card.id for each in self.all) or "none"
            raise ModelNotFound(f"there is no model {name!r} here; there are: {known}", param="model")
        if capability is not None and model.card.capability != capability:
            does = "reranks documents: POST /v1/rerank" if capability == "embeddings" else "embeds: POST /v1/embeddings"
            raise UnsupportedParameter(f"{model.card.id} {does}; or choose another model", param="model")
        return model

    def checks(self) -> Mapping[str, str]:
        """Return what is missing before the first request can be answered."""
        if not self.all:
            reasons = dict.fromkeys(self._not_here.values())
            return {"models": "none is here: " + "; ".join(reasons) if reasons else "none is known"}
        first = self.all[0]
        if not self._settings.preload or first.worker.loaded:
            return {"models": "ok"}
        return {"models": first.worker.failure or f"{first.card.id} is being loaded"}

    async def preload(self) -> None:
        """Load the default model, so that the first request finds it there; a failure shows in `checks`."""
        if self._settings.preload and self.all:
            first = self.all[0]
            try:
                await first.tokeniser()
                await first.worker.load()
            except ModelFailed:
                return

    async def unload_idle(self) -> None:
        """Unload the models that nobody has used for the time of the settings; never the default."""
        for model in self.all[1:]:
            unused_s = self._clock() - model.last_used
            if model.worker.loaded and model.queue.idle and unused_s > self._settings.idle_ttl_s:
                await model.worker.unload()

    async def watch_idle(self) -> None:
        """Look for unused models again and again, until cancelled."""
        if not self._settings.idle_ttl_s:
            return
        while True:
            await asyncio.sleep(min(10.0, self._settings.idle_ttl_s / 4))
            await self.unload_idle()

    async def close(self) -> None:
        """Unload all, and end the threads."""
        for model in self.all:
            await model.worker.close()
        self._counting.shutdown(wait=False)
