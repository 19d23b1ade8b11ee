"""Loads: when requests arrive and how long their answers are. Deterministic by seed."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]

MEAN_OUTPUT_TOKENS = 200.0
OUTPUT_SIGMA = 0.6
PREFILL_TOKENS = 20.0
WORK_TOKENS = MEAN_OUTPUT_TOKENS + PREFILL_TOKENS
"""Mean work of a request; a prompt costs about as much as this many output tokens."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A load.

    Attributes:
        duration_s: Length.
        rate_at: Arrivals per second at each time (vectorized); the oracle reads it too.
        peak_rps: An upper bound of the rate.
        replayed: Recorded arrival times, instead of random ones.
        steps: Abrupt changes of the rate, to count reversals per step.
    """

    name: str
    duration_s: float
    rate_at: Callable[[Times], Times]
    peak_rps: float
    replayed: tuple[float, ...] | None = None
    steps: int = 1

    def arrivals(self, seed: int) -> Times:
        """Return the sorted times of arrival."""
        if self.replayed is not None:
            return np.asarray(self.replayed, dtype=np.float64)
        random = np.random.default_rng([seed, 1])
        count = random.poisson(self.peak_rps * self.duration_s)
        times = np.sort(random.uniform(0.0, self.duration_s, count))
        kept: Times = times[random.uniform(0.0, self.peak_rps, count) < self.rate_at(times)]
        return kept

    def work(self, count: int, seed: int) -> Times:
        """Return tokens of work per request: lognormal answers and a constant for the prompt."""
        random = np.random.default_rng([seed, 2])
        mu = math.log(MEAN_OUTPUT_TOKENS) - OUTPUT_SIGMA**2 / 2
        tokens: Times = random.lognormal(mu, OUTPUT_SIGMA, count) + PREFILL_TOKENS
        return tokens


def constant(rps: float, duration_s: float) -> Trace:
    """Poisson arrivals at one rate."""
    return Trace(name="constant", duration_s=duration_s, rate_at=lambda t: np.full_like(t, rps), peak_rps=rps, steps=0)


def step(low_rps: float = 5.0, high_rps: float = 30.0, *, scale: float = 1.0) -> Trace:
    """40 min low, 80 min high, 40 min low: two abrupt steps."""
    low, high = low_rps * scale, high_rps * scale

    def rate_at(t: Times) -> Times:
        return np.where((t >= 2400.0) & (t < 7200.0), high, low)

    return Trace(name="step", duration_s=9600.0, rate_at=rate_at, peak_rps=high, steps=2)


def diurnal(low_rps: float = 5.0, high_rps: float = 35.0, *, scale: float = 1.0) -> Trace:
    """One day in four hours: a smooth swing from low to high and back."""
    low, high, length_s = low_rps * scale, high_rps * scale, 14400.0

    def rate_at(t: Times) -> Times:
        swing: Times = low + (high - low) * (1 - np.cos(2 * np.pi * t / length_s)) / 2
        return swing

    return Trace(name="diurnal", duration_s=length_s, rate_at=rate_at, peak_rps=high)


def bursty(low_rps: float = 10.0, high_rps: float = 32.0, *, seed: int = 0, scale: float = 1.0) -> Trace:
    """Four hours that switch between two rates at random times (means 420 s low, 150 s high)."""
    random = np.random.default_rng([seed, 3])
    edges, length_s = [0.0], 14400.0
    while edges[-1] < length_s:
        edges.append(edges[-1] + random.exponential(420.0 if len(edges) % 2 else 150.0))
    bounds = np.asarray(edges[1:])

    def rate_at(t: Times) -> Times:
        is_low = np.searchsorted(bounds, t, side="right") % 2 == 0
        return np.where(is_low, low_rps * scale, high_rps * scale)

    return Trace(name="bursty", duration_s=length_s, rate_at=rate_at, peak_rps=high_rps * scale, steps=len(edges) - 2)


def replay(path: Path) -> Trace:
    """Recorded arrivals: a CSV whose first column is seconds (a header line is skipped).

    The oracle is given the arrivals per minute as the rate.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row[0] for row in csv.reader(file) if row]
    times = np.sort(np.asarray([float(cell) for cell in rows if _is_number(cell)]))
    if not len(times):
        raise ValueError(f"{path}: no arrival times; expected a CSV whose first column is seconds")
    times = times - times[0]
    duration_s = float(times[-1]) + 1.0
    counts = np.bincount((times // 60.0).astype(np.int64))

    def rate_at(t: Times) -> Times:
        per_second: Times = counts[np.minimum((t // 60.0).astype(np.int64), len(counts) - 1)] / 60.0
        return per_second

    return Trace(
        name="replay",
        duration_s=duration_s,
        rate_at=rate_at,
        peak_rps=float(counts.max()) / 60.0,
        replayed=tuple(times.tolist()),
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
