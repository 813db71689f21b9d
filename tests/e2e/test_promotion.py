"""Promotion on the whole stack: a real model gets a name, a worse one is refused, the name goes back."""

import re

import openai
import pytest

from tests.e2e.stacks import wait_for
from tests.testkit.server import fake_engine, in_thread

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
REAL = "smollm2-135m-instruct-q4_1"
ASKED = ("--as", "production", "--set", "basics")


@pytest.fixture
def stack_beside_a_worse_model(new_stack):
    """A stack with the default model and, behind the same gateway, one that says words without sense."""
    with in_thread(fake_engine(models=("babble",), embedding_models=())) as engine:
        stack = new_stack(GATEWAY_BACKENDS=f"other={engine.url}")
        stack.up()
        yield stack


@pytest.mark.only("embedded")
def test_a_worse_model_is_refused_the_name_and_a_rollback_gives_it_back(stack_beside_a_worse_model):
    stack = stack_beside_a_worse_model
    first = stack.run("promote", "smollm2", *ASKED, timeout_s=240)
    assert f"production stands for {REAL} (promoted)" in first

    with openai.OpenAI(base_url=f"{stack.gateway}/v1", api_key=stack.key) as client:
        assert "production" in {model.id for model in client.models.list()}
    assert "Paris" in stack.ask(model="production")["choices"][0]["message"]["content"]

    refused = stack.run("promote", "babble", *ASKED, code=3, timeout_s=240)
    assert re.search(r"^quality +-0\.\d+, at least -0\.\d+ +> -0\.050 +BROKEN +it is worse", refused, re.MULTILINE)
    assert f"refused: babble is not promoted; production goes on standing for {REAL}" in refused
    assert "Paris" in stack.ask(model="production")["choices"][0]["message"]["content"]

    stack.run("promote", "babble", *ASKED, "--force", "to see the way back")
    assert "Paris" not in stack.ask(model="production")["choices"][0]["message"]["content"]
    assert f"production stands for {REAL} (rolled back; before: babble)" in stack.run(
        "promote", "--rollback", "production"
    )
    assert "Paris" in stack.ask(model="production")["choices"][0]["message"]["content"]

    # A restart of the gateway keeps the name, and so does one that finds the file broken later on.
    stack.run("restart", "gateway")
    assert "Paris" in stack.ask(model="production")["choices"][0]["message"]["content"]
    compared = stack.run("eval", "compare", "babble", REAL, "--set", "basics")
    assert "more than chance" in compared


@pytest.mark.only("compose")
def test_the_gateway_in_its_container_follows_the_file_of_the_host(stack):
    stack.up()
    assert f"production stands for {REAL} (promoted)" in stack.run("promote", "smollm2", *ASKED)
    assert "Paris" in stack.ask(model="production")["choices"][0]["message"]["content"]
    stack.run("promote", "--remove", "production")
    with openai.OpenAI(base_url=f"{stack.gateway}/v1", api_key=stack.key) as client:
        wait_for(lambda: "production" not in {model.id for model in client.models.list()}, "the name to be gone")
