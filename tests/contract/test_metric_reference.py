"""The reference of the engines' metrics is complete, and what the health page says of its limits is so."""

import dataclasses
from pathlib import Path

import pytest

from docs import generate_metrics
from services.engines.watching.health import STATES, HealthLimits
from services.engines.watching.watchdog import WatchdogLimits

HEALTH = Path(generate_metrics.__file__).with_name("engine-health.md").read_text()
EXPORTED = {generate_metrics.full_name(family) for family in generate_metrics.families()}


def test_the_reference_is_up_to_date():
    assert generate_metrics.TARGET.read_text() == generate_metrics.reference(), "run: python -m docs.generate_metrics"


def test_every_metric_is_in_it_and_says_what_it_is():
    text = generate_metrics.TARGET.read_text()
    for family in generate_metrics.families():
        name = generate_metrics.full_name(family)
        assert f"| `{name}` | {family.type} |" in text
        assert family.documentation.endswith(".")


def test_the_metrics_that_dashboards_count_on_are_exported():
    assert {
        "engine_requests_running",
        "engine_requests_waiting",
        "engine_kv_cache_usage_ratio",
        "engine_prompt_tokens_total",
        "engine_generation_tokens_total",
        "engine_time_to_first_token_seconds",
        "engine_inter_token_latency_seconds",
        "engine_state",
        "engine_rss_bytes",
        "host_memory_total_bytes",
        "host_memory_free_bytes",
        "host_memory_available_bytes",
        "host_memory_page_cache_bytes",
        "host_memory_largest_free_block_bytes",
        "host_major_faults_total",
    } <= EXPORTED


@pytest.mark.parametrize(
    "name",
    [
        "engines_loads_total",
        "engines_unloads_total",
        "engines_crashes_total",
        "engines_refusals_total",
        "gateway_held_requests",
        "gateway_lease_events_total",
        "gateway_load_wait_seconds",
        "gen_ai_server_time_to_first_token_seconds",
    ],
)
def test_the_reference_has_what_the_services_count_themselves(name):
    assert f"| `{name}` |" in generate_metrics.TARGET.read_text()


@pytest.mark.parametrize("limits", [HealthLimits(), WatchdogLimits()], ids=["health", "watchdog"])
def test_the_health_page_has_every_limit_with_its_value(limits):
    for field in dataclasses.fields(limits):
        value = getattr(limits, field.name)
        shown = ", ".join(f"{each:g}" for each in value) if isinstance(value, tuple) else f"{value:g}"
        shown = str(value).lower() if isinstance(value, bool) else shown
        assert f"| `{field.name}` | {shown} |" in HEALTH


@pytest.mark.parametrize("state", STATES)
def test_the_health_page_has_every_state(state):
    assert f"| **{state}** |" in HEALTH
