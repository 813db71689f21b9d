"""Which person it is, where one key serves many: Open WebUI signs the name of the user that it works for.

It shares a secret with this gateway and sends `X-OpenWebUI-User-Jwt` with what a person has caused: a JSON Web Token of
the one form HS256, with its user's `sub` (an id), `email`, `name` and `role`, from `iss` "open-webui", good until `exp`
(five minutes). Without a secret it sends plain headers, which anybody can write: they are never believed.
Source: github.com/open-webui/open-webui, backend/open_webui/utils/headers.py; RFC 7515, RFC 7519
"""

import base64
import binascii
import hashlib
import hmac
import time
from typing import Literal

import msgspec
from msgspec import Struct

from services.gateway.errors import InvalidUserToken

HEADER = b"x-openwebui-user-jwt"
PREFIX = "open-webui/"
"""Begins the name of every caller that is known by such a token: none of them can be taken for a key's name."""
SECRET_CHARACTERS = 32
"""The fewest: an HS256 key has at least as many bits as its hash (RFC 7518, section 3.2)."""
_ISSUER = "open-webui"
_CLOCKS_APART_S = 60
_MAX_BYTES = 4096
_MAX_NAME = 256
_SHOULD_BE = "Open WebUI's FORWARD_USER_INFO_HEADER_JWT_SECRET and this gateway's GATEWAY_OPENWEBUI_SECRET"

UserName = Literal["id", "email"]


class _Head(Struct):
    alg: str


class _Claims(Struct):
    iss: str
    sub: str
    iat: float
    exp: float
    email: str = ""


_head = msgspec.json.Decoder(_Head)
_claims = msgspec.json.Decoder(_Claims)


class Users:
    """Reads the tokens of one Open WebUI.

    Args:
        secret: what it signs with.
        named_by: what callers are called by. An id says nothing to who reads a log, and stays when the address changes.
    """

    def __init__(self, secret: str, named_by: UserName = "id") -> None:
        self._secret = secret.encode()
        self._named_by = named_by

    def read(self, token: bytes, *, now_s: float | None = None) -> str:
        """Return the name of the caller that a token stands for: `open-webui/ID`.

        Args:
            now_s: Unix time, where it is not this moment.

        Raises:
            InvalidUserToken: it is not signed with the secret, not of this form, or has expired.
        """
        claims = self._verified(token)
        now = time.time() if now_s is None else now_s
        if claims.exp + _CLOCKS_APART_S < now:
            raise InvalidUserToken(
                f"X-OpenWebUI-User-Jwt expired {now - claims.exp:.0f} s ago; compare the clocks of Open WebUI's "
                "machine and this one"
            )
        if claims.iat - _CLOCKS_APART_S > now:
            raise InvalidUserToken(
                f"X-OpenWebUI-User-Jwt is {claims.iat - now:.0f} s ahead of this machine's clock; set the clocks right"
            )
        name = claims.sub if self._named_by == "id" else claims.email
        if not name or len(name) > _MAX_NAME or not name.isprintable():
            raise InvalidUserToken(f"X-OpenWebUI-User-Jwt names nobody: its {self._named_by} is empty or unreadable")
        return PREFIX + name

    def _verified(self, token: bytes) -> _Claims:
        signed, _, signature = token.rpartition(b".")
        head, _, claims = signed.partition(b".")
        try:
            # The form is what this gateway says it is, whatever the token says.
            if len(token) > _MAX_BYTES or _head.decode(_decoded(head)).alg != "HS256":
                raise InvalidUserToken("X-OpenWebUI-User-Jwt is no token of the form HS256, the only one taken here")
            expected = hmac.digest(self._secret, signed, hashlib.sha256)
            if not hmac.compare_digest(_decoded(signature), expected):
                raise InvalidUserToken(f"X-OpenWebUI-User-Jwt is signed with another secret: {_SHOULD_BE} must agree")
            found = _claims.decode(_decoded(claims))
        except (binascii.Error, ValueError, msgspec.MsgspecError, RecursionError):
            raise InvalidUserToken("X-OpenWebUI-User-Jwt is no token that Open WebUI makes: it can't be read") from None
        if found.iss != _ISSUER:
            raise InvalidUserToken(f"X-OpenWebUI-User-Jwt comes from {found.iss[:64]!r}, not from {_ISSUER!r}")
        return found


def _decoded(part: bytes) -> bytes:
    """Decode base64url without padding (RFC 7515, section 2); what is written otherwise is an error."""
    if b"=" in part:
        raise ValueError("padded")
    return base64.b64decode(part + b"=" * (-len(part) % 4), altchars=b"-_", validate=True)
