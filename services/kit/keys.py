"""Keys that are made of other keys, and the one that a client shows of several."""

import hashlib
import hmac


def derive(key: str, purpose: str) -> str:
    """Return a key for one purpose, of 64 hexadecimal digits; who has it can't find the other one by it.

    Raises:
        ValueError: an empty key, which anybody could derive from.
    """
    if not key:
        raise ValueError("nothing can be derived from an empty key")
    return hmac.new(key.encode(), f"sparkstack:{purpose}".encode(), hashlib.sha256).hexdigest()


def first_key(keys: str) -> str:
    """Return the first of the keys in SPARKSTACK_API_KEY: `KEY` or `NAME=KEY`, by comma; empty for none."""
    first = next((part.strip() for part in keys.split(",") if part.strip()), "")
    name, equals, key = first.partition("=")
    return key if name and equals and key else first
