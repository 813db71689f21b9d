"""The harness's models of an OpenAI-compatible server, which also note what comes back. Imported by harness_child.py.

The requests are the harness's own. What is added: a question that the server refuses for what it is (too long a prompt)
is noted and counts as empty, instead of ending the run; a server that is loading is waited for; one that is gone ends
the run at once.
"""

import asyncio
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import aiohttp
import requests
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

from services.tracking.evaluation.harness_notes import Notes, text_of
from services.tracking.evaluation.harness_stops import PATIENCE_S, dead, said_by, waits

_EMPTY: Mapping[str, Any] = {"choices": [{"index": 0, "text": "", "message": {"content": ""}}]}
_begun: ContextVar[float] = ContextVar("begun")
_prompt: ContextVar[str] = ContextVar("prompt", default="")


class Timed:
    """The harness's semaphore; a request's time begins when it has got through."""

    def __init__(self, semaphore: asyncio.Semaphore) -> None:
        self._semaphore = semaphore

    async def acquire(self) -> bool:
        """Wait for one's turn."""
        got = await self._semaphore.acquire()
        _begun.set(time.perf_counter())
        return got

    def release(self) -> None:
        """Let the next one through."""
        self._semaphore.release()


class Noting(LocalCompletionsAPI):  # type: ignore[misc]  # its type is not known here
    """What is added to the harness's models, before them in the order of methods."""

    request: Mapping[str, Any]
    notes: Notes

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Answer requests, and tell how many there are."""
        self.notes.tell("planned", items=self.notes.kept + len(requests), answered=self.notes.answered)
        found: list[str] = super().generate_until(requests, disable_tqdm)
        return found

    def model_call(self, messages: Any, **more: Any) -> Any:
        """Send one request."""
        give_up = time.monotonic() + PATIENCE_S
        while True:
            started = time.perf_counter()
            try:
                outputs = super().model_call(messages, **more)
            except requests.HTTPError as error:
                response: Any = error.response
                message = said_by(response.status_code, response.text)
                wait = waits(response.status_code, response.headers, message, give_up, self.notes)
                if wait is None:
                    self.notes.add(text_of(messages), {}, time.perf_counter() - started, message)
                    return dict(_EMPTY)
                time.sleep(wait)
            except requests.ConnectionError as error:
                raise dead(self.request["url"], self.notes, error) from None
            else:
                self.notes.add(text_of(messages), outputs or {}, time.perf_counter() - started)
                return outputs

    async def amodel_call(self, session: Any, sem: Any, messages: Any, **more: Any) -> Any:
        """Send one of several requests at a time."""
        _prompt.set(text_of(messages))
        give_up = time.monotonic() + PATIENCE_S
        while True:
            try:
                return await super().amodel_call(session, Timed(sem), messages, **more)
            except aiohttp.ClientResponseError as error:
                message = said_by(error.status, error.message)
                wait = waits(error.status, error.headers or {}, message, give_up, self.notes)
                if wait is None:
                    self.notes.add(text_of(messages), {}, time.perf_counter() - _begun.get(), message)
                    return [""]
                await asyncio.sleep(wait)
            except aiohttp.ClientConnectionError as error:
                raise dead(self.request["url"], self.notes, error) from None

    def parse_generations(self, outputs: Any, **more: Any) -> Any:
        """Read the answers; in a request that is one of several, this is where they can be seen."""
        if _prompt.get():
            document = outputs if isinstance(outputs, dict) else {}
            self.notes.add(_prompt.get(), document, time.perf_counter() - _begun.get())
        return super().parse_generations(outputs, **more)


class Chat(Noting, LocalChatCompletion):  # type: ignore[misc]
    """Chat completions."""


class Completions(Noting, LocalCompletionsAPI):  # type: ignore[misc]
    """Text completions."""


def watched(request: Mapping[str, Any], notes: Notes, chat: bool) -> Any:
    """Return the model that a request names."""
    tokenizer = {"tokenizer": request["tokenizer"], "tokenizer_backend": "huggingface"} if request["tokenizer"] else {}
    model = (Chat if chat else Completions)(
        model=request["model"],
        base_url=f"{request['url']}/v1/{'chat/completions' if chat else 'completions'}",
        num_concurrent=request["concurrency"],
        max_retries=3,
        timeout=600,
        seed=request["seed"],
        tokenized_requests=False,
        **({"tokenizer_backend": None} | tokenizer),
    )
    model.request, model.notes = request, notes
    return model
