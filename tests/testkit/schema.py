"""Make a minimal valid instance of a JSON schema, with values taken from the prompt where it offers them."""

import json
import random
import re
from typing import Any

from tests.testkit.words import WORDS

_FORMATS = {
    "date": "2026-01-31",
    "time": "12:00:00Z",
    "date-time": "2026-01-31T12:00:00Z",
    "email": "ada@example.org",
    "hostname": "example.org",
    "ipv4": "127.0.0.1",
    "uri": "https://example.org/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_MAX_DEPTH = 40
_MAX_TRIES = 100
_NUMBER = r"(?<![\w.])-?(?:0|[1-9]\d*)(?:\.\d+)?(?![\w])"
_QUOTED = r"(?<!\w)'([^']+)'(?!\w)|\"([^\"]+)\""


class UnsupportedSchema(ValueError):
    """The schema asks for something that this small maker of instances cannot do."""


class InstanceMaker:
    """Fill schemas: integers and numbers take the numbers of the prompt in their order, strings its quoted texts.

    `What is magic(3, 'a cat')?` gives 3 and "a cat"; when they are used up: the bounds' own values and words.
    Objects get their required properties, or all of them where none is required.
    """

    def __init__(self, prompt: str, dice: random.Random) -> None:
        quoted = re.findall(_QUOTED, prompt)
        self._texts = [single or double for single, double in quoted]
        self._numbers = [json.loads(number) for number in re.findall(_NUMBER, prompt)]
        self._dice = dice

    @property
    def quoted_texts(self) -> list[str]:
        """What stands in quotes in the prompt and has not been used."""
        return self._texts

    def make(self, schema: Any) -> Any:
        """Return an instance.

        Raises:
            UnsupportedSchema: for patterns, endless recursion and references out of the document.
        """
        return self._make(schema, schema, 0)

    def _make(self, schema: Any, root: Any, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise UnsupportedSchema(f"the schema requires more than {_MAX_DEPTH} levels; is it recursive?")
        if schema is True or schema == {}:
            return self._word()
        if not isinstance(schema, dict):
            raise UnsupportedSchema(f"a schema must be an object, not {schema!r}")
        if "$ref" in schema:
            return self._make(_resolve(schema["$ref"], root), root, depth + 1)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][0]
        if "allOf" in schema:
            return self._make(_merge(schema, root), root, depth + 1)
        for choice in ("anyOf", "oneOf"):
            if choice in schema:
                return self._make(self._first(schema[choice]), root, depth + 1)
        return self._make_type(schema, root, depth)

    def _first(self, options: list[Any]) -> Any:
        return next((option for option in options if option != {"type": "null"}), options[0])

    def _make_type(self, schema: dict[str, Any], root: Any, depth: int) -> Any:
        kind = schema.get("type") or ("object" if "properties" in schema else "string")
        if isinstance(kind, list):
            kind = next((name for name in kind if name != "null"), "null")
        match kind:
            case "object":
                properties = schema.get("properties", {})
                names = schema.get("required") or list(properties)
                return {name: self._make(properties.get(name, {}), root, depth + 1) for name in names}
            case "array":
                return self._array(schema, root, depth)
            case "integer" | "number":
                return self._number(schema, whole=kind == "integer")
            case "string":
                return self._string(schema)
            case "boolean":
                return True
            case "null":
                return None
        raise UnsupportedSchema(f"type {kind!r} is unknown")

    def _array(self, schema: dict[str, Any], root: Any, depth: int) -> list[Any]:
        fixed = schema.get("prefixItems", [])
        items = [self._make(item, root, depth + 1) for item in fixed]
        wanted = max(schema.get("minItems", 0), 0 if fixed else min(1, schema.get("maxItems", 1)))
        tries = 0
        while len(items) < wanted:
            item = self._make(schema.get("items", {}), root, depth + 1)
            if not (schema.get("uniqueItems") and item in items):
                items.append(item)
            elif (tries := tries + 1) > _MAX_TRIES:
                raise UnsupportedSchema(f"{wanted} different items can't be made of {schema.get('items')}")
        return items

    def _number(self, schema: dict[str, Any], *, whole: bool) -> Any:
        for position, number in enumerate(self._numbers):
            if _fits(number, schema, whole=whole):
                return self._numbers.pop(position)
        step = schema.get("multipleOf", 1 if whole else 0.5)
        low, high = schema.get("minimum"), schema.get("maximum")
        if low is None and "exclusiveMinimum" in schema:
            low = schema["exclusiveMinimum"] + step
        if high is None and "exclusiveMaximum" in schema:
            high = schema["exclusiveMaximum"] - step
        value = low if low is not None else min(1, high) if high is not None else 1
        value = -(-value // step) * step
        return int(value) if whole else value

    def _string(self, schema: dict[str, Any]) -> str:
        if "pattern" in schema:
            raise UnsupportedSchema(f"no string can be made for the pattern {schema['pattern']!r}")
        if schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]]
        text = self._texts.pop(0) if self._texts else self._word()
        while len(text) < schema.get("minLength", 0):
            text += " " + self._word()
        return text[: schema.get("maxLength")]

    def _word(self) -> str:
        return self._dice.choice(WORDS)


def _fits(number: float, schema: dict[str, Any], *, whole: bool) -> bool:
    step = schema.get("multipleOf")
    return (
        not (whole and isinstance(number, float))
        and (step is None or number % step == 0)
        and number >= schema.get("minimum", number)
        and number <= schema.get("maximum", number)
        and number > schema.get("exclusiveMinimum", number - 1)
        and number < schema.get("exclusiveMaximum", number + 1)
    )


def _resolve(reference: str, root: Any) -> Any:
    if not reference.startswith("#"):
        raise UnsupportedSchema(f"the reference {reference!r} leaves the document")
    target = root
    for part in reference.removeprefix("#").split("/"):
        if part:
            target = target[part.replace("~1", "/").replace("~0", "~")]
    return target


def _merge(schema: dict[str, Any], root: Any) -> dict[str, Any]:
    merged: dict[str, Any] = {key: value for key, value in schema.items() if key != "allOf"}
    for part in schema["allOf"]:
        known = _resolve(part["$ref"], root) if "$ref" in part else part
        for key, value in known.items():
            if key == "properties":
                merged["properties"] = {**merged.get("properties", {}), **value}
            elif key == "required":
                merged["required"] = [*merged.get("required", []), *value]
            else:
                merged[key] = value
    return merged
