"""What callers say of their documents and stores, within OpenAI's bounds."""

from typing import Any

from services.kit.errors import InvalidRequest

_MOST = 16
_KEY_CHARACTERS = 64
_VALUE_CHARACTERS = 512


def check_attributes(given: Any, param: str) -> dict[str, str | float | bool]:
    """Return attributes: at most 16, of texts, numbers and booleans.

    Raises:
        InvalidRequest: naming what is wrong, and the bound.
    """
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise InvalidRequest(f"{param} must be an object of names and values, not {given!r}", param=param)
    if len(given) > _MOST:
        raise InvalidRequest(f"{param} has {len(given)} entries, the limit is {_MOST}; leave some out", param=param)
    for key, value in given.items():
        if not key or len(key) > _KEY_CHARACTERS:
            raise InvalidRequest(
                f"{param}: the name {key[:80]!r} must have 1 to {_KEY_CHARACTERS} characters", param=param
            )
        if not isinstance(value, str | int | float | bool):
            raise InvalidRequest(f"{param}.{key} must be a text, a number or a boolean, not {value!r}", param=param)
        if isinstance(value, str) and len(value) > _VALUE_CHARACTERS:
            raise InvalidRequest(
                f"{param}.{key} has {len(value):,} characters, the limit is {_VALUE_CHARACTERS}; shorten it",
                param=param,
            )
    return given
