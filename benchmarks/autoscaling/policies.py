"""Autoscaling policies that the simulator compares: a signal per pod, a target, scrape and rule timing, a behaviour.

A signal is what the recording rule would have written at ``at_s`` from the pod's scrapes. None means no series.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks.autoscaling.hpa import DEFAULT_DOWN, DEFAULT_UP, Policy, Rules
from benchmarks.autoscaling.model import Sku, StartUp
from benchmarks.autoscaling.promql import Sample, rate, window

DEFAULT_BATCHING_FACTOR = 1.4
POD_GROUP_S = 30.0
RANGE_S = 30.0
SMOOTH_S = 120.0
QUEUE_COUNTS_FROM = 1.5
"""Occupancy of the last scrape from which it is taken as it is: shorter queues are noise that the mean smooths."""
CAP = 4.5
"""Highest demand a pod may report: one stuck pod must not scale a fleet to its maximum."""

Signal = Callable[[Sequence[Sample], Sku, float], float | None]


def occupancy(samples: Sequence[Sample], sku: Sku, at_s: float) -> float | None:
    """Return what ``avg_over_time(triton:busy:ratio[2m])`` gave at the last evaluation of group ``trtbuild-pod``.

    None before the first one that saw the pod: until then it has no slots either, so no demand at all.
    """
    last_s = at_s // POD_GROUP_S * POD_GROUP_S
    seen = window(samples, last_s, SMOOTH_S + RANGE_S)
    times = [one.at_s for one in seen]
    inside = [one.queue_s + one.compute_s for one in seen]
    values = []
    for evaluation in range(int(SMOOTH_S / POD_GROUP_S) + 1):
        then_s = last_s - evaluation * POD_GROUP_S
        first, end = bisect_left(times, then_s - RANGE_S), bisect_right(times, then_s)
        if end == first:
            break  # not scraped yet
        mean = rate(times[first:end], inside[first:end], then_s, RANGE_S) or 0.0  # no rate of one scrape: zero
        values.append(min(mean / sku.slots, 1.0))
    return sum(values) / len(values) if values else None


def demand_of(smoothed: float, now: float, batching_factor: float, cap: float = CAP) -> float:
    """Return ``triton:demand:ratio``.

    Args:
        smoothed: Occupancy over two minutes.
        now: Occupancy at the last scrape; above 1 it is 1 + queue:compute.
        batching_factor: k.
        cap: Highest demand a pod reports.
    """
    if now > QUEUE_COUNTS_FROM:
        return min(now, cap)
    busy = min(smoothed, 1.0)
    return busy * (1 + batching_factor) / (1 + batching_factor * busy)


def demand(*, batching_factor: float | None = DEFAULT_BATCHING_FACTOR, cap: float = CAP) -> Signal:
    """Return the shipped signal; ``batching_factor`` None takes each SKU's true one."""

    def signal(samples: Sequence[Sample], sku: Sku, at_s: float) -> float | None:
        smoothed = occupancy(samples, sku, at_s)
        if smoothed is None:
            return None
        last = window(samples, at_s, 15.0)[-1:]
        now = (last[0].waiting + last[0].running) / sku.slots if last else 0.0
        return demand_of(smoothed, now, sku.batching_factor if batching_factor is None else batching_factor, cap)

    return signal


def _completed(samples: Sequence[Sample], at_s: float, hidden: bool) -> float | None:
    """Return origin's rule, rate(queue)/clamp_min(rate(compute), 1 us/s), over counters that move when requests end."""
    seen = window(samples, at_s, 60.0)
    times = [one.at_s for one in seen]
    queue = rate(times, [one.done_queue_s for one in seen], at_s, 60.0)
    compute = rate(times, [one.done_compute_s for one in seen], at_s, 60.0)
    if queue is None or compute is None:
        return None
    # In-flight batching: Triton hands a request over immediately, so the wait inside the executor counts as compute.
    return 0.0 if hidden else queue / max(compute, 1e-6)


def origin_hidden(samples: Sequence[Sample], _sku: Sku, at_s: float) -> float | None:
    """Origin's rule on what a TensorRT-LLM backend really reports."""
    return _completed(samples, at_s, hidden=True)


def origin_visible(samples: Sequence[Sample], _sku: Sku, at_s: float) -> float | None:
    """Origin's rule if Triton could see the queue."""
    return _completed(samples, at_s, hidden=False)


def true_ratio(samples: Sequence[Sample], _sku: Sku, at_s: float) -> float | None:
    """``triton:queue_compute:ratio`` of the shipped rules; evaluated every :data:`POD_GROUP_S`."""
    seen = window(samples, at_s, 30.0)
    if not seen:
        return None
    times = [one.at_s for one in seen]
    waiting = rate(times, [one.queue_s for one in seen], at_s, 30.0)
    running = rate(times, [one.compute_s for one in seen], at_s, 30.0)
    return (waiting or 0.0) / max(running or 0.0, 0.01)


def gpu_utilization(samples: Sequence[Sample], _sku: Sku, at_s: float) -> float | None:
    """Share of the time in which the GPU does anything at all (DCGM's GPU_UTIL)."""
    seen = window(samples, at_s, 60.0)
    return rate([one.at_s for one in seen], [one.busy_s for one in seen], at_s, 60.0)


def waiting_requests(samples: Sequence[Sample], _sku: Sku, at_s: float) -> float | None:
    """Waiting requests, averaged over 30 s."""
    seen = window(samples, at_s, 30.0)
    return sum(one.waiting for one in seen) / len(seen) if seen else None


@dataclass(frozen=True, kw_only=True)
class Autoscaling:
    """A policy.

    Attributes:
        signal: Per pod; None for the oracle and for a fixed fleet.
        scrape_s: Scrape interval.
        rule_s: Evaluation interval of the recording rule.
        window_per_start: The scale-down window is at least this many start-up times; 0 leaves ``down`` as it is.
        prefer_cheap: Share the work by cost: ``triton:demand_by_cost:ratio``.
        is_oracle: Knows the arrival rate one start-up ahead and keeps pods at 85 % of their capacity.
    """

    name: str
    signal: Signal | None
    target: float = 1.0
    scrape_s: float = 5.0
    rule_s: float = 5.0
    up: Rules = DEFAULT_UP
    down: Rules = DEFAULT_DOWN
    window_per_start: float = 0.0
    prefer_cheap: bool = False
    is_oracle: bool = False

    def down_for(self, start: StartUp) -> Rules:
        """Return the scale-down rules for pods that start like this; the API allows windows up to an hour."""
        window_s = min(max(self.down.window_s, self.window_per_start * start.expected_s), 3600.0)
        return replace(self.down, window_s=window_s)


SHIPPED_DOWN = Rules(
    window_s=600,
    policies=(Policy(kind="Pods", value=1, period_s=60), Policy(kind="Percent", value=10, period_s=60)),
)
SHIPPED = Autoscaling(name="demand 0.8 (shipped)", signal=demand(), target=0.8, down=SHIPPED_DOWN, window_per_start=1.5)
ORACLE = Autoscaling(name="oracle", signal=None, is_oracle=True)
FIXED = Autoscaling(name="fixed fleet", signal=None)

COMPARED: tuple[Autoscaling, ...] = (
    ORACLE,
    SHIPPED,
    Autoscaling(name="origin's rule, real backend", signal=origin_hidden, scrape_s=30, rule_s=6),
    Autoscaling(name="origin's rule, queue visible", signal=origin_visible, scrape_s=30, rule_s=6),
    Autoscaling(name="true ratio 1.0, default behavior", signal=true_ratio, rule_s=POD_GROUP_S),
    Autoscaling(name="GPU utilisation 30 %", signal=gpu_utilization, target=0.3, scrape_s=15),
    Autoscaling(name="5 requests waiting", signal=waiting_requests, target=5, rule_s=POD_GROUP_S),
    replace(SHIPPED, name="occupancy 0.7 (k = 0)", signal=demand(batching_factor=0.0), target=0.7),
)
