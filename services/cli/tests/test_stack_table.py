import pytest

from services.cli.main import VERBS, cli
from services.stack import SERVICES, Service, find_service, start_order


def row(name, *needs):
    return Service(name, "", (name,), f"{name.upper()}_PORT", 1, "/", needs=needs)


def test_every_service_is_run_by_a_verb_that_there_is():
    for service in SERVICES:
        command = cli
        for word in service.command:
            assert word in command.list_commands(None), service.name
            command = command.get_command(None, word)
    assert {"gateway", "engine"} <= set(VERBS)


def test_names_ports_and_variables_are_unique():
    assert len({service.port for service in SERVICES}) == len(SERVICES)
    assert len({service.name for service in SERVICES}) == len(SERVICES)
    assert len({service.port_variable for service in SERVICES}) == len(SERVICES)


def test_services_start_after_what_they_need():
    order = [service.name for service in start_order((row("c", "b", "a"), row("b", "a"), row("a")))]
    assert order == ["a", "b", "c"]
    names = [service.name for service in start_order()]
    assert names.index("engines") < names.index("gateway")


def test_a_circle_and_an_unknown_need_are_named():
    with pytest.raises(ValueError, match="a → b → a"):
        start_order((row("a", "b"), row("b", "a")))
    with pytest.raises(ValueError, match="a needs x, which is not in the table"):
        start_order((row("a", "x"),))


def test_services_are_found_by_name():
    assert find_service("gateway") in SERVICES
    assert find_service("nothing") is None
