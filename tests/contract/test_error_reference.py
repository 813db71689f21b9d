"""Every error of the services is raised, documented, and read by OpenAI's client as it was meant."""

import ast
import contextlib
from pathlib import Path

import openai
import pytest
from fastapi import Request

from docs import generate_errors
from services.kit.app import create_app
from services.kit.metrics import new_registry
from tests.testkit.server import in_thread, running

ROOT = Path(__file__).parents[2]
ERRORS = {each.__name__: each for each in generate_errors.error_classes()}


def modules():
    """Return path and syntax tree of each module of the services but for their tests."""
    for path in sorted((ROOT / "services").rglob("*.py")):
        if "tests" not in path.parts:
            yield path, ast.parse(path.read_text())


def name_of(node):
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


# --- raised -----------------------------------------------------------------------------------------------------


def test_every_error_is_raised_somewhere():
    made = {name_of(node.func) for _, tree in modules() for node in ast.walk(tree) if isinstance(node, ast.Call)}

    assert set(ERRORS) - made == set(), "never raised: remove them, or raise them"


def test_errors_are_defined_where_the_reference_looks():
    families = {"AppError", *ERRORS}
    elsewhere = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and families & {name_of(base) for base in node.bases}
        if path.name != "errors.py"
    ]

    assert elsewhere == []


# --- documented -------------------------------------------------------------------------------------------------


def test_the_reference_is_up_to_date():
    assert generate_errors.TARGET.read_text() == generate_errors.reference(), "run: python -m docs.generate_errors"


@pytest.mark.parametrize("kind", ERRORS.values(), ids=ERRORS)
def test_each_error_says_what_to_do(kind):
    assert "__doc__" in vars(kind), "its docstring is printed in the reference"
    assert kind.__doc__.strip().endswith(".")
    assert f"`{kind.code}`" in generate_errors.TARGET.read_text()


def test_each_code_means_one_error():
    codes = [kind.code for kind in ERRORS.values()]

    assert sorted(codes) == sorted(set(codes))


# --- parsed -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client():
    """Give OpenAI's client of an app that raises the error whose class is asked for as the model."""

    @contextlib.asynccontextmanager
    async def nothing_to_hold(_app):
        yield

    async def ready():
        return {}

    app = create_app(
        service="failing", title="failing", registry=new_registry(), lifespan=nothing_to_hold, readiness=ready
    )

    @app.post("/v1/chat/completions")
    async def fail(request: Request):
        kind = ERRORS[(await request.json())["model"]]
        raise kind(f"what is wrong with {kind.code}: naïve 🚀", param="messages[0].content", retry_after_s=2.4)

    with (
        in_thread(running(app)) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client,
    ):
        yield client


@pytest.mark.parametrize("kind", ERRORS.values(), ids=ERRORS)
def test_openais_client_reads_all_of_it(client, kind):
    with pytest.raises(openai.APIStatusError) as raised:
        client.chat.completions.create(model=kind.__name__, messages=[])

    error = raised.value
    assert type(error).__name__ == generate_errors.client_exception(kind.status)
    assert error.status_code == kind.status
    assert error.code == kind.code
    assert error.type == kind.type
    assert error.param == "messages[0].content"
    assert error.body["message"] == f"what is wrong with {kind.code}: naïve 🚀"
    assert error.response.headers["retry-after"] == "3"
    assert error.response.headers["content-type"] == "application/json"
    assert error.request_id
