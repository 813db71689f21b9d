"""Instances of JSON schemas: always valid, taken from the prompt, refused with a reason where they can't be made."""

import random

import jsonschema_rs
import pytest

from tests.testkit.schema import InstanceMaker, UnsupportedSchema

ADDRESS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
SCHEMAS = {
    "every simple type": {
        "type": "object",
        "properties": {
            "text": {"type": "string", "minLength": 12, "maxLength": 20},
            "short": {"type": "string", "maxLength": 2},
            "count": {"type": "integer", "minimum": 17, "multipleOf": 5},
            "below": {"type": "integer", "exclusiveMaximum": 0},
            "share": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
            "yes": {"type": "boolean"},
            "nothing": {"type": "null"},
            "when": {"type": "string", "format": "date-time"},
        },
        "additionalProperties": False,
    },
    "enum and const": {"type": "object", "properties": {"a": {"enum": ["x", 3]}, "b": {"const": {"k": [1]}}}},
    "arrays": {
        "type": "object",
        "properties": {
            "many": {"type": "array", "items": {"type": "integer"}, "minItems": 3},
            "none": {"type": "array", "items": {"type": "string"}, "maxItems": 0},
            "pair": {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False},
            "unique": {"type": "array", "items": {"type": "string"}, "minItems": 4, "uniqueItems": True},
        },
    },
    "anyOf with null": {"anyOf": [{"type": "null"}, {"type": "integer"}]},
    "a list of types": {"type": ["null", "boolean"]},
    "oneOf a tool call": {
        "oneOf": [
            {"type": "object", "properties": {"name": {"const": "f"}, "arguments": ADDRESS}, "required": ["name"]}
        ]
    },
    "references": {
        "$defs": {"address": ADDRESS},
        "type": "object",
        "properties": {
            "home": {"$ref": "#/$defs/address"},
            "others": {"type": "array", "items": {"$ref": "#/$defs/address"}},
        },
        "required": ["home", "others"],
    },
    "recursion that ends": {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"v": {"type": "integer"}, "next": {"$ref": "#/$defs/node"}},
                "required": ["v"],
            }
        },
        "$ref": "#/$defs/node",
    },
    "allOf": {"allOf": [ADDRESS, {"type": "object", "properties": {"zip": {"type": "integer"}}, "required": ["zip"]}]},
}


def make(schema, prompt=""):
    return InstanceMaker(prompt, random.Random(1)).make(schema)


@pytest.mark.parametrize("prompt", ["", "Take 3, -4.5, 0 and 20 of 'the quoted text' and \"another\"."])
@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS.keys())
def test_an_instance_is_valid(schema, prompt):
    jsonschema_rs.validator_for(schema, validate_formats=True).validate(make(schema, prompt))


def test_all_properties_where_none_is_required_else_the_required_ones():
    properties = {"a": {"type": "integer"}, "b": {"type": "integer"}}
    assert set(make({"type": "object", "properties": properties})) == {"a", "b"}
    assert set(make({"type": "object", "properties": properties, "required": ["b"]})) == {"b"}


def test_numbers_and_quoted_texts_of_the_prompt_are_used_in_order():
    properties = {"a": {"type": "integer"}, "name": {"type": "string"}, "b": {"type": "number"}}
    prompt = "magic(3) for '你好 Group' and 1.5 of gpt4"
    assert make({"type": "object", "properties": properties}, prompt) == {"a": 3, "name": "你好 Group", "b": 1.5}


def test_an_apostrophe_is_no_quote():
    assert make({"type": "string"}, "it's Ada's 'real one'") == "real one"


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "string", "pattern": "^a+$"}, "pattern"),
        ({"$ref": "https://example.org/x"}, "leaves the document"),
        ({"type": "object", "properties": {"again": {"$ref": "#"}}}, "recursive"),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2, "uniqueItems": True}, "different items"),
        ({"type": "strnig"}, "unknown"),
        ("text", "object"),
    ],
)
def test_what_cannot_be_made_is_refused_with_a_reason(schema, reason):
    with pytest.raises(UnsupportedSchema, match=reason):
        make(schema)
