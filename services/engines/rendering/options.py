"""The options that an engine knows, from tables, and how they are written on a command line."""

import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from services.engines.rendering.order import Order, RenderError

_TABLES = Path(__file__).with_name("tables")

# Keys come to an engine by its environment or by a file: a process list shows a command line to everyone.
_SECRET = frozenset({"api-key", "admin-api-key", "hf-token", "ssl-keyfile-password"})

_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "switch": ("true or false", lambda value: isinstance(value, bool)),
    "whole": ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    "number": ("a number", lambda value: isinstance(value, int | float) and not isinstance(value, bool)),
    "text": ("text", lambda value: isinstance(value, str)),
    "words": (
        "text, or a list of texts",
        lambda value: isinstance(value, str) or (isinstance(value, list) and all(isinstance(i, str) for i in value)),
    ),
    "json": ("a map", lambda value: isinstance(value, dict)),
}


@cache
def table(engine: str) -> Mapping[str, str]:
    """Return the options that an engine knows: name without dashes → kind."""
    lines = (_TABLES / f"{engine}.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split() for line in lines if line and not line.startswith("#"))


def options(order: Order, fields: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options of an engine, checked: the recipe's fields, our defaults, the recipe's own `arguments`.

    Args:
        fields: options that fields of the recipe stand for; `arguments` must not name them again.
        defaults: options that `arguments` may overrule. None, among both: the option is left out.

    Raises:
        RenderError: an option that the engine doesn't know, or a value of another type than it takes.
    """
    own = order.arguments.arguments
    for name in own:
        if name in _SECRET:
            raise RenderError(f"{order.where}.arguments.{name}: a key has no place in a recipe, nor on a command line")
        if name in fields:
            raise RenderError(
                f"{order.where}.arguments.{name} is set by a field of the recipe or by the stack; leave it out there"
            )
    merged = {**fields, **defaults, **own}
    found = {name: value for name, value in merged.items() if value is not None}
    for name, value in found.items():
        _check(order, name, value)
    return found


def _check(order: Order, name: str, value: Any) -> None:
    known = table(order.engine)
    kind = known.get(name)
    if kind is None:
        raise RenderError(f"{order.where}.arguments.{name}: {order.engine} has no such option{_nearest(name, known)}")
    wanted, fits = _KINDS[kind]
    if not fits(value):
        raise RenderError(f"{order.where}.arguments.{name} is {value!r}; it must be {wanted}")


def _nearest(name: str, known: Iterable[str]) -> str:
    plain = name.lstrip("-").replace("_", "-").lower()
    by_plain = {option.replace("_", "-"): option for option in known}
    close = difflib.get_close_matches(plain, by_plain, n=1, cutoff=0.6)
    return f"; the nearest is {by_plain[close[0]]!r}" if close else ""


def words(order: Order, found: Mapping[str, Any]) -> tuple[str, ...]:
    """Return options as words of a command line.

    Raises:
        RenderError: an option is switched off that only can be left out.
    """
    line: list[str] = []
    for name, value in found.items():
        if value is False:
            line.append(_off(order, name))
        elif value is True:
            line.append(f"--{name}")
        elif isinstance(value, list):
            line += [f"--{name}", *map(text, value)]
        else:
            line += [f"--{name}", text(value)]
    return tuple(line)


def _off(order: Order, name: str) -> str:
    # vLLM's switches have a negative (argparse's BooleanOptionalAction), llama.cpp's where its table has one.
    if order.engine == "vllm" or f"no-{name}" in table(order.engine):
        return f"--no-{name}"
    raise RenderError(f"{order.where}.arguments.{name}: {order.engine} has no option that says no to it; leave it out")


def text(value: Any) -> str:
    """Return a value as one word."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) if isinstance(value, dict) else str(value)


def environment(order: Order, defaults: Mapping[str, str], fields: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment: our defaults, then the recipe's, then what fields of the recipe stand for.

    Raises:
        RenderError: the recipe sets a variable that a field stands for.
    """
    own = order.arguments.environment
    for name in own:
        if fields and name in fields:
            raise RenderError(f"{order.where}.environment.{name} is set by a field of the recipe; leave it out there")
    return {**defaults, **own, **(fields or {})}
