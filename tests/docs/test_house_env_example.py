""".env.example names each variable of the services, with the default that the code has."""

import re
from pathlib import Path

from dotenv import dotenv_values

from services.gateway.settings import GatewaySettings
from services.kit.settings import describe_settings

EXAMPLE = Path(__file__).parents[2] / ".env.example"
# Set for the stack by `make up`, where the gateway alone has another default.
STACK_DEFAULTS = {"GATEWAY_OLLAMA_PORT": "11434"}
SPOKEN = {"False": "0", "True": "1"}


def example() -> dict[str, str]:
    """Return {variable: default}, the commented lines included."""
    return dict(re.findall(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", EXAMPLE.read_text(), re.MULTILINE))


def test_each_variable_of_the_gateway_is_in_the_example() -> None:
    assert {row.variable for row in describe_settings(GatewaySettings)} <= example().keys()


def test_the_example_names_no_gateway_variable_that_is_not_read() -> None:
    read = {row.variable for row in describe_settings(GatewaySettings)}
    assert {name for name in example() if name.startswith("GATEWAY_")} <= read


def test_the_defaults_in_the_example_are_those_of_the_code() -> None:
    shown = example()
    for row in describe_settings(GatewaySettings):
        default = STACK_DEFAULTS.get(row.variable, SPOKEN.get(row.default, row.default))
        assert (row.variable, shown[row.variable]) == (row.variable, default)


def test_a_copy_of_the_example_sets_nothing_but_an_empty_key() -> None:
    assert dict(dotenv_values(EXAMPLE)) == {"SPARKSTACK_API_KEY": ""}
