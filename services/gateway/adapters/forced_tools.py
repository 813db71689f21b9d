"""Tools for models whose chat template has none: a call that is demanded is forced by a JSON schema.

llama.cpp and vLLM leave `tools` out of such a model's prompt without a word, and llama.cpp ignores `tool_choice`, too.
So what can't be done is refused, and what can be done is done by what these engines do keep to, a schema for the
whole answer: `{"name": "one of the tools", "arguments": {…}}`. It is read back from the content as it comes. The
model sees the names and the parameters that the schema lets it write, not the tools' descriptions.
"""

import secrets
from typing import Any

import msgspec

from services.gateway.adapters.tool_text import CallReader
from services.gateway.exchange import Exchange
from services.kit.errors import EngineInvalidResponse, InvalidRequest, UnsupportedParameter
from services.kit.openai import Answer, read_answer
from services.kit.sse import encode_event, event_data

_Schema = dict[str, Any]


def forced_tools(exchange: Exchange) -> "list[ForcedTools]":
    """Return what makes tools work for the exchange's model; nothing where it has tools of its own, or is unknown."""
    known = exchange.target.facts.capabilities
    return [ForcedTools(exchange.model)] if known and "tools" not in known and "tools" in exchange.fields else []


class ForcedTools:
    """One exchange's tools.

    Args:
        model: its name, for messages.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._forced = False
        self._finish_reason = "tool_calls"
        self._calls: dict[int, CallReader] = {}

    def request(self, body: bytes) -> bytes:
        document: dict[str, Any] = msgspec.json.decode(body)
        offered = document.get("tools") or []
        choice = document.get("tool_choice") or "auto"
        if not offered or choice == "none":
            return body
        tools = self._demanded(offered, choice)
        self._forced = True
        for name in ("tools", "tool_choice", "parallel_tool_calls", "response_format"):
            document.pop(name, None)
        schema = {"name": "tool_call", "strict": True, "schema": _schema_of(tools)}
        document["response_format"] = {"type": "json_schema", "json_schema": schema}
        return msgspec.json.encode(document)

    def _demanded(self, offered: list[Any], choice: Any) -> list[_Schema]:
        """Return the functions of which one must be called.

        Raises:
            UnsupportedParameter: the model would have to choose whether to call one.
            InvalidRequest: there is no such tool, or it is no function.
        """
        functions = {each["function"]["name"]: each["function"] for each in offered if _is_function(each)}
        if len(functions) < len(offered):
            raise InvalidRequest(
                "tools: each needs type 'function' and a function with a name of its own", param="tools"
            )
        if choice == "required":
            return list(functions.values())
        if isinstance(choice, dict) and isinstance(choice.get("function"), dict):
            name = choice["function"].get("name")
            if name not in functions:
                raise InvalidRequest(f"tool_choice: there is no tool {name!r} in tools", param="tool_choice")
            self._finish_reason = "stop"  # as OpenAI's API does where the function was named
            return [functions[name]]
        raise UnsupportedParameter(
            f"{self._model} has no tools in its chat template and would never see these. Demand a call by "
            'tool_choice: "required" or a function\'s name, leave tools out, or take a model that GET /v1/models '
            "lists with the capability tools",
            param="tools" if choice == "auto" else "tool_choice",
        )

    def event(self, event: bytes, answer: Answer) -> tuple[bytes, Answer | None]:
        if not self._forced or not answer.choices:
            return event, answer
        document: dict[str, Any] = msgspec.json.decode(event_data(event) or b"{}")
        document["choices"] = [choice for choice in document["choices"] if self._rewrite(choice, "delta")]
        if not document["choices"] and not document.get("usage"):
            return b"", None
        data = msgspec.json.encode(document)
        return encode_event(data), read_answer(data)

    def plain(self, body: bytes, answer: Answer) -> bytes:
        if not self._forced:
            return body
        document: dict[str, Any] = msgspec.json.decode(body)
        for choice in document.get("choices") or ():
            self._rewrite(choice, "message")
        return msgspec.json.encode(document)

    def _rewrite(self, choice: dict[str, Any], part: str) -> bool:
        """Turn the choice's content into a piece of its call; say whether anything is left to be sent.

        Raises:
            EngineInvalidResponse: the answer has ended and is no call.
        """
        number = choice.get("index") or 0
        reader = self._calls.setdefault(number, CallReader())
        said = choice.get(part) or {}
        text = said.get("content")
        if text:
            said["content"] = None
            said.update(self._piece(reader, text, whole=part == "message"))
        reason = choice.get("finish_reason")
        if reason == "stop":
            if not reader.complete:
                raise EngineInvalidResponse(
                    f"{self._model} was to call a tool, and its engine let it write another text"
                )
            choice["finish_reason"] = self._finish_reason
        return bool(reason or not text or "tool_calls" in said)

    @staticmethod
    def _piece(reader: CallReader, text: str, *, whole: bool) -> dict[str, Any]:
        begun = reader.name is not None
        arguments = reader.feed(text)
        if reader.name is None or (begun and not arguments):
            return {}
        call: dict[str, Any] = {"function": {"arguments": arguments}}
        if not begun:
            call = {
                "id": f"call_{secrets.token_hex(12)}",
                "type": "function",
                "function": {"name": reader.name, **call["function"]},
            }
        return {"tool_calls": [call if whole else {"index": 0, **call}]}


def _is_function(tool: Any) -> bool:
    return (
        isinstance(tool, dict)
        and isinstance(tool.get("function"), dict)
        and isinstance(tool["function"].get("name"), str)
    )


def _schema_of(functions: list[_Schema]) -> _Schema:
    """Return the schema of a call of one of the functions.

    The references in their parameters' schemas are to the roots of these; here they lead to one table of all.
    """
    definitions: _Schema = {}
    calls = []
    for number, function in enumerate(functions):
        parameters = {
            "type": "object",
            **(function.get("parameters") or {"properties": {}, "additionalProperties": False}),
        }
        for table in ("$defs", "definitions"):
            for name, schema in (parameters.pop(table, None) or {}).items():
                definitions[f"{number}.{name}"] = _with_references(schema, number)
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": function["name"]}, "arguments": _with_references(parameters, number)},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
    return {**schema, "$defs": definitions} if definitions else schema


def _with_references(schema: Any, number: int) -> Any:
    if isinstance(schema, list):
        return [_with_references(each, number) for each in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {name: _with_references(value, number) for name, value in schema.items()}
    reference = changed.get("$ref")
    if isinstance(reference, str):
        table, _, name = reference.rpartition("/")
        if table in ("#/$defs", "#/definitions"):
            changed["$ref"] = f"#/$defs/{number}.{name}"
    return changed
