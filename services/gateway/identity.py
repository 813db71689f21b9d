"""Who is calling: API keys, and clients of this machine without one where that is allowed."""

import hashlib
import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from services.gateway.users import HEADER as USER
from services.gateway.users import Users
from services.kit.asgi import Scope, header
from services.kit.errors import InvalidApiKey, PermissionDenied
from services.kit.on_behalf import HEADER as ON_BEHALF_OF
from services.kit.on_behalf import verify

LOOPBACK_CLIENT = "loopback"
INTERNAL_CLIENT = "internal"
"""One of the stack's own services that does not say whom it works for."""
INNER = "sparkstack.inner"
"""Scope key, set where one of the stack's own services calls: what it says of the call is true."""
_HOW = "send `Authorization: Bearer <key>`; `sparkstack key` prints it"


class Keys:
    """Known keys by digest: a look-up takes the same time whatever part of a wrong key is right.

    Args:
        keys: each `KEY`, or `NAME=KEY`; the name stands in logs and metrics, never the key.
        allow_loopback: let clients of this machine in without a key.
        origins: pages' origins that may call without a key in a browser on this machine.
        internal: key of the stack's own services; who has it may name the caller that it works for.
        users: reads the tokens of Open WebUI's users; None where no secret is shared with it.
    """

    def __init__(
        self,
        keys: Iterable[str],
        *,
        allow_loopback: bool,
        origins: Iterable[str] = (),
        internal: str = "",
        users: Users | None = None,
    ) -> None:
        self._names: dict[bytes, str] = {}
        for number, text in enumerate(keys):
            name, equals, key = text.partition("=")
            if not equals or not key:
                name, key = ("default" if number == 0 else f"key{number + 1}"), text
            self._names[_digest(key.encode())] = name
        self._internal = internal
        self._internal_digest = _digest(internal.encode()) if internal else None
        self._allow_loopback = allow_loopback
        self._origins = frozenset(origins)
        self._users = users

    def identify(self, scope: Scope) -> str:
        """Return the caller's name: of a call that one of the stack's services or Open WebUI makes, whom it is for.

        Raises:
            InvalidApiKey: no key, or a wrong one.
            InvalidUserToken: a good key, but not a good name of Open WebUI's user.
            PermissionDenied: a keyless call that may come from another machine or another site's page.
        """
        given = _presented(scope)
        if given is not None and (self._names or self._internal):
            digest = _digest(given)
            name = self._names.get(digest)
            if name is not None:
                return self._person(scope) or name
            if digest == self._internal_digest:
                scope[INNER] = True
                return self._behalf(scope)
            if self._names:
                raise InvalidApiKey(f"the key {_masked(given)} is not known here; {_HOW}")
        if not self._allow_loopback:
            raise InvalidApiKey(
                f"no API key; {_HOW}. GATEWAY_ALLOW_LOOPBACK_WITHOUT_KEY=1 lets clients of this machine in without"
            )
        self._require_local(scope)
        return self._person(scope) or LOOPBACK_CLIENT

    def _behalf(self, scope: Scope) -> str:
        text = header(scope, ON_BEHALF_OF.encode())
        caller = verify(text.decode("latin-1"), self._internal) if text is not None else None
        return caller or INTERNAL_CLIENT

    def _person(self, scope: Scope) -> str:
        """Return the user whom Open WebUI vouches for; empty where it names none."""
        token = header(scope, USER) if self._users is not None else None
        return self._users.read(token) if self._users is not None and token else ""

    def guard_metrics(self, scope: Scope) -> None:
        """Let this machine see the metrics without a key, and nobody else.

        Raises:
            InvalidApiKey, PermissionDenied: from elsewhere, also through a proxy on this machine, without a key.
        """
        if _presented(scope) is not None:
            self.identify(scope)
        else:
            self._require_local(scope)

    def _require_local(self, scope: Scope) -> None:
        client = scope.get("client")
        if client is None or not _is_loopback(client[0]):
            raise InvalidApiKey(f"calls without a key are for this machine alone; {_HOW}")
        if header(scope, b"x-forwarded-for") is not None or header(scope, b"forwarded") is not None:
            raise InvalidApiKey(f"calls through a proxy need a key; {_HOW}")
        # A page of another site must not reach the engines through its visitor's browser, neither directly
        # (Origin) nor by a name that it makes point at 127.0.0.1 (Host).
        host = _hostname(b"//" + (header(scope, b"host") or b""))
        if not _is_loopback(host):
            raise PermissionDenied(f"Host {host!r} is not this machine; call http://127.0.0.1, or use a key")
        origin = header(scope, b"origin")
        if origin is None or "*" in self._origins or origin.decode("latin-1") in self._origins:
            return
        if not _is_loopback(_hostname(origin)):
            raise PermissionDenied(f"pages of {origin.decode('latin-1')} need a key, or GATEWAY_CORS_ORIGINS")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _presented(scope: Scope) -> bytes | None:
    authorization = header(scope, b"authorization")
    if authorization is not None:
        kind, _, key = authorization.partition(b" ")
        if kind.lower() == b"bearer" and key.strip():
            return key.strip()
    return header(scope, b"x-api-key") or None


def _masked(key: bytes) -> str:
    text = key.decode("latin-1")
    return f"{text[:5]}…{text[-2:]}" if len(text) > 12 else "given"


def _hostname(address: bytes) -> str:
    try:
        return urlsplit(address.decode("latin-1")).hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
