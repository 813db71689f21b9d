"""One model's thread: it loads the model, computes batches one after the other, and gives its memory back."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog

from services.embeddings.backends import Backend, BackendError
from services.kit.errors import ModelFailed

_log = structlog.get_logger("embeddings")
_REMEMBER_FAILURE_S = 5.0

T = TypeVar("T")


class Worker:
    """Holds a backend; everything that the backend does happens in one thread of its own.

    Args:
        open_backend: loads the model; called in the thread.
    """

    def __init__(
        self, model: str, open_backend: Callable[[], Backend], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._model = model
        self._open = open_backend
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"model-{model}")
        self._backend: Backend | None = None
        self._loading: asyncio.Task[None] | None = None
        self._failure: tuple[float, ModelFailed] | None = None

    @property
    def loaded(self) -> bool:
        """The model is in memory."""
        return self._backend is not None

    @property
    def loading(self) -> bool:
        """The model is on its way into memory."""
        return self._loading is not None

    @property
    def failure(self) -> str:
        """Why the last load failed; empty where it did not."""
        return self._failure[1].message if self._failure else ""

    async def load(self) -> None:
        """Return when the model is in memory. However many ask, it is loaded once; it is loaded to the end.

        Raises:
            ModelFailed: it can't be; for a few seconds nobody tries again.
        """
        if self._backend is not None:
            return
        if self._failure and self._clock() - self._failure[0] < _REMEMBER_FAILURE_S:
            raise self._failure[1]
        if self._loading is None:
            self._loading = asyncio.create_task(self._load())
            self._loading.add_done_callback(_seen)
        await asyncio.shield(self._loading)

    async def _load(self) -> None:
        started = self._clock()
        try:
            self._backend = await asyncio.get_running_loop().run_in_executor(self._thread, self._open)
            self._failure = None
            _log.info("model.loaded", model=self._model, seconds=round(self._clock() - started, 3))
        except BackendError as error:
            failure = ModelFailed(f"{self._model} can't be loaded: {error}", retry_after_s=_REMEMBER_FAILURE_S)
            self._failure = (self._clock(), failure)
            _log.error("model.failed", model=self._model, reason=str(error))
            raise failure from None
        finally:
            self._loading = None

    async def call(self, work: Callable[[Backend], T]) -> T:
        """Return what `work` makes of the loaded backend, in the thread."""
        assert self._backend is not None
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, self._backend)

    async def unload(self) -> None:
        """Give the model's memory back; the next load waits for that."""
        backend, self._backend = self._backend, None
        if backend is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, backend.close)
            _log.info("model.unloaded", model=self._model)

    async def close(self) -> None:
        """End the thread after what it does now."""
        if self._loading is not None:
            await asyncio.wait([self._loading])
        await self.unload()
        self._thread.shutdown(wait=False)


def _seen(task: "asyncio.Task[None]") -> None:
    """Take note of a load's end when nobody waits for it any more."""
    if not task.cancelled():
        task.exception()
