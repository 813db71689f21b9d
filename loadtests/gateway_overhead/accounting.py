"""What a gateway itself says it has counted: a cheap gateway that loses tokens is no bargain."""

import asyncio
import re
import urllib.request

from loadtests.gateway_overhead.loads import Door

_TIMEOUT_S = 5.0
_SAMPLE = re.compile(r'^gen_ai_client_token_usage_sum\{[^}]*gen_ai_token_type="output"[^}]*\} (\S+)$', re.MULTILINE)


async def counted_tokens(door: Door) -> int:
    """Return the completion tokens that a gateway of ours has counted since it started, from its `/metrics`."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{door.port}/metrics", headers={"Authorization": f"Bearer {door.key}"}
    )

    def read() -> str:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            text: str = answer.read().decode()
            return text

    return round(sum(float(value) for value in _SAMPLE.findall(await asyncio.to_thread(read))))
