"""The gateway as an evaluation sees it: what a model is there, and what it answers."""

import asyncio
import difflib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from services.tracking.evaluation.sets import Question

_ANSWER_S = 600.0
_CONNECT_S = 5.0
# A model that loads, a full queue, a limit of requests a minute: waited for, within bounds.
_PATIENCE_S = 900.0
_LONGEST_WAIT_S = 30.0
_FIRST_WAIT_S = 1.0
_TRIES = 3


class DoorError(Exception):
    """The gateway can't be asked at all: nothing answers, or it refuses every request. The run stops."""


class AnswerError(Exception):
    """This one question has no answer; the run goes on."""


@dataclass(frozen=True)
class Model:
    """What the gateway says of a model.

    Args:
        id: by which it is listed, whatever alias it was asked for by.
        revision: the digest of its files, where it is known.
    """

    id: str
    engine: str = ""
    revision: str = ""


@dataclass(frozen=True)
class Answer:
    """What came back.

    Args:
        served: the model's name in the answer.
        seconds: from the request sent to the answer read, without waits for a model that was loading.
    """

    text: str
    finish_reason: str
    served: str
    seconds: float
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Door:
    """The gateway's API.

    Args:
        client: with the gateway's address and a key.
        patience_s: how long a model is waited for that loads, or a queue that is full.
    """

    def __init__(self, client: httpx.AsyncClient, patience_s: float = _PATIENCE_S) -> None:
        self._client = client
        self._patience_s = patience_s
        self._answered = False

    async def model(self, name: str) -> Model:
        """Return what a name stands for.

        Raises:
            DoorError: nothing answers, the key is refused, or there is no such model.
        """
        try:
            response = await self._client.get("/v1/models")
        except httpx.TransportError as error:
            raise self._dead(error) from None
        self._refused(response)
        if response.status_code != 200:
            raise DoorError(f"{self._client.base_url} says {response.status_code}: {_message(response)}")
        try:
            listed = [each for each in response.json()["data"] if isinstance(each, dict)]
        except (ValueError, KeyError, TypeError):
            raise DoorError(f"what answers at {self._client.base_url} lists no models: is it a gateway?") from None
        names: dict[str, Mapping[str, Any]] = {}
        for each in listed:
            names[str(each.get("id"))] = each
            for alias in _own(each).get("aliases") or ():
                names.setdefault(str(alias), each)
        if name not in names:
            near = difflib.get_close_matches(name, names, 3, 0.4) or sorted(names)[:5]
            raise DoorError(f"there is no model {name}; there are {', '.join(near)} (`sparkstack models` lists all)")
        found = names[name]
        own = _own(found)
        # A name that was given by promotion is a line of its own: what it stands for is the model.
        model = str(own.get("stands_for") or found["id"])
        return Model(model, str(own.get("engine") or own.get("backend") or ""), str(own.get("digest") or ""))

    async def ask(self, model: str, question: Question, *, temperature: float, seed: int, max_tokens: int) -> Answer:
        """Return the answer to a question.

        Raises:
            DoorError: nothing answers, or the key or the model is refused.
            AnswerError
        """
        body: dict[str, Any] = {
            "model": model,
            "messages": [dict(message) for message in question.messages],
            "temperature": temperature,
            "seed": seed,
            "max_tokens": max_tokens,
        }
        if question.response_format:
            body["response_format"] = dict(question.response_format)
        response, seconds = await self._post(body)
        try:
            document = response.json()
            choice = document["choices"][0]
            usage = document.get("usage") or {}
            answer = Answer(
                text=str(choice["message"].get("content") or ""),
                finish_reason=str(choice.get("finish_reason") or ""),
                served=str(document.get("model") or ""),
                seconds=seconds,
                prompt_tokens=usage.get("prompt_tokens"),
                completion_tokens=usage.get("completion_tokens"),
            )
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise AnswerError(f"the answer is none of OpenAI's form: {response.text[:200]}") from None
        self._answered = True
        return answer

    async def _post(self, body: Mapping[str, Any]) -> tuple[httpx.Response, float]:
        give_up = time.monotonic() + self._patience_s
        failures = 0
        while True:
            started = time.perf_counter()
            try:
                response = await self._client.post("/v1/chat/completions", json=dict(body))
            except httpx.ReadTimeout:
                raise AnswerError(f"no answer within {_ANSWER_S:.0f} s") from None
            except httpx.TransportError as error:
                failures += 1
                if failures >= _TRIES:
                    raise self._dead(error) from None
                await asyncio.sleep(_FIRST_WAIT_S * failures)
                continue
            seconds = time.perf_counter() - started
            if response.status_code == 200:
                return response, seconds
            self._refused(response)
            wait = self._wait(response, failures, give_up)
            if wait is None:
                raise AnswerError(f"{response.status_code}: {_message(response)}")
            failures += response.status_code in (502, 504)
            await asyncio.sleep(wait)

    def _wait(self, response: httpx.Response, failures: int, give_up: float) -> float | None:
        """Return how long to wait before the next try; None where there should be none."""
        left = give_up - time.monotonic()
        if response.status_code in (429, 503):
            try:
                asked = float(response.headers.get("retry-after", _FIRST_WAIT_S))
            except ValueError:
                asked = _FIRST_WAIT_S
            wait = min(max(asked, 0.1), _LONGEST_WAIT_S)
            return wait if wait < left else None
        if response.status_code in (502, 504) and failures + 1 < _TRIES:
            return _FIRST_WAIT_S * (failures + 1)
        return None

    def _refused(self, response: httpx.Response) -> None:
        if response.status_code in (401, 403):
            raise DoorError(
                f"{self._client.base_url} refuses the key ({response.status_code}: {_message(response)}); "
                "name the right one by --key or SPARKSTACK_API_KEY"
            )
        if response.status_code == 404:
            raise DoorError(_message(response))

    def _dead(self, error: httpx.TransportError) -> DoorError:
        reason = str(error) or type(error).__name__
        if self._answered:
            return DoorError(f"{self._client.base_url} stopped answering ({reason}); see `sparkstack status`")
        return DoorError(
            f"nothing answers at {self._client.base_url} ({reason}); start the stack with `make up` "
            "(`sparkstack status` shows it), or name another gateway: --url URL"
        )


def client(url: str, key: str, at_once: int = 1) -> httpx.AsyncClient:
    """Return a client of the gateway. No proxy of the environment stands between this machine's processes."""
    return httpx.AsyncClient(
        base_url=url,
        headers={"authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(_ANSWER_S, connect=_CONNECT_S, pool=None),
        limits=httpx.Limits(max_connections=at_once + 1),
        trust_env=False,
        verify=url.startswith("https:"),  # certificates take long to load, and plain HTTP shows none
    )


def _own(listed: Mapping[str, Any]) -> Mapping[str, Any]:
    own = listed.get("sparkstack")
    return own if isinstance(own, dict) else {}


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]
