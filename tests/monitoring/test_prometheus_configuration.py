"""Prometheus is told of every service that has figures, on loopback and by the names of containers."""

import json

import pytest
import yaml

from compose.prometheus import render
from services.stack import SERVICES

# MLflow has no figures of its own to show.
WITH_FIGURES = {service.name for service in SERVICES} - {"mlflow"}


def jobs(text: str) -> dict[str, dict]:
    return {job["job_name"]: job for job in yaml.safe_load(text)["scrape_configs"]}


def targets(job: dict) -> list[str]:
    return [target for group in job["static_configs"] for target in group["targets"]]


@pytest.mark.parametrize("way", render.WAYS)
def test_the_file_of_the_tree_is_what_the_template_gives(way):
    assert render.path_of(way).read_text() == render.of_way(way), "run: python -m compose.prometheus.render"


def test_every_service_of_the_table_is_scraped_where_it_listens():
    assert set(render.SCRAPED) == WITH_FIGURES
    found = jobs(render.of_way("embedded"))
    for service in SERVICES:
        if service.name in WITH_FIGURES:
            assert targets(found[service.name]) == [f"127.0.0.1:{service.port}"]


def test_in_compose_they_have_the_services_names_and_the_gateway_its_key():
    found = jobs(render.of_way("compose"))
    assert targets(found["gateway"]) == ["gateway:8000"]
    assert found["gateway"]["authorization"] == {"credentials_file": "/run/secrets/sparkstack_api_key"}
    assert "authorization" not in jobs(render.of_way("embedded"))["gateway"]


def test_exporters_of_the_host_are_looked_for_in_compose_alone():
    found = jobs(render.of_way("compose"))
    names = [name for job in ("node", "dcgm") for each in found[job]["dns_sd_configs"] for name in each["names"]]
    assert names == ["node-exporter", "dcgm-exporter"]
    assert {"node", "dcgm"}.isdisjoint(jobs(render.of_way("embedded")))


def test_the_engines_own_servers_are_asked_for_where_the_engines_service_is():
    for way, host in (("embedded", "127.0.0.1"), ("compose", "engines")):
        (discovery,) = jobs(render.of_way(way))["engine-servers"]["http_sd_configs"]
        assert discovery["url"] == f"http://{host}:8010/prometheus/targets"


def test_a_stack_with_other_ports_and_without_a_service_is_followed(tmp_path, capsys):
    services = {"gateway": {"host": "0.0.0.0", "port": 9123}, "engines": {"host": "127.0.0.1", "port": 9124}}
    path = tmp_path / "stack.json"
    path.write_text(json.dumps({"model": "x", "services": services}))
    assert render.main(["--stack", str(path)]) == 0
    text = capsys.readouterr().out
    found = jobs(text)
    assert targets(found["gateway"]) == ["127.0.0.1:9123"]
    assert found["engine-servers"]["http_sd_configs"][0]["url"] == "http://127.0.0.1:9124/prometheus/targets"
    assert targets(found["tracking"]) == targets(found["rag"]) == []
    assert yaml.safe_load(text)["rule_files"] == [f"{render.RULES}/*.yml"]


def test_a_gateway_on_an_address_of_its_own_is_asked_there_with_its_key(tmp_path, capsys):
    path = tmp_path / "stack.json"
    path.write_text(json.dumps({"services": {"gateway": {"host": "192.0.2.7", "port": 8000}}}))
    assert render.main(["--stack", str(path), "--key-file", "/etc/key"]) == 0
    gateway = jobs(capsys.readouterr().out)["gateway"]
    assert targets(gateway) == ["192.0.2.7:8000"]
    assert gateway["authorization"] == {"credentials_file": "/etc/key"}
