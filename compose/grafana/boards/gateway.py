"""The gateway: does it answer, how fast, how often not."""

from compose.grafana.panels import Dashboard, Panel, Row, Variable, quantiles

_MODELS = Variable("model", "gateway_exchanges_total", "gen_ai_request_model")
_OF_MODEL = 'gen_ai_request_model=~"$model"'

BOARD = Dashboard(
    "gateway",
    "Gateway",
    "Does it answer, how fast, how often not. Times are the client's: from the request, its wait for a load included.",
    [
        Row(
            "Now",
            [
                Panel(
                    "Requests in flight",
                    {"in flight": "gateway_requests_in_flight"},
                    "Being relayed at this moment.",
                    kind="stat",
                    width=4,
                    height=4,
                ),
                Panel(
                    "Held for a load",
                    {"held": "gateway_held_requests"},
                    "They wait for their model; minutes of this are RequestsHeld.",
                    kind="stat",
                    width=4,
                    height=4,
                    steps=((None, "green"), (1, "orange")),
                ),
                Panel(
                    "Failed",
                    {
                        "failed": 'sum(rate(gateway_exchanges_total{outcome="failed"}[5m])) '
                        "/ (sum(rate(gateway_exchanges_total[5m])) > 0)"
                    },
                    "Share of the answers of the last five minutes. What a client left is not in it.",
                    unit="percentunit",
                    kind="stat",
                    width=4,
                    height=4,
                    steps=((None, "green"), (0.01, "orange"), (0.05, "red")),
                ),
                Panel(
                    "Services",
                    {"{{job}}": 'up{job=~"gateway|engines|embeddings|rag|tracking"}'},
                    "1: its figures could be read.",
                    kind="stat",
                    width=6,
                    height=4,
                    steps=((None, "red"), (1, "green")),
                ),
                Panel(
                    "Backends",
                    {"{{backend}}": "gateway_backend_up"},
                    "1: it answered the gateway's last discovery.",
                    kind="stat",
                    width=6,
                    height=4,
                    steps=((None, "red"), (1, "green")),
                ),
            ],
        ),
        Row(
            "Traffic",
            [
                Panel(
                    "Requests by model",
                    {
                        "{{gen_ai_request_model}}": "sum by (gen_ai_request_model) "
                        f"(rate(gateway_exchanges_total{{{_OF_MODEL}}}[$__rate_interval]))"
                    },
                    "Relayed to an engine or a service, a second.",
                    unit="reqps",
                ),
                Panel(
                    "Requests by outcome",
                    {
                        "{{outcome}}": "sum by (outcome) "
                        f"(rate(gateway_exchanges_total{{{_OF_MODEL}}}[$__rate_interval]))"
                    },
                    "ok, failed, or cancelled by a client that left.",
                    unit="reqps",
                    stacked=True,
                ),
                Panel(
                    "Tokens",
                    {
                        "{{gen_ai_token_type}}": "sum by (gen_ai_token_type) "
                        f"(rate(gen_ai_client_token_usage_sum{{{_OF_MODEL}}}[$__rate_interval]))"
                    },
                    "A second, as billed: inner calls of RAG count once.",
                    stacked=True,
                ),
            ],
        ),
        Row(
            "Latency",
            [
                Panel(
                    "Time to first token",
                    quantiles(
                        "gen_ai_server_time_to_first_token_seconds", "gen_ai_request_model", _OF_MODEL, 0.5, 0.95
                    ),
                    "Of streams: from the request to the first content. The line is where FirstTokenSlow begins.",
                    unit="s",
                    steps=((None, "green"), (10, "red")),
                ),
                Panel(
                    "Time per output token",
                    quantiles(
                        "gen_ai_server_time_per_output_token_seconds", "gen_ai_request_model", _OF_MODEL, 0.5, 0.95
                    ),
                    "Mean of each stream after its first token. 50 ms is 20 tokens a second.",
                    unit="s",
                ),
                Panel(
                    "Whole answer",
                    quantiles("gen_ai_server_request_duration_seconds", "gen_ai_request_model", _OF_MODEL, 0.5, 0.95),
                    "From the request to the end of the answer.",
                    unit="s",
                ),
            ],
        ),
        Row(
            "Underneath",
            [
                Panel(
                    "Waiting for loads",
                    quantiles("gateway_load_wait_seconds", "outcome", _OF_MODEL, 0.95),
                    "How long requests were held, by how that ended.",
                    unit="s",
                ),
                Panel(
                    "Leases",
                    {
                        "{{event}}": "sum by (event) (rate(gateway_lease_events_total[$__rate_interval]))",
                        "alive": "gateway_leases",
                    },
                    "What happened to leases on engines, a second; and how many are alive. `lost`: an engine is gone.",
                ),
                Panel(
                    "5xx by service",
                    {"{{job}}": "job:http_requests_5xx:ratio_rate5m"},
                    "Share of each service's own answers. The line is where ServiceFails begins.",
                    unit="percentunit",
                    steps=((None, "green"), (0.05, "red")),
                ),
                Panel(
                    "Where token counts come from",
                    {"{{source}}": "sum by (source) (rate(gateway_usage_source_total[$__rate_interval]))"},
                    "The engine's own, its tokenizer's afterwards, or an estimate: the last should be rare.",
                    stacked=True,
                ),
                Panel(
                    "Service latency, 95 %",
                    {"{{job}}": "job:http_request_duration_seconds:p95_5m"},
                    "Of every route of each service, streams to their end.",
                    unit="s",
                ),
                Panel(
                    "Alerts that fire",
                    {"{{alertname}} {{severity}}": 'sum by (alertname, severity) (ALERTS{alertstate="firing"})'},
                    "Each has a page in docs/runbooks.",
                    kind="table",
                ),
            ],
        ),
    ],
    [_MODELS],
)
