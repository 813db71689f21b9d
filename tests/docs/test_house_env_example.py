""".env.example names each variable of the services, with the default that the code has."""

import ast
import re
from pathlib import Path

import pytest
from dotenv import dotenv_values

from services.embeddings.settings import EmbeddingsSettings
from services.engines.settings import EnginesSettings
from services.gateway.settings import GatewaySettings
from services.kit.settings import describe_settings
from services.rag.settings import RagSettings
from services.tracking.mlflow_settings import MlflowSettings
from services.tracking.settings import TrackingSettings
from services.ui.settings import OpenWebuiSettings

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / ".env.example"
OURS = re.compile(
    r"(?:GATEWAY|ENGINES|EMBEDDINGS|RAG|TRACKING|LLAMACPP|SPARKSTACK)_[A-Z_]*[A-Z]|MODE|MODELS|GGUF|WITHOUT|LOG_LEVEL"
)
# They say where .env is, or mark our own processes: nothing that .env could set.
NOT_SETTINGS = {"SPARKSTACK_HOME", "SPARKSTACK_STATE", "SPARKSTACK_UNIT"}
# `up` fills compose's files in with them.
NOT_SETTINGS |= {"ENGINES_PROFILES", "SPARKSTACK_NAMES", "SPARKSTACK_SECRETS"}
# Set for the stack by `make up`, where the gateway alone has another default.
STACK_DEFAULTS = {"GATEWAY_OLLAMA_PORT": "11434"}
SETTINGS = [GatewaySettings, EnginesSettings, EmbeddingsSettings, RagSettings, TrackingSettings, MlflowSettings]
SETTINGS += [OpenWebuiSettings]
# Open WebUI's own variables, some of which begin as ours do.
NAMES_OF_OTHERS = ROOT / "services" / "ui" / "openwebui.py"
READ_ELSEWHERE = {"ENGINES_VLLM_PYTHON", "ENGINES_SGLANG_PYTHON"}
SPOKEN = {"False": "0", "True": "1"}


def example() -> dict[str, str]:
    """Return {variable: default}, the commented lines included."""
    return dict(re.findall(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", EXAMPLE.read_text(), re.MULTILINE))


@pytest.mark.parametrize("settings", SETTINGS)
def test_each_variable_of_a_service_is_in_the_example(settings) -> None:
    assert {row.variable for row in describe_settings(settings)} - NOT_SETTINGS <= example().keys()


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_example_names_no_variable_of_a_service_that_is_not_read(settings) -> None:
    read = {row.variable for row in describe_settings(settings)} | READ_ELSEWHERE
    prefix = str(settings.model_config["env_prefix"])
    assert {name for name in example() if name.startswith(prefix)} <= read


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_defaults_in_the_example_are_those_of_the_code(settings) -> None:
    shown = example()
    for row in describe_settings(settings):
        if row.variable in NOT_SETTINGS:
            continue
        default = STACK_DEFAULTS.get(row.variable, SPOKEN.get(row.default, row.default))
        assert (row.variable, shown[row.variable]) == (row.variable, default)


def test_a_copy_of_the_example_sets_nothing_but_an_empty_key() -> None:
    assert dict(dotenv_values(EXAMPLE)) == {"SPARKSTACK_API_KEY": ""}


def test_each_variable_that_the_code_names_is_in_the_example() -> None:
    named = set()
    for path in (ROOT / "services").rglob("*.py"):
        if "tests" not in path.parts and path != NAMES_OF_OTHERS:
            tree = ast.walk(ast.parse(path.read_text()))
            words = [node.value for node in tree if isinstance(node, ast.Constant) and isinstance(node.value, str)]
            named |= {word for word in words if OURS.fullmatch(word)}
    assert {"MODE", "LLAMACPP_SLOTS", "SPARKSTACK_API_KEY"} <= named
    assert named - NOT_SETTINGS <= example().keys()
