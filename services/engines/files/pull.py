"""Pulls and deletions for the service: one pull of a model at a time, watched by whoever asks.

A pull goes on while somebody watches it. When the last one has left, it stops; what has come is kept, and the next
pull goes on from there.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any

from services.engines.files.checksums import Interrupted
from services.engines.files.download_plan import Progress, PullOptions
from services.engines.files.getting import Getting
from services.engines.files.hub import PullError
from services.engines.files.removal import Remover
from services.engines.files.store import ModelStore
from services.engines.recipes import Recipe

Document = dict[str, Any]
_SUCCESS: Document = {"status": "success"}


class _Watcher:
    """One who watches a pull. What it has not read yet is kept as the last state of each file: never much."""

    def __init__(self) -> None:
        self._waiting: dict[str, Document] = {}
        self._grew = asyncio.Event()
        self._over = False

    def tell(self, document: Document) -> None:
        key = document.get("digest") or document.get("status", "error")
        self._waiting.pop(key, None)
        self._waiting[key] = document
        self._grew.set()

    def end(self) -> None:
        self._over = True
        self._grew.set()

    async def documents(self) -> AsyncGenerator[Document, None]:
        while True:
            while self._waiting:
                yield self._waiting.pop(next(iter(self._waiting)))
            if self._over:
                return
            self._grew.clear()
            await self._grew.wait()


class _Pull:
    """A pull in a thread of its own."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.over = asyncio.Event()
        self.watchers: set[_Watcher] = set()
        self._latest: dict[str, Document] = {}

    def join(self) -> _Watcher:
        watcher = _Watcher()
        for document in self._latest.values():
            watcher.tell(document)
        self.watchers.add(watcher)
        return watcher

    def leave(self, watcher: _Watcher) -> None:
        self.watchers.discard(watcher)
        if not self.watchers:
            self.stop.set()

    def tell(self, document: Document) -> None:
        self._latest[document.get("digest") or document.get("status", "error")] = document
        for watcher in self.watchers:
            watcher.tell(document)

    def end(self, document: Document) -> None:
        for watcher in self.watchers:
            watcher.tell(document)
            watcher.end()
        self.over.set()


class Pulls:
    """All pulls of one service.

    Args:
        recipes: all recipes; a converted model is made from another one's file.
        variables: HF_TOKEN, OFFLINE and the like.
    """

    def __init__(
        self,
        store: ModelStore,
        recipes: Iterable[Recipe],
        options: PullOptions | None = None,
        *,
        variables: Mapping[str, str] = os.environ,
    ) -> None:
        self._store = store
        self._recipes = list(recipes)
        self._options = options or PullOptions()
        self._variables = variables
        self._running: dict[str, _Pull] = {}

    def is_pulling(self, model_id: str) -> bool:
        """Say whether a pull of a model is under way."""
        return model_id in self._running

    async def pull(self, recipe: Recipe) -> AsyncGenerator[Document, None]:
        """Get a model, or watch how it is got; yields documents in the form of Ollama's `/api/pull`.

        The last is `{"status": "success"}` or `{"error": …}`. Close the generator to leave: a pull that nobody
        watches any more stops.
        """
        while (pull := self._running.get(recipe.id)) is not None and pull.stop.is_set():
            await pull.over.wait()  # one that is just being stopped
        if pull is None:
            pull = self._start(recipe)
        watcher = pull.join()
        documents = watcher.documents()
        try:
            async with contextlib.aclosing(documents):
                async for document in documents:
                    yield document
        finally:
            pull.leave(watcher)

    async def delete(self, recipe: Recipe) -> int:
        """Delete a model's files and return the bytes that this freed; the caller has seen that it is not loaded.

        Raises:
            PullError: they are not ours to delete, or it is being pulled.
        """
        if self.is_pulling(recipe.id):
            raise PullError(f"{recipe.id} is being pulled; stop that first", "refused")
        return await asyncio.to_thread(self._delete, recipe)

    async def close(self) -> None:
        """Stop all pulls; what has come is kept."""
        pulls = list(self._running.values())
        for pull in pulls:
            pull.stop.set()
        await asyncio.gather(*(pull.over.wait() for pull in pulls))

    def _start(self, recipe: Recipe) -> _Pull:
        pull = _Pull()
        self._running[recipe.id] = pull
        loop = asyncio.get_running_loop()

        def tell(progress: Progress) -> None:
            _call(loop, pull.tell, progress.document())

        def work() -> None:
            last = self._get(recipe, tell, pull.stop)
            _call(loop, self._end, recipe.id, pull, last)

        # A daemon: a service that ends does not wait for a silent hub. What is on disk is whole at any moment.
        threading.Thread(target=work, name=f"pull {recipe.id}", daemon=True).start()
        return pull

    def _end(self, model_id: str, pull: _Pull, last: Document) -> None:
        del self._running[model_id]
        pull.end(last)

    def _get(self, recipe: Recipe, tell: Any, stop: threading.Event) -> Document:
        try:
            tell(Progress("pulling manifest"))
            getting = Getting(
                self._store, self._recipes, self._options, on_progress=tell, stop=stop, variables=self._variables
            )
            getting.run(recipe)
        except Interrupted:
            return {"error": f"the pull of {recipe.id} was stopped; pull again: it goes on from there"}
        except PullError as error:
            return {"error": str(error)}
        except Exception as error:  # a thread has nobody above it who could tell
            return {"error": f"the pull of {recipe.id} failed: {type(error).__name__}: {error}"}
        return _SUCCESS

    def _delete(self, recipe: Recipe) -> int:
        remover = Remover(self._store, self._recipes)
        removal = remover.plan(recipe)
        remover.execute(recipe, removal)
        return removal.freed_bytes


def _call(loop: asyncio.AbstractEventLoop, function: Any, *arguments: Any) -> None:
    """Call a function in the loop; a loop that is closed has nobody left to tell."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *arguments)
