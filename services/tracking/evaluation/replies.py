"""JSON out of a model's reply."""

import json
import re
from typing import Any


def read_json(reply: str) -> dict[str, Any] | None:
    """Return the first JSON object in a reply, None where there is none: models fence it, or talk around it."""
    decoder = json.JSONDecoder()
    for place in (match.start() for match in re.finditer(r"\{", reply)):
        try:
            found, _ = decoder.raw_decode(reply, place)
        except (json.JSONDecodeError, RecursionError):
            continue
        if isinstance(found, dict):
            return found
    return None
