"""What a look at the machine finds: a line each, with what to do where it isn't well."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One line: how it is, and what to do where it isn't well."""

    level: Literal["ok", "warn", "fail"]
    text: str


def ok(text: str) -> Finding:
    """Return a finding that all is well."""
    return Finding("ok", text)


def warn(text: str) -> Finding:
    """Return a finding that does not hinder a start."""
    return Finding("warn", text)


def fail(text: str) -> Finding:
    """Return a finding that has to be mended first."""
    return Finding("fail", text)
