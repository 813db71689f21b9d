"""The checks: functions of a subject, by name, in the order of the matrix."""

from tests.conformance.checks import answers, failures, registry, shapes, streams, tools
from tests.conformance.checks.registry import Check

__all__ = ["CHECKS", "Check"]

CHECKS: dict[str, Check] = {
    name: check
    for module in (answers, streams, shapes, tools, failures)
    for name, check in registry.CHECKS.items()
    if check.run.__module__ == module.__name__
}
