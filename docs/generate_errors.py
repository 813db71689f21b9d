"""Write docs/errors.md from the error classes of all services: `python -m docs.generate_errors`."""

import importlib
from pathlib import Path

from services.kit.errors import AppError, all_errors

TARGET = Path(__file__).with_name("errors.md")
_SERVICES = Path(__file__).parents[1] / "services"
_CLIENT_RAISES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    429: "RateLimitError",
}
_HEAD = """\
<!-- Made by `python -m docs.generate_errors` from the classes in services/*/errors.py: edit those. -->
# Errors

Every failure of every service has one form. `message` names the value, the limit and the next step; `code` is for
programs; `param` is the field that is wrong, where it is one field.

```json
{"error": {"message": "there is no model 'gpt-99'; GET /v1/models lists: smollm2", "type": "not_found_error", "param": "model", "code": "model_not_found"}}
```

- The response's `x-request-id` finds the request in the logs. 429 and 503 carry `Retry-After` in seconds.
- In a stream that has begun, the failure is its last event, `data: {"error": …}`, and no `[DONE]` follows. OpenAI's
  client then raises `APIError` with this message.
- Under `/api` errors have Ollama's form, `{"error": "the message"}`, with the same status; in a stream that is its last
  line.

| status | type | code | `openai` raises | what it means, what to do |
|---|---|---|---|---|
"""  # noqa: E501


def error_classes() -> list[type[AppError]]:
    """Return every error class of every service, by status."""
    for path in sorted(_SERVICES.glob("*/errors.py")):
        importlib.import_module(f"services.{path.parent.name}.errors")
    # An app that a test defined is no part of the stack.
    found = [each for each in all_errors() if each.__module__.startswith("services.")]
    return sorted(found, key=lambda each: each.status)


def client_exception(status: int) -> str:
    """Return the exception of OpenAI's client for a status."""
    return _CLIENT_RAISES.get(status, "InternalServerError" if status >= 500 else "APIStatusError")


def reference() -> str:
    """Return the text of docs/errors.md."""
    rows = []
    for each in error_classes():
        meaning = " ".join((each.__doc__ or "").split())
        rows.append(
            f"| {each.status} | `{each.type}` | `{each.code}` | `{client_exception(each.status)}` | {meaning} |\n"
        )
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    TARGET.write_text(reference())
