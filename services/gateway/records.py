"""What is told of each request that has ended: a record, put into a bounded queue; sent later, by somebody else.

Putting one there never waits. Where the queue is full, because nobody takes records or takes them too slowly, the new
one is dropped, which costs less than keeping it, and counted; the next batch that is taken says how many were dropped.
Texts of sampled requests have a bound of their own: above it records go without.
"""

import time
import zlib
from collections import deque

from services.gateway import asked
from services.gateway.exchange import Exchange
from services.gateway.metrics import GatewayMetrics
from services.kit.records import RecordBatch, RequestRecord

BATCH_RECORDS = 500
_BATCH_TEXT = 1_000_000
"""Characters in one batch: writing it as JSON must not hold up the streams."""
_WAITING_TEXT = 16_000_000
"""Characters that may wait."""
_MOST_NAME = 256


class Records:
    """The records that wait to be sent, the oldest first.

    Args:
        sample: share of the requests whose text is told, 0 to 1.
        most: how many may wait.
    """

    def __init__(self, sample: float, most: int, metrics: GatewayMetrics) -> None:
        self._threshold = round(sample * 2**32)
        self._most = most
        self._metrics = metrics
        self._waiting: deque[RequestRecord] = deque()
        self._sending: list[RequestRecord] = []
        self._text = 0
        self._untold = 0
        self._being_told = 0
        metrics.records_waiting.set_function(self.__len__)

    def __len__(self) -> int:
        return len(self._waiting) + len(self._sending)

    # For requests

    def samples(self, trace_or_request_id: str) -> bool:
        """Return whether the text of a request is told: for the same id always the same."""
        return zlib.crc32(trace_or_request_id.encode()) < self._threshold

    def settled(self, exchange: Exchange) -> None:
        """Take note of an exchange that has ended."""
        if self._has_room():
            self._add(_record_of(exchange))

    def refused(
        self, *, request_id: str, key: str, model: str, operation: str, fields: asked.Fields, status: int, error: str
    ) -> None:
        """Take note of a request that was refused before anybody was asked; `model` is what its caller has typed."""
        if self._has_room():
            record = RequestRecord(
                id=request_id,
                at=time.time(),
                key=key,
                model=model[:_MOST_NAME],
                operation=operation,
                stream=bytes(fields.get("stream") or b"") == b"true",
                status=status,
                seconds=0.0,
                user=asked.user_of(fields),
                outcome="failed",
                error=error,
            )
            self._add(record)

    def _has_room(self) -> bool:
        if len(self) < self._most:
            return True
        self._drop(1)
        return False

    def _add(self, record: RequestRecord) -> None:
        size = _text_of(record)
        if size and self._text + size > _WAITING_TEXT:
            record.sampled, record.prompt, record.answer = False, None, None
            self._metrics.record_texts_dropped.inc()
            size = 0
        self._text += size
        self._waiting.append(record)

    def _drop(self, number: int) -> None:
        self._untold += number
        self._metrics.records_dropped.inc(number)

    # For whoever sends them

    def batch(self) -> RecordBatch | None:
        """Return the oldest records; the same ones again until it is said what has become of them."""
        size = sum(map(_text_of, self._sending))
        while self._waiting and len(self._sending) < BATCH_RECORDS and size < _BATCH_TEXT:
            record = self._waiting.popleft()
            self._sending.append(record)
            size += _text_of(record)
        if not self._sending:
            return None
        self._being_told = self._untold
        return RecordBatch(records=self._sending, dropped=self._being_told)

    def sent(self) -> None:
        """Note that the last batch was taken."""
        self._metrics.records_sent.inc(len(self._sending))
        self._untold -= self._being_told
        self._forget()

    def drop_batch(self) -> None:
        """Give the last batch up: it will never be taken."""
        self._drop(len(self._sending))
        self._forget()

    def drop_all(self) -> int:
        """Give up all that waits; return how many records that were."""
        number = len(self)
        self._drop(number)
        self._waiting.clear()
        self._sending = []
        self._text = 0
        return number

    def _forget(self) -> None:
        self._text -= sum(map(_text_of, self._sending))
        self._sending = []


def _text_of(record: RequestRecord) -> int:
    return len(record.prompt or "") + len(record.answer or "")


def _record_of(exchange: Exchange) -> RequestRecord:
    seconds = time.monotonic() - exchange.started
    fields, usage = exchange.fields, exchange.usage
    record = RequestRecord(
        id=exchange.request_id,
        at=time.time() - seconds,
        key=exchange.client,
        model=exchange.model,
        operation=exchange.operation,
        stream=exchange.stream,
        status=exchange.status,
        seconds=seconds,
        backend=exchange.target.backend,
        engine=exchange.engine,
        trace_id=exchange.trace_id,
        outcome=exchange.outcome,
        error=exchange.error_code or "",
        finish_reason=exchange.finish_reason or "",
        usage_source=exchange.usage_source,
        billed=exchange.billed,
        hops=exchange.hops,
        first_token_s=exchange.first_token_s,
        held_s=exchange.held_s,
        tool_calls=exchange.tool_calls,
    )
    if usage is not None:
        record.prompt_tokens, record.completion_tokens = usage.prompt_tokens, usage.completion_tokens
    if "user" in fields:
        record.user = asked.user_of(fields)
    if "tools" in fields:
        record.tools_offered = asked.tools_offered(fields)
    if "response_format" in fields or "tool_choice" in fields:
        record.format_asked = asked.format_asked(fields)
    if exchange.sampled:
        record.sampled = True
        record.prompt = asked.prompt_of(fields)
        record.answer = asked.cut(exchange.answer_text)
    return record
