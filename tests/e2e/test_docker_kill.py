"""`docker kill`, which Docker takes for a wish: nothing comes back by itself, all else goes on, `up` mends it."""

import pytest

from tests.e2e.stacks import MODEL

pytestmark = [pytest.mark.slow, pytest.mark.only("compose")]


def kill(stack, name):
    stack.docker.ask(
        "kill", next(each.id for each in stack.containers().values() if name in (each.service, each.instance))
    )


def test_what_is_killed_takes_nothing_else_with_it_and_up_brings_it_back(stack):
    stack.up()
    for service in ("rag", "embeddings", "tracking", "docker-proxy", "engines"):
        kill(stack, service)
        assert stack.ask()["usage"]["completion_tokens"] > 0, f"without {service}"
        row = stack.status()[service]
        assert (row["state"], row["pid"]) == ("stopped", 0)
        assert f"started: {service}\n" in stack.up()
        assert stack.status()[service]["state"] == "ready"
    kill(stack, "gateway")
    assert "started: gateway\n" in stack.up()
    assert stack.ask()["usage"]["completion_tokens"] > 0


def test_a_killed_engine_is_started_for_the_next_request(stack):
    stack.up()
    before = stack.pids()[MODEL]
    kill(stack, f"llamacpp-{MODEL}")
    assert MODEL not in stack.pids()
    assert stack.ask()["usage"]["completion_tokens"] > 0
    assert stack.pids()[MODEL] != before
