"""A route as a raw ASGI callable: identify the caller, read the body, answer."""

from collections.abc import Iterable

from starlette.routing import Route

from services.gateway.door import Call, Door
from services.kit.asgi import Receive, Scope, Send, read_body
from services.kit.errors import AppError
from services.kit.middleware import ROUTE

BODY_LIMIT = "GATEWAY_MAX_BODY_MB"


class RawRoute:
    """Base of the routes that relay; they are called past FastAPI's middleware and router (`app.py`)."""

    path: str
    method = "POST"
    operation = ""
    """What models are asked for, of routes whose requests are told to the tracking service."""

    def __init__(self, door: Door) -> None:
        self.door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Errors are raised and become the envelope in `kit.middleware`."""
        scope[ROUTE] = self.path
        call = Call(scope, receive, send, self.door.keys.identify(scope))
        try:
            if self.method != "GET":
                call.body = await read_body(scope, receive, self.door.settings.max_body_bytes, BODY_LIMIT)
            await self.answer(call)
        except AppError as error:
            if self.operation:
                self.door.note_refusal(call, self.operation, error)
            raise

    async def answer(self, call: Call) -> None:
        """Answer an identified caller.

        Raises:
            AppError
        """
        raise NotImplementedError


def starlette_routes(door: Door, kinds: Iterable[type[RawRoute]]) -> list[Route]:
    """Return the routes for the router, in order."""
    return [Route(kind.path, kind(door), methods=[kind.method], include_in_schema=False) for kind in kinds]
