"""Tokens, seconds, joules and money by key and model."""

from compose.grafana.panels import Dashboard, Panel, Row, Variable

_OF_COST = 'key=~"$key", model=~"$model"'


def _day(metric: str, by: str) -> str:
    return f"sum by ({by}) (increase({metric}{{{_OF_COST}}}[1d]))"


BOARD = Dashboard(
    "cost",
    "Cost",
    "Tokens, seconds, joules and money by key and model. Money is by your own tariff, joules where power can be read.",
    [
        Row(
            "The last day",
            [
                Panel(
                    "Money by key",
                    {"{{key}} {{currency}}": _day("tracking_cost_money_total", "key, currency")},
                    "By the tariff of services/tracking; empty without one.",
                    kind="bargauge",
                ),
                Panel(
                    "Tokens by key",
                    {"{{key}} {{type}}": _day("tracking_cost_tokens_total", "key, type")},
                    "Each billed once.",
                    kind="bargauge",
                ),
                Panel(
                    "Energy by model",
                    {"{{model}}": _day("tracking_cost_joules_total", "model")},
                    "Of requests: the power that was read while they ran, shared among them.",
                    unit="joule",
                    kind="bargauge",
                ),
            ],
        ),
        Row(
            "Over time",
            [
                Panel(
                    "Tokens by model",
                    {
                        "{{model}} {{type}}": "sum by (model, type) "
                        f"(rate(tracking_cost_tokens_total{{{_OF_COST}}}[$__rate_interval]))"
                    },
                    "A second.",
                    stacked=True,
                ),
                Panel(
                    "Requests by key",
                    {"{{key}}": f"sum by (key) (rate(tracking_cost_requests_total{{{_OF_COST}}}[$__rate_interval]))"},
                    "From outside: inner calls of RAG are not counted again.",
                    unit="reqps",
                    stacked=True,
                ),
                Panel(
                    "Answering, by model",
                    {
                        "{{model}}": "sum by (model) "
                        f"(rate(tracking_cost_seconds_total{{{_OF_COST}}}[$__rate_interval]))"
                    },
                    "Seconds a second: how many answers are under way on average.",
                    stacked=True,
                ),
            ],
        ),
        Row(
            "Energy",
            [
                Panel(
                    "Power",
                    {"measured": "rate(tracking_energy_joules_total[$__rate_interval])"},
                    "Of the counters that are read; nothing where this machine shows none.",
                    unit="watt",
                ),
                Panel(
                    "Counters that are read",
                    {"sources": "tracking_power_sources"},
                    "0: this machine shows no energy, and joules stay 0.",
                    kind="stat",
                    width=4,
                    steps=((None, "orange"), (1, "green")),
                ),
                Panel(
                    "Joules a generated token",
                    {
                        "{{model}}": f"sum by (model) (rate(tracking_cost_joules_total{{{_OF_COST}}}[1h])) / "
                        f'sum by (model) (rate(tracking_cost_tokens_total{{{_OF_COST}, type="output"}}[1h]))'
                    },
                    "Over an hour, idle time not shared out.",
                    unit="joule",
                    width=12,
                ),
            ],
        ),
    ],
    [
        Variable("key", "tracking_cost_requests_total", "key"),
        Variable("model", "tracking_cost_requests_total", "model"),
    ],
    span="24h",
)
