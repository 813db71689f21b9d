"""Which traces are recorded, by OpenTelemetry's standard variables; decided once, where a trace begins.

The decision is ours and not the SDK's, because it is made for every request and the SDK's way to it costs some twenty
times as much; it is the same one: a service with the SDK's sampler decides alike about the same trace id.
Source: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/#general-sdk-configuration
"""

from collections.abc import Mapping
from dataclasses import dataclass

from services.kit.settings import SettingsError

SAMPLER, ARGUMENT = "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"
_LOW_BITS = (1 << 64) - 1
_NAMES = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)


@dataclass(frozen=True)
class Sampling:
    """The decision.

    Args:
        ratio: of the traces that begin here, 0 to 1.
        follows_parent: a caller that has decided is followed.
    """

    ratio: float = 1.0
    follows_parent: bool = True

    def takes(self, trace_id: int, parent: bool | None) -> bool:
        """Say whether a trace is recorded; `parent` is what the caller has decided, None where it has not."""
        if parent is not None and self.follows_parent:
            return parent
        return (trace_id & _LOW_BITS) < round(self.ratio * (_LOW_BITS + 1))


def sampling_from(variables: Mapping[str, str]) -> Sampling:
    """Return the sampling that the variables name; every trace, and what a caller has decided, where they name none.

    Raises:
        SettingsError: an unknown name, or a ratio that is none.
    """
    name = variables.get(SAMPLER, "").strip().lower() or "parentbased_always_on"
    if name not in _NAMES:
        raise SettingsError(f"{SAMPLER}={name}: known are {', '.join(_NAMES)}")
    rule = name.removeprefix("parentbased_")
    ratio = {"always_on": 1.0, "always_off": 0.0}.get(rule)
    if ratio is None:
        ratio = _ratio(variables.get(ARGUMENT, "").strip())
    return Sampling(ratio, follows_parent=name != rule)


def _ratio(text: str) -> float:
    try:
        ratio = float(text or "1")
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        raise SettingsError(f"{ARGUMENT}={text}: a number from 0 (no trace) to 1 (every trace)")
    return ratio
