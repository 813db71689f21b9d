"""What the RAG service counts of itself. Labels are closed sets."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_STEP_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.5, 5, 10)


class RagMetrics:
    """The counters of ingest, retrieval, answers and caches.

    `step` is the name of a step of the retrieval pipeline; `outcome` of an answer and of a document, `kind` and
    `result` of a cache are what the code that counts names.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.ingest_documents = Counter(
            "rag_ingest_documents",
            "Documents whose ingest has ended: ready, failed, cancelled, unchanged, deleted.",
            ["outcome"],
            registry=registry,
        )
        self.ingest_chunks = Counter("rag_ingest_chunks", "Chunks written to the vector store.", registry=registry)
        self.ingest_queue = Gauge("rag_ingest_queue", "Documents that wait for their ingest.", registry=registry)
        self.retrieval_step = Histogram(
            "rag_retrieval_step_seconds",
            "Time of one step of a retrieval.",
            ["step"],
            buckets=_STEP_BUCKETS_S,
            registry=registry,
        )
        self.answers = Counter("rag_answers", "Answers by outcome.", ["outcome"], registry=registry)
        self.cache = Counter("rag_cache", "Look-ups in a cache by result.", ["kind", "result"], registry=registry)
