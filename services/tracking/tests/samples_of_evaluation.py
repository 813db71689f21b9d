"""Runs, items and a scripted gateway for the tests of judging, comparing and promoting."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.tracking.evaluation.figures import summarised
from services.tracking.evaluation.runs import Item, Run, Runs, digest


def item(number: int, score: float = 1.0, answer: str = "", **fields: Any) -> Item:
    prompt = fields.pop("prompt", f"question {number}")
    defaults = {"seconds": 1.0, "completion_tokens": 10, "finish_reason": "stop"}
    return Item(
        id=f"q{number}",
        prompt=prompt,
        prompt_digest=digest(prompt),
        answer=answer or f"answer {number}",
        reference="reference",
        score=score,
        **{**defaults, **fields},
    )


def stored(runs: Runs, model: str, items: list[Item], set_name: str = "basics", **fields: Any) -> Run:
    """Write a finished run and return it."""
    run = runs.create(Run("", model, "set", set_name, "digest of the set", **{"recipe": model, **fields}))
    runs.append(run, items)
    ended = replace(summarised(run, items), state="finished")
    runs.save(ended)
    return ended


class Gateway:
    """A gateway with models that answer as `answer(model, body)` says: a text, a status, or a whole response."""

    def __init__(self, answer: Callable[[str, dict[str, Any]], str | int | Response], *models: str) -> None:
        self._answer = answer
        self.models = list(models)
        self.asked: list[dict[str, Any]] = []
        self.aliases: Callable[[], dict[str, str]] = dict
        self.drift: dict[str, Any] | None = None
        self.app = Starlette(
            routes=[
                Route("/v1/models", self._list),
                Route("/v1/models/{model:path}", self._one),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/tracking/drift", self._drift),
            ]
        )

    def prompts(self) -> list[str]:
        """What was asked, in order."""
        return [body["messages"][-1]["content"] for body in self.asked]

    async def _list(self, _request: Request) -> Response:
        lines = [self._line(model) for model in self.models]
        for name, model in (await asyncio.to_thread(self.aliases)).items():
            line = self._line(model)
            lines.append({**line, "id": name, "sparkstack": {**line["sparkstack"], "stands_for": model}})
        return JSONResponse({"object": "list", "data": lines})

    async def _one(self, request: Request) -> Response:
        name = request.path_params["model"]
        model = (await asyncio.to_thread(self.aliases)).get(name, name)
        if model not in self.models:
            return self._error(404, "model_not_found", f"there is no model {name!r}")
        return JSONResponse(self._line(model))

    async def _chat(self, request: Request) -> Response:
        body = json.loads(await request.body())
        self.asked.append(body)
        found = self._answer(body["model"], body)
        if isinstance(found, Response):
            return found
        if isinstance(found, int):
            return self._error(found, "invalid_request", "as the test wants it")
        usage = {"prompt_tokens": 7, "completion_tokens": len(found.split())}
        message = {"role": "assistant", "content": found}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return JSONResponse({"id": "c", "model": body["model"], "choices": choices, "usage": usage})

    async def _drift(self, _request: Request) -> Response:
        if self.drift is None:
            return self._error(
                404, "not_found", "there is no /v1/tracking/drift here; /openapi.json lists what there is"
            )
        return JSONResponse(self.drift)

    def _line(self, model: str) -> dict[str, Any]:
        own = {"aliases": [f"{model}-alias"], "engine": "llamacpp", "backend": "engines", "capabilities": ["chat"]}
        return {"id": model, "object": "model", "created": 0, "owned_by": "sparkstack", "sparkstack": own}

    def _error(self, status: int, code: str, message: str) -> Response:
        return JSONResponse({"error": {"message": message, "type": "t", "param": None, "code": code}}, status)


class Registry:
    """The part of MLflow's registry that is used, as MLflow 3.17 answers."""

    def __init__(self) -> None:
        api = "/api/2.0/mlflow"
        self.models: dict[str, dict[str, Any]] = {}
        self.refuse = False
        self.app = Starlette(
            routes=[
                Route(f"{api}/registered-models/get", self.get),
                Route(f"{api}/registered-models/create", self.create, methods=["POST"]),
                Route(f"{api}/model-versions/create", self.version, methods=["POST"]),
                Route(f"{api}/registered-models/alias", self.alias, methods=["POST"]),
            ]
        )

    async def get(self, request: Request) -> Response:
        name = request.query_params["name"]
        if name not in self.models:
            return JSONResponse({"error_code": "RESOURCE_DOES_NOT_EXIST"}, 404)
        return JSONResponse({"registered_model": {"name": name}})

    async def create(self, request: Request) -> Response:
        self.models[json.loads(await request.body())["name"]] = {"versions": [], "alias": None}
        return JSONResponse({"registered_model": {}})

    async def version(self, request: Request) -> Response:
        if self.refuse:
            return JSONResponse({"error_code": "INVALID_PARAMETER_VALUE", "message": "no"}, 400)
        body = json.loads(await request.body())
        versions = self.models[body["name"]]["versions"]
        versions.append(body)
        return JSONResponse({"model_version": {"version": str(len(versions))}})

    async def alias(self, request: Request) -> Response:
        body = json.loads(await request.body())
        assert body["alias"] == "current"
        self.models[body["name"]]["alias"] = body["version"]
        return JSONResponse({})
