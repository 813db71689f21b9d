"""A second `up` restarts only what has changed."""

import re
import time

import pytest

from services.engines.files.packaged import locate
from services.engines.recipes import find_recipe, load_recipes
from tests.e2e.stacks import MODEL
from tests.testkit.ports import free_port

pytestmark = pytest.mark.slow


def test_a_second_up_is_quick_and_restarts_nothing(stack):
    stack.up()
    pids = stack.pids()
    started = time.monotonic()
    said = stack.up()
    assert time.monotonic() - started < 10 * stack.patience
    assert "nothing has changed; the stack runs on" in said
    assert stack.pids() == pids


def test_a_changed_variable_restarts_the_service_that_reads_it(stack):
    stack.up()
    before = stack.pids()
    said = stack.up(GATEWAY_LOAD_WAIT_S="7")
    assert re.search(r"^started: gateway$", said, re.M)
    after = stack.pids()
    assert after["engines"] == before["engines"]
    assert after[MODEL] == before[MODEL]
    assert after["gateway"] != before["gateway"]
    assert "started: gateway" in stack.up(), "a variable that is gone has changed too"


def test_a_service_moves_to_another_port(stack, mode):
    stack.up()
    stack.environment["GATEWAY_PORT"] = str(free_port())
    # A process that asks the gateway has to know its new port; in containers it is published elsewhere alone.
    assert f"started: {'rag, gateway' if mode == 'embedded' else 'gateway'}\n" in stack.up()
    assert stack.status()["gateway"]["address"] == stack.gateway
    assert stack.ask()["usage"]["completion_tokens"] > 0


def test_two_ups_at_a_time_make_one_stack(stack, mode):
    both = [stack.start("up"), stack.start("up")]
    said = [process.communicate(timeout=100 * stack.patience)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], "\n".join(said)
    assert len([unit for unit in stack.units() if unit.name == "supervisord"]) == (mode == "embedded")
    assert stack.running() == stack.expected


@pytest.mark.only("embedded")
def test_a_model_of_ones_own_is_served_under_its_own_id(stack, tmp_path):
    model = tmp_path / "My Copy.Q4_1.gguf"
    model.symlink_to(locate(find_recipe("smollm2", load_recipes()).source))
    said = stack.up(GGUF=str(model))
    assert f"model: my-copy-q4_1 (98 MB, your file {model})" in said
    reply = stack.ask(model="my-copy-q4_1")
    assert reply["model"] == "my-copy-q4_1"
    assert "Paris" in reply["choices"][0]["message"]["content"]
    assert stack.ask(model="gpt-4o-mini")["model"] == "my-copy-q4_1"

    assert "model: smollm2-135m-instruct-q4_1" in stack.up(), "without GGUF the default model comes back"
    assert stack.ask(model="smollm2")["model"] == "smollm2-135m-instruct-q4_1"


def test_restart_gives_a_service_a_new_process(stack):
    stack.up()
    before = stack.pids()
    assert "ready after" in stack.run("restart", "gateway")
    after = stack.pids()
    assert after["engines"] == before["engines"]
    assert after["gateway"] != before["gateway"]
    assert stack.status()["gateway"]["restarts"] == 0, "what was wanted isn't counted as a crash"
    assert "no service 'nothing' is running" in stack.run("restart", "nothing", code=1)


def test_a_restarted_engines_service_takes_its_engine_over(stack):
    stack.up()
    before = stack.pids()
    stack.run("restart", "engines")
    assert stack.ask()["usage"]["completion_tokens"] > 0
    after = stack.pids()
    assert after["engines"] != before["engines"]
    assert after[MODEL] == before[MODEL], "what it has loaded runs on"


@pytest.mark.only("embedded")
def test_another_setting_of_the_engine_loads_the_model_anew(stack):
    stack.up()
    before = stack.pids()
    assert "started: engines" in stack.up(LLAMACPP_SLOTS="2")
    assert stack.pids()[MODEL] != before[MODEL]
    assert stack.ask()["usage"]["completion_tokens"] > 0
