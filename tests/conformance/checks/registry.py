"""Where checks are written down."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.conformance.subject import Subject

Function = Callable[[Subject], Awaitable[None]]


@dataclass(frozen=True)
class Check:
    """One thing that every engine should do.

    Args:
        name: that a recipe's `lacks` names it by.
        promise: what a client can rely on where it works.
    """

    name: str
    promise: str
    run: Function


CHECKS: dict[str, Check] = {}


def check(function: Function) -> Function:
    """Register a check under its function's name; its docstring is the promise."""
    assert function.__name__ not in CHECKS
    assert function.__doc__
    CHECKS[function.__name__] = Check(function.__name__, function.__doc__.strip(), function)
    return function
