""".env.example names each variable of the services, with the default that the code has."""

import ast
import re
from pathlib import Path

from dotenv import dotenv_values

from services.gateway.settings import GatewaySettings
from services.kit.settings import describe_settings

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / ".env.example"
OURS = re.compile(r"(?:GATEWAY|LLAMACPP|SPARKSTACK)_[A-Z_]*[A-Z]|MODE|GGUF|LOG_LEVEL")
# They say where .env is, or mark our own processes: nothing that .env could set.
NOT_SETTINGS = {"SPARKSTACK_HOME", "SPARKSTACK_STATE", "SPARKSTACK_UNIT"}
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


def test_each_variable_that_the_code_names_is_in_the_example() -> None:
    named = set()
    for path in (ROOT / "services").rglob("*.py"):
        if "tests" not in path.parts:
            tree = ast.walk(ast.parse(path.read_text()))
            words = [node.value for node in tree if isinstance(node, ast.Constant) and isinstance(node.value, str)]
            named |= {word for word in words if OURS.fullmatch(word)}
    assert {"MODE", "LLAMACPP_PORT", "SPARKSTACK_API_KEY"} <= named
    assert named - NOT_SETTINGS <= example().keys()
