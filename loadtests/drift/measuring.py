"""The measurement: references, unchanged windows, windows that drift; all seeds stand here."""

import time
from collections import Counter
from typing import Any

import numpy as np

from loadtests.drift.streams import Streams
from services.tracking.drift.signals import NAMES, compare
from services.tracking.drift.windows import columns_of

WINDOW = 200
REFERENCE_WINDOWS = 2
KINDS = ("language", "topic", "longer", "worse")
SHARES = (1.0, 0.3, 0.1)
REFERENCE_SEEDS = (101, 102, 103, 104, 105)
UNCHANGED_SEED, DRIFT_SEED = 5000, 9000


def unchanged(streams: Streams, windows: int) -> dict[str, Any]:
    """Compare unchanged windows, shared out to the references; return how many alarmed, and for what."""
    alarmed, signals, seconds = [], Counter[str](), []
    each = windows // len(REFERENCE_SEEDS)
    for seed in REFERENCE_SEEDS:
        reference = columns_of(streams.draw(WINDOW * REFERENCE_WINDOWS, np.random.default_rng(seed)))
        count = 0
        for place in range(each):
            dice = np.random.default_rng([UNCHANGED_SEED, seed, place])
            window = columns_of(streams.draw(WINDOW, dice))
            started = time.perf_counter()
            found = [finding.name for finding in compare(reference, window, seed=place) if finding.alarm]
            seconds.append(time.perf_counter() - started)
            count += bool(found)
            signals.update(found)
        alarmed.append(count)
        print(f"reference {seed}: {count} of {each} unchanged windows alarmed", flush=True)
    return {
        "windows": each * len(REFERENCE_SEEDS),
        "alarmed": alarmed,
        "signals": dict(signals),
        "seconds": float(np.median(seconds)),
    }


def drifted(streams: Streams, repetitions: int) -> list[dict[str, Any]]:
    """Inject each drift at each share; return in which of two windows it was found."""
    rows = []
    for kind in KINDS:
        for share in SHARES:
            found_in, signals = Counter[str](), Counter[str]()
            for turn in range(repetitions):
                seed = REFERENCE_SEEDS[turn % len(REFERENCE_SEEDS)]
                reference = columns_of(streams.draw(WINDOW * REFERENCE_WINDOWS, np.random.default_rng(seed)))
                which, names = _found_in(streams, reference, kind, share, turn)
                found_in[which] += 1
                signals.update(names)
            rows.append(
                {
                    "kind": kind,
                    "share": share,
                    "repetitions": repetitions,
                    "first": found_in["first"],
                    "second": found_in["second"],
                    "signals": [name for name, _ in signals.most_common() if name in NAMES],
                }
            )
            print(rows[-1], flush=True)
    return rows


def _found_in(streams: Streams, reference: Any, kind: str, share: float, turn: int) -> tuple[str, list[str]]:
    for place, which in enumerate(("first", "second")):
        dice = np.random.default_rng([DRIFT_SEED, KINDS.index(kind), round(share * 100), turn, place])
        window = columns_of(streams.draw(WINDOW, dice, kind, share))
        names = [finding.name for finding in compare(reference, window, seed=turn * 2 + place) if finding.alarm]
        if names:
            return which, names
    return "never", []
