"""How long a model stays loaded after a request, as Ollama's clients write it."""

import re

from services.kit.errors import InvalidRequest

_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)\Z")


def read_keep_alive(value: float | str | None) -> float | None:
    """Return seconds: 0 for not at all, -1 for good; None where nothing is said.

    Raises:
        InvalidRequest: neither a number of seconds nor a duration such as 5m, 1h30m or -1s.
    """
    if value is None or value == "":
        return None
    seconds = _seconds(value) if isinstance(value, str) else float(value)
    if seconds is None:
        raise InvalidRequest(
            f"keep_alive: {value!r} is neither a number of seconds nor a duration such as 5m, 1h30m or -1",
            param="keep_alive",
        )
    return -1.0 if seconds < 0 else seconds


def _seconds(text: str) -> float | None:
    if _NUMBER.match(text):
        return float(text)
    sign = -1.0 if text.startswith("-") else 1.0
    rest = text[1:] if text[:1] in ("+", "-") else text
    parts = _PART.findall(rest)
    if not parts or "".join(number + unit for number, unit in parts) != rest:
        return None
    return sign * sum(float(number) * _UNITS_S[unit] for number, unit in parts)
