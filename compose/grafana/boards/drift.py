"""Sampled requests beside a reference, and all requests beside those of a day and of a week before."""

from compose.grafana.panels import Dashboard, Panel, Row, Variable

_MODELS = Variable("model", "model:gen_ai_client_tokens:mean1h", "gen_ai_request_model")
_OF_MODEL = 'gen_ai_request_model=~"$model"'

BOARD = Dashboard(
    "drift",
    "Drift of the traffic",
    "Is it getting other, or worse: windows of sampled requests beside the reference, and all requests beside those of "
    "a day and of a week before.",
    [
        Row(
            "Sampled requests against the reference",
            [
                Panel(
                    "Score by signal",
                    {"{{signal}}": "max by (signal) (tracking_drift_score)"},
                    "Of the last full window: 0 as the reference, 1 apart. A score without an alarm is within chance.",
                    width=12,
                    most=1,
                ),
                Panel(
                    "Alarms",
                    {"{{signal}}": "max by (signal) (tracking_drift_alarm) == 1"},
                    "Signals in which the last window is called changed: docs/runbooks/drift-found.md.",
                    kind="table",
                    width=6,
                ),
                Panel(
                    "Watched",
                    {"windows are compared": "tracking_drift_up"},
                    "0: something keeps windows from being compared; docs/runbooks/drift-unwatched.md.",
                    kind="stat",
                    width=3,
                    steps=((None, "red"), (1, "green")),
                ),
                Panel(
                    "Reference",
                    {"requests": "tracking_drift_reference_records"},
                    "Requests in the reference that is in use.",
                    kind="stat",
                    width=3,
                ),
                Panel(
                    "Windows",
                    {
                        "full": "increase(tracking_windows_total[1h])",
                        "of these changed": "increase(tracking_windows_alarmed_total[1h])",
                    },
                    "In the hour before each moment.",
                    width=12,
                ),
                Panel(
                    "The window that fills",
                    {"requests": "tracking_window_records"},
                    "It is compared when it has TRACKING_WINDOW_RECORDS requests.",
                    width=12,
                ),
            ],
        ),
        Row(
            "Lengths",
            [
                Panel(
                    f"Mean {what} tokens",
                    {
                        "now {{gen_ai_request_model}}": _mean,
                        "a day ago {{gen_ai_request_model}}": f"{_mean} offset 1d",
                        "a week ago {{gen_ai_request_model}}": f"{_mean} offset 1w",
                    },
                    f"Of the {what}s of the hour before each moment. A step that no change of yours explains is drift.",
                    width=12,
                )
                for what, _mean in (
                    ("prompt", f'model:gen_ai_client_tokens:mean1h{{{_OF_MODEL}, gen_ai_token_type="input"}}'),
                    ("answer", f'model:gen_ai_client_tokens:mean1h{{{_OF_MODEL}, gen_ai_token_type="output"}}'),
                )
            ],
        ),
        Row(
            "Speed and failures",
            [
                Panel(
                    "Time to first token, 95 %",
                    {
                        "now {{gen_ai_request_model}}": f"model:ttft_seconds:p95_5m{{{_OF_MODEL}}}",
                        "a day ago {{gen_ai_request_model}}": f"model:ttft_seconds:p95_5m{{{_OF_MODEL}}} offset 1d",
                    },
                    "Longer prompts show here, too.",
                    unit="s",
                ),
                Panel(
                    "Time per output token, 95 %",
                    {
                        "now {{gen_ai_request_model}}": f"model:itl_seconds:p95_5m{{{_OF_MODEL}}}",
                        "a day ago {{gen_ai_request_model}}": f"model:itl_seconds:p95_5m{{{_OF_MODEL}}} offset 1d",
                    },
                    "Of streams, after their first token.",
                    unit="s",
                ),
                Panel(
                    "Failed answers",
                    {
                        "now {{gen_ai_request_model}}": f"model:gateway_exchanges_failed:ratio_rate5m{{{_OF_MODEL}}}",
                        "a day ago {{gen_ai_request_model}}": (
                            f"model:gateway_exchanges_failed:ratio_rate5m{{{_OF_MODEL}}} offset 1d"
                        ),
                    },
                    "Share of each model's answers.",
                    unit="percentunit",
                ),
            ],
        ),
        Row(
            "What people say, what is recorded",
            [
                Panel(
                    "Feedback",
                    {"{{source}}": "sum by (source) (increase(tracking_feedback_total[$__rate_interval]))"},
                    "Stored scores and comments, by where they came from.",
                    stacked=True,
                ),
                Panel(
                    "Records",
                    {
                        "{{outcome}}": "sum by (outcome) (rate(tracking_records_total[$__rate_interval]))",
                        "dropped at the gateway": "rate(gateway_records_dropped_total[$__rate_interval])",
                        "without their text": "rate(gateway_record_texts_dropped_total[$__rate_interval])",
                    },
                    "What became of the records of requests. Whatever is dropped, drift is not seen in.",
                ),
                Panel(
                    "Records that wait",
                    {
                        "to be sent": "gateway_records_waiting",
                        "to be stored": "tracking_queue_records",
                        "at most to be stored": "tracking_queue_limit_records",
                    },
                    "Beyond the limits they are dropped: nothing waits for tracking.",
                ),
                Panel(
                    "Store",
                    {"up": "tracking_store_up"},
                    "1: records can be written.",
                    kind="stat",
                    width=4,
                    steps=((None, "red"), (1, "green")),
                ),
                Panel(
                    "Failed writes",
                    {"a second": "rate(tracking_store_failures_total[$__rate_interval])"},
                    "Attempts to write that failed; they are made again.",
                ),
            ],
        ),
    ],
    [_MODELS],
    span="7d",
)
