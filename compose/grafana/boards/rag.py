"""Answers from documents, and the embeddings under them."""

from compose.grafana.panels import Dashboard, Panel, Row, quantiles

BOARD = Dashboard(
    "rag",
    "RAG and embeddings",
    "Answers from documents, what each step of a retrieval takes, what is read in, and the queue of embeddings.",
    [
        Row(
            "Answers",
            [
                Panel(
                    "Answers by outcome",
                    {"{{outcome}}": "sum by (outcome) (rate(rag_answers_total[$__rate_interval]))"},
                    "Those that are not in the documents are said so by scores, without asking the model.",
                    unit="reqps",
                    stacked=True,
                ),
                Panel(
                    "Failed",
                    {"failed": "rag:answers_failed:ratio_rate15m"},
                    "Share of the last quarter of an hour. The line is where RagAnswersFail begins.",
                    unit="percentunit",
                    steps=((None, "green"), (0.1, "red")),
                ),
                Panel(
                    "Cache hits",
                    {
                        "{{kind}}": 'sum by (kind) (rate(rag_cache_total{result="hit"}[$__rate_interval])) '
                        "/ sum by (kind) (rate(rag_cache_total[$__rate_interval]))"
                    },
                    "Share of the look-ups in each cache.",
                    unit="percentunit",
                    most=1,
                ),
            ],
        ),
        Row(
            "Retrieval",
            [
                Panel(
                    "Steps, 95 %",
                    {"{{step}}": "step:rag_retrieval_seconds:p95_5m"},
                    "Time of each step of a retrieval.",
                    unit="s",
                    width=12,
                ),
                Panel(
                    "Steps, time in all",
                    {"{{step}}": "sum by (step) (rate(rag_retrieval_step_seconds_sum[$__rate_interval]))"},
                    "Seconds spent a second: what a faster step would save.",
                    width=12,
                    stacked=True,
                ),
            ],
        ),
        Row(
            "Ingest",
            [
                Panel(
                    "Documents by outcome",
                    {"{{outcome}}": "sum by (outcome) (increase(rag_ingest_documents_total[$__rate_interval]))"},
                    "`sparkstack rag show` has the reason of each that failed.",
                    stacked=True,
                ),
                Panel("Waiting", {"documents": "rag_ingest_queue"}, "Documents that wait for their ingest."),
                Panel(
                    "Chunks written",
                    {"a second": "rate(rag_ingest_chunks_total[$__rate_interval])"},
                    "Into the vector store.",
                ),
            ],
        ),
        Row(
            "Embeddings",
            [
                Panel(
                    "Queue",
                    {"{{model}}": "embeddings_queue_tokens"},
                    "Tokens of requests that wait or are computed.",
                ),
                Panel(
                    "Wait and compute, 95 %",
                    {
                        **quantiles("embeddings_queue_seconds", "model", "", 0.95),
                        "compute {{model}}": "histogram_quantile(0.95, sum by (model, le) "
                        "(rate(embeddings_compute_seconds_bucket[$__rate_interval])))",
                    },
                    "What a request waits before its first batch, and what a batch takes.",
                    unit="s",
                ),
                Panel(
                    "Texts in a batch",
                    {
                        "{{model}}": "sum by (model) (rate(embeddings_batch_size_sum[$__rate_interval])) "
                        "/ sum by (model) (rate(embeddings_batch_size_count[$__rate_interval]))"
                    },
                    "The mean. Near 1 under load: requests come one by one.",
                ),
                Panel(
                    "Turned away and dropped",
                    {
                        "turned away {{model}}": "rate(embeddings_rejected_total[$__rate_interval])",
                        "dropped {{model}}": "rate(embeddings_dropped_total[$__rate_interval])",
                    },
                    "Refused because the queue was full; not computed because the client had left.",
                ),
                Panel(
                    "Models in memory",
                    {"{{model}}": "embeddings_model_loaded"},
                    "1: loaded.",
                    kind="stat",
                ),
            ],
        ),
    ],
)
