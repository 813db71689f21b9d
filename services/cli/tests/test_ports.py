import os
import socket

import click
import pytest

from services.cli import ports
from services.cli.ports import choose_ollama_port, choose_port, holds, port_number, why_taken
from services.cli.processes import Holder, holder_of
from services.stack import Service
from tests.testkit.ports import free_listener, free_port

LOOPBACK = "127.0.0.1"


def is_not_ours(port):
    return False


def service(port):
    return Service("gateway", "", ("gateway",), "GATEWAY_PORT", port, "/readyz")


@pytest.fixture
def taken():
    with free_listener() as listener:
        yield listener.getsockname()[1]


def test_a_free_port_is_taken_and_the_variable_wins(home):
    port, other = free_port(), free_port()
    assert choose_port(home, service(port), LOOPBACK, {}) == port
    assert choose_port(home, service(port), LOOPBACK, {"GATEWAY_PORT": f" {other} "}) == other


def test_a_taken_port_names_its_holder_and_a_free_one(home, taken):
    with pytest.raises(click.ClickException) as caught:
        choose_port(home, service(taken), LOOPBACK, {})
    said = str(caught.value)
    assert f"port {taken} is taken by" in said
    assert f"(pid {os.getpid()}" in said
    free = int(said.rpartition("GATEWAY_PORT=")[2].split()[0])
    assert not why_taken(LOOPBACK, free)


def test_the_stacks_own_service_may_hold_the_port(home, taken, monkeypatch):
    monkeypatch.setattr(ports, "holder_of", lambda port: Holder(1, "python", "", home.mark("gateway")))
    assert choose_port(home, service(taken), LOOPBACK, {}) == taken
    wanted = {"GATEWAY_OLLAMA_PORT": str(taken)}
    assert choose_ollama_port(LOOPBACK, wanted, lambda port: holds(home, service(1), port)) == (taken, "")


def test_another_stack_is_named_with_how_to_stop_it(home, taken, monkeypatch):
    monkeypatch.setattr(ports, "holder_of", lambda port: Holder(1, "python", "", "/their/state:gateway"))
    with pytest.raises(click.ClickException, match=r"SPARKSTACK_STATE=/their/state sparkstack down"):
        choose_port(home, service(taken), LOOPBACK, {})


def test_an_address_that_is_not_ours_is_told(home):
    with pytest.raises(click.ClickException, match=r"can't listen on 192\.0\.2\.1"):
        choose_port(home, service(free_port()), "192.0.2.1", {})


def test_ollamas_port_may_be_missing_but_not_when_it_was_asked_for(home, taken, monkeypatch):
    monkeypatch.setattr(ports, "OLLAMA_PORT", taken)
    port, remark = choose_ollama_port(LOOPBACK, {}, is_not_ours)
    assert port == 0
    assert f"port {taken} is taken by" in remark
    with pytest.raises(click.ClickException, match=f"GATEWAY_OLLAMA_PORT={taken} is taken"):
        choose_ollama_port(LOOPBACK, {"GATEWAY_OLLAMA_PORT": str(taken)}, is_not_ours)
    assert choose_ollama_port(LOOPBACK, {"GATEWAY_OLLAMA_PORT": "0"}, is_not_ours) == (0, "")
    monkeypatch.setattr(ports, "OLLAMA_PORT", free_port())
    assert choose_ollama_port(LOOPBACK, {}, is_not_ours) == (ports.OLLAMA_PORT, "")


@pytest.mark.parametrize("text", ["eight", "-1", "0", "65536", "8000.5"])
def test_what_is_no_port_is_told(text):
    with pytest.raises(click.ClickException, match=f"GATEWAY_PORT={text}: it must be a port, 1 to 65535"):
        port_number({"GATEWAY_PORT": text}, "GATEWAY_PORT", 8000)


def test_a_port_that_waits_for_old_connections_to_end_is_free():
    with free_listener() as listener:
        address = listener.getsockname()
        client = socket.create_connection(address)
        served, _ = listener.accept()
        served.close()  # first: so the server's side waits
        client.close()
    assert why_taken(*address) == ""


def test_nobody_holds_a_free_port():
    assert holder_of(free_port()) == Holder()
    assert str(Holder()) == "a process of another user"
