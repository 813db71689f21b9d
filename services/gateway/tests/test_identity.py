from typing import Any

import pytest

from services.gateway.identity import INTERNAL_CLIENT, LOOPBACK_CLIENT, Keys
from services.kit.errors import InvalidApiKey, PermissionDenied
from services.kit.on_behalf import sign


def scope(client: str = "127.0.0.1", **headers: str) -> dict[str, Any]:
    headers.setdefault("host", "127.0.0.1:8000")
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"client": (client, 5), "headers": pairs}


def test_a_key_is_found_by_bearer_or_x_api_key_and_has_a_name() -> None:
    keys = Keys(("k1", "bob=k2", "k3"), allow_loopback=False)
    assert keys.identify(scope(authorization="Bearer k1")) == "default"
    assert keys.identify(scope(authorization="bearer k2")) == "bob"
    assert keys.identify(scope(x_api_key="k3")) == "key3"


@pytest.mark.parametrize("headers", [{}, {"authorization": "Basic k1"}, {"authorization": "Bearer "}])
def test_no_key_is_refused_with_the_way_to_get_one(headers: dict[str, str]) -> None:
    with pytest.raises(InvalidApiKey, match="sparkstack key"):
        Keys(("k1",), allow_loopback=False).identify(scope(**headers))


def test_a_wrong_key_is_not_repeated_whole() -> None:
    with pytest.raises(InvalidApiKey) as caught:
        Keys(("k1",), allow_loopback=True).identify(scope(authorization="Bearer sk-very-secret-key"))
    assert "very-secret" not in caught.value.message


def test_this_machines_clients_may_be_let_in_without_a_key() -> None:
    keys = Keys(("k1",), allow_loopback=True)
    assert keys.identify(scope()) == LOOPBACK_CLIENT
    assert keys.identify(scope(client="::1", host="[::1]:8000")) == LOOPBACK_CLIENT


def test_without_any_key_configured_a_dummy_key_does_no_harm() -> None:
    assert Keys((), allow_loopback=True).identify(scope(authorization="Bearer ollama")) == LOOPBACK_CLIENT


def test_the_services_key_carries_the_name_of_whom_a_service_works_for() -> None:
    keys = Keys(("k1",), allow_loopback=False, internal="sk-internal")
    bearer = {"authorization": "Bearer sk-internal", "client": "10.0.0.7"}
    assert keys.identify(scope(**bearer)) == INTERNAL_CLIENT
    assert keys.identify(scope(**bearer, x_sparkstack_on_behalf_of=sign("ann", "sk-internal"))) == "ann"
    assert keys.identify(scope(**bearer, x_sparkstack_on_behalf_of=sign("ann", "k1"))) == INTERNAL_CLIENT
    named = {"authorization": "Bearer k1", "x_sparkstack_on_behalf_of": sign("ann", "sk-internal")}
    assert keys.identify(scope(**named)) == "default"


def test_the_services_key_alone_makes_no_dummy_key_wrong() -> None:
    keys = Keys((), allow_loopback=True, internal="sk-internal")
    assert keys.identify(scope(authorization="Bearer ollama")) == LOOPBACK_CLIENT
    with pytest.raises(InvalidApiKey):
        Keys((), allow_loopback=False, internal="sk-internal").identify(scope(authorization="Bearer ollama"))


@pytest.mark.parametrize(
    "given",
    [
        {"client": "192.168.1.7"},
        {"x_forwarded_for": "1.2.3.4"},
        {"forwarded": "for=1.2.3.4"},
        {"host": "evil.example:8000"},
        {"origin": "https://evil.example"},
    ],
)
def test_a_keyless_call_that_may_come_from_elsewhere_is_refused(given: dict[str, str]) -> None:
    with pytest.raises((InvalidApiKey, PermissionDenied)):
        Keys((), allow_loopback=True).identify(scope(**given))


def test_a_page_of_this_machine_or_of_a_listed_origin_may_call_without_a_key() -> None:
    keys = Keys((), allow_loopback=True, origins=("https://ui.example",))
    assert keys.identify(scope(origin="http://localhost:3000")) == LOOPBACK_CLIENT
    assert keys.identify(scope(origin="https://ui.example")) == LOOPBACK_CLIENT


def test_metrics_are_open_to_this_machine_alone() -> None:
    keys = Keys(("k1",), allow_loopback=False)
    keys.guard_metrics(scope())
    keys.guard_metrics(scope(client="10.0.0.7", host="spark:8000", authorization="Bearer k1"))
    for elsewhere in (scope(client="10.0.0.7"), scope(x_forwarded_for="1.2.3.4"), scope(authorization="Bearer no")):
        with pytest.raises((InvalidApiKey, PermissionDenied)):
            keys.guard_metrics(elsewhere)
