"""What the gateway tells of each request: the wire format between it and whoever keeps accounts.

A record of every request carries numbers and names alone. That of a sampled one also carries the text, which is to
be masked, or only measured, before anything is stored.
"""

import msgspec


class RequestRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One request as it ended. Times are Unix seconds, durations seconds.

    Args:
        key: the name of the caller's key, never the key; `open-webui/ID` for a person whom Open WebUI has vouched for.
        user: whom the client named (`user`), as it came.
        billed: its tokens count here, not in a record of an inner request.
        first_token_s: from the request's head to the first content.
        tool_calls: how many the answer asks for.
        format_asked: the request wanted JSON (`response_format`, or a forced tool).
        prompt: the last user message of a sampled request.
        answer: its whole text; cut where it is very long.
    """

    id: str
    at: float
    key: str
    model: str
    operation: str
    stream: bool
    status: int
    seconds: float
    backend: str = ""
    engine: str = ""
    trace_id: str = ""
    user: str = ""
    outcome: str = "ok"
    error: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usage_source: str = "engine"
    billed: bool = True
    hops: int = 0
    first_token_s: float | None = None
    held_s: float = 0.0
    tool_calls: int = 0
    tools_offered: int = 0
    format_asked: bool = False
    sampled: bool = False
    prompt: str | None = None
    answer: str | None = None


class RecordBatch(msgspec.Struct, kw_only=True):
    """Some records, the oldest first, and how many were dropped before them since the last batch."""

    records: list[RequestRecord]
    dropped: int = 0
