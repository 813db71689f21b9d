"""Prometheus metrics that every service has, and how they are served."""

from prometheus_client import CollectorRegistry, Counter, GCCollector, Histogram, PlatformCollector
from prometheus_client import ProcessCollector as _ProcessCollector
from prometheus_client.exposition import generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

LATENCY_BUCKETS_S = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
    120,
    300,
    600,
)


class HttpMetrics:
    """Requests by method, route template and status. Labels are closed sets: templates, never paths."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "http_requests", "Requests answered.", ["method", "route", "status"], registry=registry
        )
        self._duration = Histogram(
            "http_request_duration_seconds",
            "From the request's head to the last byte of the answer.",
            ["method", "route"],
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request. Label lookups are kept: they cost more than the counting."""
        child = self._children.get((method, route, status))
        if child is None:
            if method not in _METHODS:
                method = "OTHER"
            child = (
                self._requests.labels(method, route, str(status)),
                self._duration.labels(method, route),
            )
            self._children[method, route, status] = child
        child[0].inc()
        child[1].observe(seconds)


_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


def new_registry() -> CollectorRegistry:
    """Return a registry with the process's own metrics in it. One an app: tests run many side by side."""
    registry = CollectorRegistry()
    _ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def render(registry: CollectorRegistry) -> bytes:
    """Return the registry in Prometheus' text format."""
    return generate_latest(registry)
