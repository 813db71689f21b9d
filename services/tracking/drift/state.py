"""What the monitor has seen last; read by the routes and by Prometheus, written by the monitor alone."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class DriftState:
    """Numbers since the start.

    Args:
        findings: of the newest window that was compared, by signal.
        filled: requests in the window that is not full yet.
        trouble: why windows can't be compared as they should, and what to do; empty: they can.
    """

    windows: int = 0
    alarmed: int = 0
    reference: str = ""
    reference_records: int = 0
    filled: int = 0
    trouble: str = ""
    findings: tuple[dict[str, Any], ...] = field(default=())
