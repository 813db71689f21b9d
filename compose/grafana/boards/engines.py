"""The engines: what they do, and where the machine's one memory is."""

from compose.grafana.panels import Dashboard, Panel, Row, Variable, quantiles

_ENGINES = Variable("model", "engine_state", "model")
_OF_ENGINE = 'model=~"$model"'

BOARD = Dashboard(
    "engines",
    "Engines and unified memory",
    "What engines do, and what they hold. On a Spark CPU and GPU share one memory: the host's figures are the GPU's.",
    [
        Row(
            "Unified memory",
            [
                Panel(
                    "Where the machine's memory is",
                    {
                        "engines (their processes)": "sum(engine_rss_bytes)",
                        "elsewhere (GPU driver, other programs)": "host:memory_elsewhere:bytes",
                        "available": "host_memory_available_bytes",
                    },
                    "Parts of the whole. What a GPU driver holds for an engine is in none of its processes: it shows "
                    "as `elsewhere`. Pages that engines share count in each of them, so the sum can pass the total.",
                    unit="bytes",
                    width=12,
                    height=9,
                    stacked=True,
                ),
                Panel(
                    "Available",
                    {"available": "host:memory_available:ratio"},
                    "Loads leave a reserve of 8 %; at half of it the load guard ends the engine that loads.",
                    unit="percentunit",
                    kind="stat",
                    width=4,
                    height=9,
                    steps=((None, "red"), (0.04, "orange"), (0.08, "green")),
                    most=1,
                ),
                Panel(
                    "Free, and the page cache in its way",
                    {
                        "free": "host_memory_free_bytes",
                        "page cache": "host_memory_page_cache_bytes",
                        "largest free block": "host_memory_largest_free_block_bytes",
                    },
                    "A GPU driver takes what is free, and sees the page cache as taken: docs/runbooks/spark-guard.md.",
                    unit="bytes",
                    height=9,
                ),
                Panel(
                    "Memory by engine",
                    {"{{model}} ({{engine}})": f"engine_rss_bytes{{{_OF_ENGINE}}}"},
                    "Resident memory of each engine's processes.",
                    unit="bytes",
                    width=12,
                ),
                Panel(
                    "Pages read from disk",
                    {"a second": "rate(host_major_faults_total[$__rate_interval])"},
                    "Many with little memory left: programs push each other's pages out.",
                    width=12,
                ),
            ],
        ),
        Row(
            "State",
            [
                Panel(
                    "State",
                    {"{{model}}: {{state}}": f"max by (model, state) (engine_state{{{_OF_ENGINE}}}) == 1"},
                    "As judged by what moves, not by /health: docs/engine-health.md.",
                    kind="table",
                ),
                Panel(
                    "On the GPU",
                    {"{{model}} ({{engine}})": f"engine_on_gpu{{{_OF_ENGINE}}}"},
                    "0 on a machine with a GPU: the engine fell back to the CPU.",
                    kind="stat",
                    width=4,
                    steps=((None, "orange"), (1, "green")),
                ),
                Panel(
                    "Loads, refusals, crashes",
                    {
                        "loads {{outcome}}": "sum by (outcome) (increase(engines_loads_total[$__rate_interval]))",
                        "unloads": "sum(increase(engines_unloads_total[$__rate_interval]))",
                        "refused": "sum(increase(engines_refusals_total[$__rate_interval]))",
                        "crashes": "sum(increase(engines_crashes_total[$__rate_interval]))",
                    },
                    "Decisions of the engines service. Loads and unloads in turn: models thrash.",
                    width=12,
                ),
            ],
        ),
        Row(
            "Work",
            [
                Panel(
                    "Running and waiting",
                    {
                        "running {{model}}": f"engine_requests_running{{{_OF_ENGINE}}}",
                        "waiting {{model}}": f"engine_requests_waiting{{{_OF_ENGINE}}}",
                    },
                    "As the engine says.",
                ),
                Panel(
                    "Generated tokens",
                    {"{{model}}": f"rate(engine_generation_tokens_total{{{_OF_ENGINE}}}[$__rate_interval])"},
                    "A second, over all its requests. llama.cpp counts an answer's when it has ended.",
                ),
                Panel(
                    "Prompt tokens",
                    {"{{model}}": f"rate(engine_prompt_tokens_total{{{_OF_ENGINE}}}[$__rate_interval])"},
                    "Read a second; what a prefix cache spared is not in it.",
                ),
                Panel(
                    "KV cache in use",
                    {"{{model}}": f"engine_kv_cache_usage_ratio{{{_OF_ENGINE}}}"},
                    "llama.cpp does not tell. The line is where KvCacheFull begins.",
                    unit="percentunit",
                    steps=((None, "green"), (0.95, "red")),
                    most=1,
                ),
                Panel(
                    "The engine's own time to first token",
                    quantiles("engine_time_to_first_token_seconds", "model", _OF_ENGINE, 0.95),
                    "Without the gateway's wait for a load: the difference to the gateway's is queue and load.",
                    unit="s",
                ),
                Panel(
                    "The engine's own inter-token latency",
                    quantiles("engine_inter_token_latency_seconds", "model", _OF_ENGINE, 0.5, 0.95),
                    "Between two tokens of one stream.",
                    unit="s",
                ),
            ],
        ),
    ],
    [_ENGINES],
)
