"""Where spans are sent and how, by OpenTelemetry's standard variables; what is for traces alone wins over the rest.

Times are milliseconds, as the standard has them, also where its library for Python reads seconds.
Source: https://opentelemetry.io/docs/specs/otel/protocol/exporter/,
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/#batch-span-processor
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import structlog

from services.kit.settings import SettingsError

Variables = Mapping[str, str]

_log = structlog.get_logger("traces")
_EXPORTER, _TRACES = "OTEL_EXPORTER_OTLP_", "OTEL_EXPORTER_OTLP_TRACES_"
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")


@dataclass(frozen=True)
class Collector:
    """Who takes spans.

    Args:
        certificate: file of the authorities that its certificate is held against; empty for the system's.
        client_certificate, client_key: files of this service's own, where the collector asks for one.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = 10.0
    gzip: bool = False
    certificate: str = ""
    client_certificate: str = ""
    client_key: str = ""


@dataclass(frozen=True)
class Batching:
    """How spans are collected before they are sent."""

    delay_s: float = 5.0
    most_waiting: int = 2048
    most_together: int = 512


def collector_from(variables: Variables) -> Collector:
    """Return the collector that the variables name.

    Raises:
        SettingsError: an address, a number or a compression that is none.
    """
    compression = _of_exporter(variables, "COMPRESSION").lower() or "none"
    if compression not in ("none", "gzip"):
        raise SettingsError(f"{_EXPORTER}COMPRESSION={compression}: known are gzip, none")
    timeout_name = _TRACES if _given(variables, f"{_TRACES}TIMEOUT") else _EXPORTER
    timeout_ms = _number(variables, f"{timeout_name}TIMEOUT", 10_000, least=1)
    return Collector(
        url=_url(variables),
        headers=headers_from(_of_exporter(variables, "HEADERS")),
        timeout_s=timeout_ms / 1000,
        gzip=compression == "gzip",
        certificate=_of_exporter(variables, "CERTIFICATE"),
        client_certificate=_of_exporter(variables, "CLIENT_CERTIFICATE"),
        client_key=_of_exporter(variables, "CLIENT_KEY"),
    )


def batching_from(variables: Variables) -> Batching:
    """Return the batching that the variables name.

    Raises:
        SettingsError: a number that is none.
    """
    most_waiting = _number(variables, "OTEL_BSP_MAX_QUEUE_SIZE", 2048, least=1)
    most_together = _number(variables, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", min(512, most_waiting), least=1)
    delay_ms = _number(variables, "OTEL_BSP_SCHEDULE_DELAY", 5000, least=1)
    return Batching(delay_ms / 1000, most_waiting, min(most_together, most_waiting))


def resource_from(variables: Variables, own: Mapping[str, str]) -> dict[str, str]:
    """Return what is said of this process with every span: `own`, and over it what the variables say."""
    found = {**own, **dict(_pairs(variables, "OTEL_RESOURCE_ATTRIBUTES"))}
    if name := _given(variables, "OTEL_SERVICE_NAME"):
        found["service.name"] = name
    return found


def headers_from(text: str) -> dict[str, str]:
    """Return headers by lower-case name, from `NAME=VALUE` by comma, values percent-encoded where they must be."""
    return {
        name.lower(): value
        for name, value in _pairs({"HEADERS": text}, "HEADERS")
        if _TOKEN.match(name) and value.isprintable()
    }


def _url(variables: Variables) -> str:
    name = f"{_TRACES}ENDPOINT"
    url = whole = _given(variables, name)
    if not whole:
        name = f"{_EXPORTER}ENDPOINT"
        url = _given(variables, name).rstrip("/") + "/v1/traces"
    parts = urlsplit(url)
    try:
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is none
        known = None
    if not known:
        raise SettingsError(f"{name}={whole or _given(variables, name)}: an address like http://127.0.0.1:4318")
    return url


def _pairs(variables: Variables, name: str) -> list[tuple[str, str]]:
    found = []
    for number, item in enumerate(_given(variables, name).split(","), 1):
        key, equals, value = item.partition("=")
        if equals and key.strip():
            found.append((unquote(key.strip()), unquote(value.strip())))
        elif item.strip():  # not shown: it may be a part of a key
            _log.warning("traces.variable_ignored", variable=name, item=number, because="it is not NAME=VALUE")
    return found


def _number(variables: Variables, name: str, default: int, *, least: int) -> int:
    text = _given(variables, name)
    try:
        value = int(text or default)
    except ValueError:
        value = least - 1
    if value < least:
        raise SettingsError(f"{name}={text}: a whole number from {least}")
    return value


def _of_exporter(variables: Variables, name: str) -> str:
    return _given(variables, _TRACES + name) or _given(variables, _EXPORTER + name)


def _given(variables: Variables, name: str) -> str:
    return variables.get(name, "").strip()
