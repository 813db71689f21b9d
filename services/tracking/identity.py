"""Who asks: one of the stack's services, or a caller that the gateway vouches for."""

import hmac
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from services.kit.errors import InvalidApiKey, PermissionDenied
from services.kit.on_behalf import HEADER, verify
from services.tracking.settings import TrackingSettings

_UNKNOWN = "unknown"


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Args:
        name: of the caller's key; `default` for one of this machine's own services.
        operator: sees and deletes everybody's records.
        direct: one of the stack's services asks for itself.
    """

    name: str
    operator: bool
    direct: bool

    @property
    def only_key(self) -> str | None:
        """The key whose records it may see; None: all."""
        return None if self.operator else self.name


async def caller_of(request: Request) -> Caller:
    """Return who asks.

    Raises:
        InvalidApiKey: no key was sent where one is wanted, or a wrong one.
    """
    settings: TrackingSettings = request.app.state.settings
    check_key(request, settings.api_key)
    signed = request.headers.get(HEADER)
    # Without a key nobody can have signed anything: whoever reaches the port is the one user of this machine.
    if signed is None or not settings.api_key:
        return Caller("default", operator=True, direct=signed is None)
    name = verify(signed, settings.api_key) or _UNKNOWN
    return Caller(name, operator=name in settings.operators, direct=False)


def check_key(request: Request, wanted: str) -> None:
    """Check the key of the stack's services.

    Raises:
        InvalidApiKey
    """
    if not wanted:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), wanted.encode()):
        raise InvalidApiKey(
            "the tracking service wants its key: send `Authorization: Bearer <TRACKING_API_KEY>`, or ask the gateway"
        )


def require_operator(caller: Caller, what: str) -> None:
    """Let operators through.

    Raises:
        PermissionDenied
    """
    if not caller.operator:
        raise PermissionDenied(f"{what} is for the keys that TRACKING_OPERATORS names; this is the key {caller.name!r}")


CallerOf = Annotated[Caller, Depends(caller_of)]
"""A route's parameter: who asks."""
