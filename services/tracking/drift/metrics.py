"""What Prometheus is told of drift: the last window's scores and alarms."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.tracking.drift.state import DriftState


class DriftMetrics(Collector):
    """Read from the monitor's state when Prometheus asks. A signal that a window has too little of has no value."""

    def __init__(self, registry: CollectorRegistry, state: DriftState) -> None:
        self._state = state
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Return what stands now."""
        state = self._state
        score = GaugeMetricFamily(
            "tracking_drift_score", "The last window against the reference; 0: the same, 1: apart.", labels=["signal"]
        )
        alarm = GaugeMetricFamily(
            "tracking_drift_alarm", "1 where the last window is called changed.", labels=["signal"]
        )
        for finding in state.findings:
            score.add_metric([finding["signal"]], finding["score"])
            alarm.add_metric([finding["signal"]], float(finding["alarm"]))
        yield from (score, alarm)
        whole = CounterMetricFamily("tracking_windows", "Windows that were full since the start.")
        whole.add_metric([], state.windows)
        alarmed = CounterMetricFamily("tracking_windows_alarmed", "Windows that were called changed since the start.")
        alarmed.add_metric([], state.alarmed)
        members = GaugeMetricFamily("tracking_drift_reference_records", "Requests in the reference that is in use.")
        members.add_metric([], state.reference_records)
        filling = GaugeMetricFamily("tracking_window_records", "Requests in the window that is not full yet.")
        filling.add_metric([], state.filled)
        up = GaugeMetricFamily(
            "tracking_drift_up", "1 where windows can be compared; GET /v1/tracking/drift says why not."
        )
        up.add_metric([], float(state.trouble == ""))
        yield from (whole, alarmed, members, filling, up)
