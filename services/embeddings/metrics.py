"""What the service counts, by model. Labels are the ids of the catalogue."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_MODEL = ["model"]
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class EmbeddingsMetrics:
    """Batches, the queue before them, and what was turned away or dropped."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.batch_size = Histogram(
            "embeddings_batch_size",
            "Texts computed together.",
            _MODEL,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=registry,
        )
        self.batch_tokens = Histogram(
            "embeddings_batch_tokens",
            "Tokens computed together, padding included.",
            _MODEL,
            buckets=(16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 65536),
            registry=registry,
        )
        self.queue_tokens = Gauge(
            "embeddings_queue_tokens", "Tokens of requests that wait or are being computed.", _MODEL, registry=registry
        )
        self.queue_seconds = Histogram(
            "embeddings_queue_seconds",
            "How long a request waited for its first batch, a model's loading included.",
            _MODEL,
            buckets=_SECONDS,
            registry=registry,
        )
        self.compute_seconds = Histogram(
            "embeddings_compute_seconds", "How long one batch took.", _MODEL, buckets=_SECONDS, registry=registry
        )
        self.rejected = Counter(
            "embeddings_rejected", "Requests refused at the door: the queue was full.", _MODEL, registry=registry
        )
        self.dropped = Counter(
            "embeddings_dropped", "Texts that were not computed: their client had left.", _MODEL, registry=registry
        )
        self.loaded = Gauge("embeddings_model_loaded", "1 where the model is in memory.", _MODEL, registry=registry)
