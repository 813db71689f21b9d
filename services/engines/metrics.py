"""What the engines service counts itself; the engines' own figures are exporter.py's."""

from prometheus_client import CollectorRegistry, Counter


class EnginesMetrics:
    """Loads, unloads and refusals. Models are a closed set: those that are offered."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.loads = Counter(
            "engines_loads_total", "loads that have ended, by outcome", ["model", "outcome"], registry=registry
        )
        self.unloads = Counter(
            "engines_unloads_total",
            "models unloaded, for others or because nobody used them",
            ["model"],
            registry=registry,
        )
        self.crashes = Counter(
            "engines_crashes_total",
            "engines that ended by themselves, or were ended because they were wedged",
            ["model"],
            registry=registry,
        )
        self.refusals = Counter(
            "engines_refusals_total", "loads refused because the model does not fit", ["model"], registry=registry
        )
