"""What Prometheus makes of a pod's scrapes: ``rate()`` with its extrapolation, and gauges over a window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Sample(NamedTuple):
    """One scrape of a pod: continuous counters, gauges, and counters that move when a request ends."""

    at_s: float
    queue_s: float
    compute_s: float
    waiting: int
    running: int
    busy_s: float
    done: int
    done_queue_s: float
    done_compute_s: float


def window(samples: Sequence[Sample], at_s: float, range_s: float) -> list[Sample]:
    """Return the samples that a range selector of ``range_s`` sees at ``at_s``."""
    return [one for one in samples if at_s - range_s <= one.at_s <= at_s]


def rate(times_s: Sequence[float], values: Sequence[float], at_s: float, range_s: float) -> float | None:
    """Return Prometheus' ``rate()`` of a counter without resets, or None for fewer than two samples.

    Source: prometheus/prometheus promql/functions.go, extrapolatedRate (2.42).
    """
    if len(times_s) < 2:
        return None
    increase = values[-1] - values[0]
    sampled_s = times_s[-1] - times_s[0]
    gap_s = sampled_s / (len(times_s) - 1)
    to_start_s = times_s[0] - (at_s - range_s)
    to_end_s = at_s - times_s[-1]
    if increase > 0 and values[0] >= 0:
        to_start_s = min(to_start_s, sampled_s * values[0] / increase)
    threshold_s = gap_s * 1.1
    to_start_s = to_start_s if to_start_s < threshold_s else gap_s / 2
    to_end_s = to_end_s if to_end_s < threshold_s else gap_s / 2
    return increase * (sampled_s + to_start_s + to_end_s) / sampled_s / range_s
