"""Drift as a part of the tracking service: what the app starts, stops and mounts."""

from typing import Annotated

from fastapi import Depends, Request
from prometheus_client import CollectorRegistry

from services.tracking.drift.embedder import HttpEmbedder
from services.tracking.drift.metrics import DriftMetrics
from services.tracking.drift.monitor import Embedder, Monitor
from services.tracking.drift.reports import Reports
from services.tracking.settings import TrackingSettings
from services.tracking.store import Store


class Drift:
    """The monitor, its reports and its metrics.

    Args:
        embedder: None: that of the settings, where they name one.
        reports: None: made by Evidently in this environment's Python.
    """

    def __init__(
        self,
        store: Store,
        settings: TrackingSettings,
        registry: CollectorRegistry,
        embedder: Embedder | None = None,
        reports: Reports | None = None,
    ) -> None:
        if embedder is None and settings.embeddings_url:
            embedder = HttpEmbedder(settings.embeddings_url, settings.embeddings_key)
        self.measures_meaning = embedder is not None
        self.monitor = Monitor(store, settings, embedder)
        self.reports = reports or Reports(settings.folder)
        DriftMetrics(registry, self.monitor.state)

    async def open(self) -> None:
        """Begin to look."""
        await self.monitor.start()

    async def close(self) -> None:
        """End what is under way."""
        await self.monitor.stop()
        await self.reports.stop()


def drift_of(request: Request) -> Drift:
    """Return the app's drift."""
    drift: Drift = request.app.state.drift
    return drift


DriftOf = Annotated[Drift, Depends(drift_of)]
"""A route's parameter: the monitor and its reports."""
