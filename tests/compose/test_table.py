"""The compose file has the services of services/stack.py, as they are there."""

import json
import re

import pytest

from compose import catalogue
from services import __version__
from services.embeddings.settings import EmbeddingsSettings
from services.engines.files.pull_settings import PullSettings
from services.engines.settings import EnginesSettings
from services.gateway.settings import GatewaySettings
from services.kit.settings import describe_settings
from services.rag.settings import RagSettings
from services.stack import SERVICES, Service
from services.tracking.mlflow_settings import MlflowSettings
from services.tracking.settings import TrackingSettings
from tests.compose.files import FOLDER, core, filled, interpolated, read

SETTINGS = {
    "gateway": (GatewaySettings,),
    "engines": (EnginesSettings, PullSettings),
    "embeddings": (EmbeddingsSettings,),
    "rag": (RagSettings,),
    "tracking": (TrackingSettings,),
    "mlflow": (MlflowSettings,),
}
# Variables that mean nothing in a container, with the reason.
ELSEWHERE = {
    "GATEWAY_ALLOW_LOOPBACK_WITHOUT_KEY": "nobody calls a container from its own loopback",
    "GGUF": "a container's command is fixed when it is created",
    "EMBEDDINGS_CATALOGUE": "a file of the host: mount it by an overlay, and name it there",
    "TRACKING_TARIFF": "a file of the host: mount it by an overlay, and name it there",
    "MLFLOW_BACKEND_STORE_URI": "the overlay postgres.yaml",
    "MLFLOW_BACKEND_STORE_PASSWORD": "the overlay postgres.yaml",
    "MLFLOW_ARTIFACTS_DESTINATION": "in the volume; a bucket needs a way out, which MLflow has not",
}
ROWS = pytest.mark.parametrize("row", SERVICES, ids=lambda row: row.name)


@ROWS
def test_a_service_has_its_image_command_and_port(row: Service):
    service = core()[row.name]
    assert service["image"] == f"sparkstack/{row.name}:{__version__}"
    assert tuple(service["command"]) == row.command
    assert service["environment"][row.port_variable] == str(row.port)
    assert service["environment"][row.port_variable.replace("PORT", "HOST")] == "0.0.0.0"
    assert "healthcheck" in service
    assert "test" not in service["healthcheck"], "the image's own: it asks the table's path"


@ROWS
def test_a_service_waits_for_those_that_it_needs(row: Service):
    needs = core()[row.name].get("depends_on", {})
    assert all(each["condition"] == "service_healthy" for each in needs.values())
    assert set(row.needs) <= needs.keys()


def test_what_a_profile_starts_is_no_hard_need():
    """Compose refuses a file in which a service needs one that is not started."""
    profiles = {name: set(service.get("profiles", ())) for name, service in core().items()}
    for name, service in core().items():
        for needed, how in service.get("depends_on", {}).items():
            if how.get("required", True):
                assert profiles[needed] <= profiles[name], f"{name} needs {needed}, which may not be there"


@ROWS
def test_every_setting_is_fixed_passed_on_or_a_secret(row: Service):
    service = core()[row.name]
    secrets = {
        (secret if isinstance(secret, str) else secret["target"]).upper() for secret in service.get("secrets", ())
    }
    given = service["environment"].keys() | secrets | ELSEWHERE.keys()
    wanted = {line.variable for settings in SETTINGS[row.name] for line in describe_settings(settings)}
    assert wanted <= given


@ROWS
def test_every_variable_that_is_set_is_one_that_the_service_reads(row: Service):
    own = {line.variable for settings in SETTINGS[row.name] for line in describe_settings(settings)}
    prefixes = tuple(row.variables)
    for name in core()[row.name]["environment"]:
        if name.startswith(prefixes) and not name.startswith(("OTEL_", "HF_")) and name != "LLAMACPP_CPU_IMAGE":
            assert name in own, f"{row.name} has no variable {name}"


def test_no_default_of_a_setting_stands_here_too():
    """Two places would come apart: what the user did not set is left to the service."""
    text = (FOLDER / "compose.yaml").read_text()
    own = tuple(f"{row.port_variable.removesuffix('PORT')}" for row in SERVICES)
    defaults = re.findall(r"^ {6}([A-Z0-9_]+): \$\{\1:?-([^}]*)\}", text, re.M)
    assert [name for name, _ in defaults if name.startswith(own)] == ["GATEWAY_TRACKING_URL"]


@pytest.mark.parametrize(
    ("service", "variable", "target"),
    [
        ("gateway", "GATEWAY_ENGINES_URL", "engines"),
        ("gateway", "GATEWAY_TRACKING_URL", "tracking"),
        ("rag", "RAG_GATEWAY_URL", "gateway"),
        ("rag", "RAG_EMBEDDINGS_URL", "embeddings"),
        ("tracking", "TRACKING_GATEWAY_URL", "gateway"),
        ("tracking", "TRACKING_EMBEDDINGS_URL", "embeddings"),
    ],
)
def test_services_find_each_other_by_name_in_a_network_that_both_are_in(service, variable, target):
    services = core()
    ports = {row.name: row.port for row in SERVICES}
    assert services[service]["environment"][variable] == f"http://{target}:{ports[target]}"
    assert set(services[service]["networks"]) & set(services[target]["networks"])


def test_the_internal_key_is_the_same_for_who_shows_it_and_who_asks_for_it():
    secrets = {
        secret["target"]: secret["source"]
        for service in core().values()
        for secret in service.get("secrets", ())
        if isinstance(secret, dict)
    }
    shared = {name for name, source in secrets.items() if source == "internal_key"}
    for asked, shown in (
        ("gateway_internal_key", ("rag_gateway_key", "tracking_gateway_key")),
        ("engines_api_key", ("gateway_engines_key",)),
        ("embeddings_api_key", ("rag_embeddings_key", "tracking_embeddings_key")),
        ("tracking_api_key", ("gateway_tracking_key",)),
        ("rag_api_key", ()),
    ):
        assert {asked, *shown} <= shared


def test_the_gateways_catalogue_is_what_the_table_gives():
    assert catalogue.TARGET.read_text() == catalogue.text(), "run: python -m compose.catalogue"
    backends = json.loads(catalogue.text())["backends"]
    assert [each["name"] for each in backends] == ["embeddings", "rag", "tracking"]


def test_traces_go_to_mlflow_from_every_service_that_makes_some():
    traced = {row.name for row in SERVICES if "OTEL_" in row.variables}
    overlay = read("mlflow")["services"]
    assert overlay.keys() == read("otlp")["services"].keys() == traced
    for service in overlay.values():
        endpoint = service["environment"]["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]
        assert interpolated(endpoint) == "http://mlflow:5000/v1/traces"
        collector = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
        assert interpolated(endpoint, collector) == "http://collector:4318/v1/traces"


def test_a_collector_is_reached_by_who_makes_traces_and_is_no_way_out():
    overlay = read("otlp")
    for service in filled(overlay["services"]).values():
        assert service["networks"] == ["telemetry"], "beside those of compose.yaml"
        assert service["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://host.docker.internal:4318"
    options = overlay["networks"]["telemetry"]["driver_opts"]
    assert options == {"com.docker.network.bridge.enable_ip_masquerade": "false"}
