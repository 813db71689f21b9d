"""OpenTelemetry's standard variables: where spans go, how, and what is said of the process."""

import pytest
from structlog.testing import capture_logs

from services.kit.otlp_variables import Batching, Collector, batching_from, collector_from, headers_from, resource_from
from services.kit.settings import SettingsError

HERE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        (HERE, "http://127.0.0.1:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector/otlp/"}, "https://collector/otlp/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:1/x"}, "http://c:1/x"),
        ({**HERE, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:1/x/"}, "http://c:1/x/"),
    ],
)
def test_the_base_gets_a_path_and_what_is_for_traces_is_taken_as_it_is(variables, url):
    assert collector_from(variables) == Collector(url)


def test_what_is_for_traces_wins():
    both = {
        f"OTEL_EXPORTER_OTLP_{kind}{name}": value
        for name, general, own in [
            ("HEADERS", "a=1", "b=2"),
            ("TIMEOUT", "1", "2500"),
            ("COMPRESSION", "gzip", "none"),
            ("CERTIFICATE", "a.pem", "b.pem"),
            ("CLIENT_CERTIFICATE", "c.pem", "d.pem"),
            ("CLIENT_KEY", "e.pem", "f.pem"),
        ]
        for kind, value in [("", general), ("TRACES_", own)]
    }
    found = collector_from({**HERE, **both})
    assert found == Collector(
        "http://127.0.0.1:4318/v1/traces",
        {"b": "2"},
        2.5,
        False,
        "b.pem",
        client_certificate="d.pem",
        client_key="f.pem",
    )
    general = {name: value for name, value in both.items() if "TRACES_" not in name}
    assert collector_from({**HERE, **general}).gzip
    empty = dict.fromkeys((name for name in both if "TRACES_" in name), "")
    assert collector_from({**HERE, **general, **empty}) == collector_from({**HERE, **general}), "empty is not set"


@pytest.mark.parametrize(
    ("text", "headers"),
    [
        ("", {}),
        ("x-mlflow-experiment-id=0", {"x-mlflow-experiment-id": "0"}),
        ("Authorization=Basic%20YTpi%3D, X-Org = ann%2Cbob ,", {"authorization": "Basic YTpi=", "x-org": "ann,bob"}),
        ("authorization=Basic YTpi==", {"authorization": "Basic YTpi=="}),
        ("a=%0d%0aevil: 1,b c=2,good=%C3%A4", {"good": "ä"}),
    ],
)
def test_headers_are_pairs_by_comma_percent_encoded_where_they_must_be(text, headers):
    assert headers_from(text) == headers


def test_what_is_no_pair_is_left_out_and_told_without_its_text():
    with capture_logs() as lines:
        assert headers_from("a=1,my secret,=2") == {"a": "1"}
    assert [line["item"] for line in lines] == [2, 3]
    assert "secret" not in str(lines)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "an address like"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:port", "OTEL_EXPORTER_OTLP_ENDPOINT=http://c:port: an address"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "grpc://c:4317", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=grpc"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "known are gzip, none"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "10s", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT=10s: a whole number from 1"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "OTEL_BSP_MAX_QUEUE_SIZE=0: a whole number from 1"),
        ("OTEL_BSP_SCHEDULE_DELAY", "soon", "OTEL_BSP_SCHEDULE_DELAY=soon"),
    ],
)
def test_what_is_wrong_is_said_with_what_is_right(name, value, says):
    with pytest.raises(SettingsError, match=says):
        collector_from({**HERE, name: value}), batching_from({name: value})


@pytest.mark.parametrize(
    ("variables", "batching"),
    [
        ({}, Batching(5.0, 2048, 512)),
        ({"OTEL_BSP_SCHEDULE_DELAY": "20"}, Batching(0.02, 2048, 512)),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "100"}, Batching(5.0, 100, 100)),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "100", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "200"}, Batching(5.0, 100, 100)),
        ({"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "7"}, Batching(5.0, 2048, 7)),
    ],
)
def test_batches_are_no_larger_than_the_queue(variables, batching):
    assert batching_from(variables) == batching


def test_what_is_said_of_the_process_is_the_users_to_change():
    own = {"service.name": "gateway", "service.version": "1"}
    assert resource_from({}, own) == own
    more = {"OTEL_RESOURCE_ATTRIBUTES": "host.name=spark%201, service.name=other,deployment.environment.name=test"}
    assert resource_from(more, own) == {
        "service.name": "other",
        "service.version": "1",
        "host.name": "spark 1",
        "deployment.environment.name": "test",
    }
    assert resource_from({**more, "OTEL_SERVICE_NAME": "mine"}, own)["service.name"] == "mine"
