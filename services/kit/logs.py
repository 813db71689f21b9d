"""Structured logs: one JSON object a line on standard output, never a prompt and never a key."""

import logging
import sys

import msgspec
import structlog


def _encode(event: dict[str, object], **_: object) -> bytes:
    return msgspec.json.encode(event, enc_hook=str)


def _encode_str(event: dict[str, object], **_: object) -> str:
    return _encode(event).decode()


def configure_logs(service: str, level: str = "INFO", *, console: bool = False) -> None:
    """Send structlog and the standard library's logging to stdout as JSON lines.

    Args:
        service: written into every line.
        level: a name of the standard library's levels.
        console: coloured lines for a person instead of JSON.
    """
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    number = logging.getLevelNamesMapping()[level.upper()]
    renderer: list[structlog.types.Processor] = (
        [structlog.dev.ConsoleRenderer()] if console else [_adder(service), structlog.processors.JSONRenderer(_encode)]
    )
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory() if console else structlog.BytesLoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer(_encode_str),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.WARNING) if number > logging.DEBUG else number)


def _adder(service: str) -> structlog.types.Processor:
    def add(_logger: object, _method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        event["service"] = service
        return event

    return add
