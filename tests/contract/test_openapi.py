"""The OpenAPI document: it changes on purpose alone, has every route, and the gateway does what it says.

The snapshot is written anew by `UPDATE_SNAPSHOTS=1 pytest tests/contract/test_openapi.py`.
"""

import json
import os
import re
from pathlib import Path

import httpx
import pytest
import schemathesis
from fastapi.routing import iter_route_contexts
from schemathesis import GenerationMode
from schemathesis.config import HealthCheck

from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings

SNAPSHOT = Path(__file__).with_name("openapi.json")
OPEN = {"/", "/page/{name}", "/livez", "/readyz", "/metrics", "/openapi.json"}
"""What anybody on this machine may read without a key; everything else tells or costs something."""
UNDOCUMENTED = {"/", "/page/{name}", "/openapi.json"}
"""For browsers, and the document itself."""


def routes_of(app):
    """Return method and path of each route, as the document writes paths; each GET is a HEAD too."""
    return {
        (method, re.sub(r":\w+}", "}", context.path))
        for context in iter_route_contexts(app.routes)
        for method in context.methods - {"HEAD"}
    }


# --- the document -----------------------------------------------------------------------------------------------


def test_the_document_changes_on_purpose_alone(stack):
    document = httpx.get(f"{stack.url}/openapi.json").json()
    del document["info"]["version"]
    text = json.dumps(document, indent=2, sort_keys=True) + "\n"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_text(text)

    assert json.loads(SNAPSHOT.read_text()) == document, "on purpose? UPDATE_SNAPSHOTS=1 pytest " + __file__


def test_every_route_is_documented_and_every_document_has_a_route(stack):
    documented = {(method.upper(), path) for path, item in stack.app.openapi()["paths"].items() for method in item}

    assert documented == {(method, path) for method, path in routes_of(stack.app) if path not in UNDOCUMENTED}


def test_every_operation_says_what_it_does_and_what_can_go_wrong(stack):
    for path, item in stack.app.openapi()["paths"].items():
        for operation in item.values():
            assert len(operation["summary"]) > 8, path
            assert operation["summary"][0].isupper(), path
            assert operation["responses"]["default"]["content"], path
            assert ("security" in operation) is (path not in OPEN), path


# --- who may call -----------------------------------------------------------------------------------------------


def test_every_route_but_the_open_ones_wants_a_key(stack):
    routes = routes_of(stack.app)
    with httpx.Client() as client:
        answers = {
            (method, path): client.request(method, stack.url + re.sub(r"{\w+}", "style.css", path)).status_code
            for method, path in routes
        }

    assert {path for _, path in routes} > OPEN
    assert {route: status for route, status in answers.items() if route[1] in OPEN and status != 200} == {}
    assert {route: status for route, status in answers.items() if route[1] not in OPEN and status != 401} == {}


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/status"])
def test_a_missing_key_is_told_in_the_envelope(stack, path):
    answer = httpx.request("POST" if "chat" in path else "GET", stack.url + path)

    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.headers["x-request-id"]


MODELS = {"embed": "fake-embed", "rerank": "mini-rank"}
"""By what their path has in it; all others chat."""


# --- what it does -----------------------------------------------------------------------------------------------

DOCUMENT = create_app(GatewaySettings(api_keys=("any",))).openapi()
schema = schemathesis.openapi.from_dict(
    # A busy machine may be slow to make examples; that says nothing of the gateway.
    DOCUMENT,
    config=schemathesis.Config(seed=1, suppress_health_check=[HealthCheck.too_slow]),
)
schema.config.generation.update(max_examples=10, deterministic=True)
# What only the engine understands, it may refuse: roles, schemas, images. All other checks hold, first of all that
# there is no server error whatever is sent: the engine behind is well.
schema.config.checks.update(excluded_check_names=["positive_data_acceptance"])


@pytest.mark.slow
@schema.parametrize()
def test_the_gateway_does_what_the_document_says(case, shared_stack):
    if isinstance(case.body, dict) and is_a_name(case.body.get("model")):
        case.body["model"] = next((name for part, name in MODELS.items() if part in case.path), "fake-chat")
    if case.path_parameters and case.meta.generation.mode == GenerationMode.POSITIVE:
        case.path_parameters["model"] = "fake-chat"

    response = case.call(base_url=shared_stack.url, headers={"Authorization": f"Bearer {shared_stack.key}"})

    case.validate_response(response)


def is_a_name(value):
    """Return whether the document allows this as a model's name: replaced by one that exists, it leads further."""
    return isinstance(value, str) and 1 <= len(value) <= 256
