"""Who an inner call is made for: a caller's name, signed, so that one of the stack's services can vouch for it.

A service that calls another one on the way to an answer sends its own key and, in `x-sparkstack-on-behalf-of`, the
name of the caller that it works for. The signature is made with the key that the services share, which callers never
see: they can't make up a name. It is good for an hour, the longest that a request may take; a name that was caught
in a log is worth nothing later.
"""

import base64
import binascii
import hashlib
import hmac
import time

HEADER = "x-sparkstack-on-behalf-of"
"""The header's name; ASGI has it as lower-case bytes (`HEADER.encode()`)."""

GOOD_FOR_S = 3600
_CLOCKS_APART_S = 60
"""How far the clock of another machine may be ahead of this one."""
_FORM = "1"
_MAX_CHARACTERS = 2048


def sign(caller: str, key: str, *, now_s: float | None = None) -> str:
    """Return the header's value: `form.seconds.caller.signature`, of URL-safe characters alone.

    Args:
        caller: any text.
        key: what the services share; not empty.
        now_s: Unix time, where it is not this moment.

    Raises:
        ValueError: an empty key, which anybody could sign with.
    """
    if not key:
        raise ValueError("a caller's name can't be signed without a key")
    seconds = int(time.time() if now_s is None else now_s)
    signed = f"{_FORM}.{seconds}.{_encoded(caller.encode())}"
    return f"{signed}.{_signature(signed, key)}"


def verify(text: str, key: str, *, now_s: float | None = None) -> str | None:
    """Return the caller's name; None for what is not signed with this key, is not of this form, or is too old."""
    if not key or len(text) > _MAX_CHARACTERS or not text.isascii():
        return None
    signed, _, signature = text.rpartition(".")
    if not hmac.compare_digest(signature, _signature(signed, key)):
        return None
    form, _, rest = signed.partition(".")
    seconds, _, caller = rest.partition(".")
    if form != _FORM or not seconds.isdecimal():
        return None
    age_s = (time.time() if now_s is None else now_s) - int(seconds)
    if not -_CLOCKS_APART_S <= age_s <= GOOD_FOR_S:
        return None
    return _decoded(caller)


def _signature(signed: str, key: str) -> str:
    return _encoded(hmac.digest(key.encode(), f"on-behalf-of:{signed}".encode(), hashlib.sha256))


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> str | None:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
