"""From records to numbers: pure. Percentiles are values that really occurred (nearest rank), never interpolated."""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

from trtclient.load.record import Record
from trtclient.load.sender import RunState
from trtclient.values import Goal

QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)
MAX_BUCKETS = 120


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The distribution of a latency, in seconds.

    Attributes:
        count: Values in it.
        mean: Their mean.
        low: The smallest.
        high: The largest.
        quantiles: ``p50`` ... ``p99.9``.
    """

    count: int = 0
    mean: float = 0.0
    low: float = 0.0
    high: float = 0.0
    quantiles: dict[str, float] = field(default_factory=dict)


def percentile(ordered: Sequence[float], quantile: float) -> float:
    """Return the nearest-rank quantile of sorted values: the smallest that at least this share does not exceed."""
    return ordered[max(0, math.ceil(quantile * len(ordered)) - 1)]


def spread(values: Iterable[float]) -> Spread:
    """Return the distribution of ``values``."""
    ordered = sorted(values)
    if not ordered:
        return Spread()
    return Spread(
        count=len(ordered),
        mean=math.fsum(ordered) / len(ordered),
        low=ordered[0],
        high=ordered[-1],
        quantiles={f"p{quantile * 100:g}": percentile(ordered, quantile) for quantile in QUANTILES},
    )


def is_good(record: Record, goal: Goal) -> bool:
    """Return whether a request met the goal; a failed one never does."""
    if not record.is_ok:
        return False
    measured = (
        (goal.ttft_s, record.ttft_s),
        (goal.tpot_s, record.tpot_s),
        (goal.gap_s, max(record.gaps(), default=0.0)),
        (goal.e2e_s, record.e2e_s),
    )
    return all(limit is None or value is None or value <= limit for limit, value in measured)


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """What happened in one slice of time: ``in_flight`` is the mean; latencies belong to when their request was due."""

    at_s: float
    due: int = 0
    done: int = 0
    failed: int = 0
    tokens: float = 0.0
    in_flight: float = 0.0
    ttft_p50_s: float | None = None
    ttft_p99_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One run in numbers.

    Attributes:
        requests: Requests that were due and are counted (after the warm-up).
        ok: Those with a whole answer.
        failures: Others, by kind.
        examples: One message per kind.
        elapsed_s: From the first counted due time to the last end.
        requests_per_s: Whole answers per second.
        tokens_per_s: Output tokens per second.
        prompt_tokens: Of whole answers, as the server counted (0 where it does not).
        completion_tokens: Of whole answers.
        is_counted: Whether all completion counts are the server's own; else pieces were counted.
        ttft, itl, tpot, e2e: Latencies; see the reference.
        lag: How late the client itself sent. Part of every latency.
        goal: What was asked; empty when nothing was.
        good: Requests that met it.
        good_per_s: The same per second (goodput).
        peak_in_flight: Most requests open at once.
        is_interrupted: Whether the run was ended early.
        bucket_s: Width of a slice of ``series``.
    """

    requests: int
    ok: int
    failures: dict[str, int]
    examples: dict[str, str]
    elapsed_s: float
    requests_per_s: float
    tokens_per_s: float
    prompt_tokens: int
    completion_tokens: int
    is_counted: bool
    ttft: Spread
    itl: Spread
    tpot: Spread
    e2e: Spread
    lag: Spread
    goal: dict[str, float]
    good: int
    good_per_s: float
    peak_in_flight: int
    is_interrupted: bool
    bucket_s: float
    series: tuple[Bucket, ...]


def summarize(state: RunState, *, goal: Goal, warmup_s: float = 0.0) -> Summary:
    """Return the numbers of a run, without the requests that were due in the first ``warmup_s``."""
    records = [record for record in state.records if record.due_s >= warmup_s]
    ok = [record for record in records if record.is_ok]
    first_s = min((record.due_s for record in records), default=0.0)
    last_s = max((record.end_s for record in records), default=0.0)
    elapsed_s = max(last_s - first_s, 1e-9)
    tokens = sum(record.completion_tokens for record in ok)
    good = sum(is_good(record, goal) for record in records)
    failed = [record for record in records if not record.is_ok]
    bucket_s = bucket_width(last_s, len(state.records))
    return Summary(
        requests=len(records),
        ok=len(ok),
        failures=dict(collections.Counter(record.failure for record in failed).most_common()),
        examples={record.failure: record.message for record in reversed(failed)},
        elapsed_s=elapsed_s,
        requests_per_s=len(ok) / elapsed_s,
        tokens_per_s=tokens / elapsed_s,
        prompt_tokens=sum(record.prompt_tokens for record in ok),
        completion_tokens=tokens,
        is_counted=all(record.is_counted for record in ok),
        ttft=spread(record.ttft_s for record in ok),
        itl=spread(gap for record in ok for gap in record.gaps()),
        tpot=spread(value for record in ok if (value := record.tpot_s) is not None),
        e2e=spread(record.e2e_s for record in ok),
        lag=spread(record.lag_s for record in records),
        goal={name: limit for name, limit in asdict(goal).items() if limit is not None},
        good=good,
        good_per_s=good / elapsed_s,
        peak_in_flight=peak(records),
        is_interrupted=state.is_interrupted,
        bucket_s=bucket_s,
        series=series(state.records, bucket_s),
    )


def peak(records: Sequence[Record]) -> int:
    """Return the most requests that were open at one time."""
    changes = sorted([(record.sent_s, 1) for record in records] + [(record.end_s, -1) for record in records])
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def bucket_width(last_s: float, requests: int) -> float:
    """Return a round width of slices: at most :data:`MAX_BUCKETS`, with several requests in each where possible."""
    slices = min(MAX_BUCKETS, max(10, requests // 5))
    for width in (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0):
        if last_s / width <= slices:
            return width
    return last_s / slices


def series(records: Sequence[Record], width_s: float) -> tuple[Bucket, ...]:
    """Return the run slice by slice, the warm-up included."""
    last_s = max((record.end_s for record in records), default=0.0)
    size = int(last_s / width_s) + 1
    due, done, failed, tokens, open_s = ([0.0] * size for _ in range(5))
    waits: list[list[float]] = [[] for _ in range(size)]
    for record in records:
        at, end = int(record.due_s / width_s), int(record.end_s / width_s)
        due[at] += 1
        (done if record.is_ok else failed)[end] += 1
        for i in range(int(record.sent_s / width_s), end + 1):
            open_s[i] += max(0.0, min(record.end_s, (i + 1) * width_s) - max(record.sent_s, i * width_s))
        if record.is_ok:
            waits[at].append(record.ttft_s)
        # A piece may hold several tokens: share the counted ones out over the pieces.
        each = record.completion_tokens / len(record.arrivals) if record.arrivals else 0.0
        for arrival_s in record.arrivals:
            tokens[int(arrival_s / width_s)] += each
    buckets = []
    for i in range(size):
        ordered = sorted(waits[i])
        buckets.append(
            Bucket(
                at_s=round(i * width_s, 6),
                due=int(due[i]),
                done=int(done[i]),
                failed=int(failed[i]),
                tokens=tokens[i],
                in_flight=open_s[i] / width_s,
                ttft_p50_s=percentile(ordered, 0.5) if ordered else None,
                ttft_p99_s=percentile(ordered, 0.99) if ordered else None,
            )
        )
    return tuple(buckets)
