import pytest

from services.gateway.settings import GatewaySettings
from services.kit.settings import SettingsError, load_settings


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARKSTACK_API_KEY", raising=False)


def test_a_door_to_the_network_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_HOST", "0.0.0.0")
    with pytest.raises(SettingsError, match=r"GATEWAY_HOST=0\.0\.0\.0 .* SPARKSTACK_API_KEY"):
        load_settings(GatewaySettings)
    monkeypatch.setenv("SPARKSTACK_API_KEY", "k")
    assert load_settings(GatewaySettings).host == "0.0.0.0"


def test_lists_and_pairs_are_read_from_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARKSTACK_API_KEY", "one, bob=two")
    monkeypatch.setenv("GATEWAY_BACKENDS", "a=http://127.0.0.1:1/v1/, b=https://h:2")
    monkeypatch.setenv("GATEWAY_ALIASES", "gpt-4o=default")
    settings = load_settings(GatewaySettings)
    assert settings.api_keys == ("one", "bob=two")
    assert settings.backends == {"a": "http://127.0.0.1:1", "b": "https://h:2"}
    assert settings.aliases == {"gpt-4o": "default"}


@pytest.mark.parametrize("value", ["a", "a=", "=http://h", "a=ftp://h", "a b=http://h", "a=127.0.0.1:80"])
def test_a_backend_that_is_no_backend_is_named(value: str) -> None:
    with pytest.raises(SettingsError, match="GATEWAY_BACKENDS"):
        load_settings(GatewaySettings, backends=value)


def test_links_of_the_page_are_addresses_of_the_web() -> None:
    settings = load_settings(GatewaySettings, links="MLflow=http://127.0.0.1:5000, Grafana=https://h/d?a=b")
    assert settings.links == {"MLflow": "http://127.0.0.1:5000", "Grafana": "https://h/d?a=b"}
    with pytest.raises(SettingsError, match="a link begins with http"):
        load_settings(GatewaySettings, links="here=javascript:alert(1)")


def test_plain_requests_wait_for_the_smaller_bound_only_where_it_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(GatewaySettings).plain_head_timeout_s == 600
    monkeypatch.setenv("GATEWAY_FIRST_TOKEN_TIMEOUT_S", "20")
    assert load_settings(GatewaySettings).plain_head_timeout_s == 20
    monkeypatch.setenv("GATEWAY_FIRST_TOKEN_TIMEOUT_S", "900")
    assert load_settings(GatewaySettings).plain_head_timeout_s == 600
