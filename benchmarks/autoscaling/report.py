"""Tables and plots of simulated runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmarks.autoscaling.panels import Panel, document, style
from benchmarks.autoscaling.simulate import Point, Result
from trtclient.load.svg import Line


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Means over seeds of one policy on one scenario, and the worst attainment.

    Attributes:
        reversals: Mean over seeds; ``most_reversals`` is the highest of any seed.
    """

    name: str
    attainment: float
    worst_attainment: float
    wait_p99_s: float
    latency_p99_s: float
    gpu_hours: float
    cost: float
    ups: float
    downs: float
    reversals: float
    most_reversals: int
    deleted_starting: float
    mean_ready: tuple[float, ...]


def summarize(name: str, results: Sequence[Result]) -> Summary:
    """Average the runs of several seeds."""
    return Summary(
        name=name,
        attainment=fmean(r.attainment for r in results),
        worst_attainment=min(r.attainment for r in results),
        wait_p99_s=fmean(r.wait_p99_s for r in results),
        latency_p99_s=fmean(r.latency_p99_s for r in results),
        gpu_hours=fmean(r.gpu_hours for r in results),
        cost=fmean(r.cost for r in results),
        ups=fmean(r.ups for r in results),
        downs=fmean(r.downs for r in results),
        reversals=fmean(r.reversals for r in results),
        most_reversals=max(r.reversals for r in results),
        deleted_starting=fmean(r.deleted_starting for r in results),
        mean_ready=tuple(fmean(each) for each in zip(*(r.mean_ready for r in results), strict=True)),
    )


def table(summaries: Sequence[Summary]) -> str:
    """Return a Markdown table."""
    head = "| policy | in time | worst seed | p99 wait s | p99 latency s | GPU-h | cost | ups | downs | reversals |"
    head += " deleted while starting | mean ready |"
    rows = [head, "|---" + "|---:" * 10 + "|---|"]
    rows += [
        f"| {s.name} | {s.attainment:.4f} | {s.worst_attainment:.4f} | {s.wait_p99_s:.1f} | {s.latency_p99_s:.1f} |"
        f" {s.gpu_hours:.2f} | {s.cost:.2f} | {s.ups:.1f} | {s.downs:.1f} | {s.reversals:.1f} |"
        f" {s.deleted_starting:.1f} | {' + '.join(f'{m:.2f}' for m in s.mean_ready)} |"
        for s in summaries
    ]
    return "\n".join(rows)


def plot(title: str, results: Sequence[Result], *, capacity_rps: float) -> str:
    """Return an SVG: load, ready and desired pods, waiting requests and the signal, one colour per policy.

    Args:
        title: Heading.
        results: Runs of the same scenario and seed.
        capacity_rps: Requests per second of one pod, to draw the load in pods.
    """
    load = Line(
        label="load (in pods)",
        points=[(point.at_s / 60, point.rate_rps / capacity_rps) for point in results[0].points],
        style=f"{style(0)} dashed",
    )
    numbered = list(enumerate(results, 1))
    ready = [load, *(_line(result, n, lambda point: sum(point.ready), is_step=True) for n, result in numbered)]
    desired = [load, *(_line(result, n, lambda point: sum(point.desired), is_step=True) for n, result in numbered)]
    waiting = [_line(result, n, lambda point: point.waiting) for n, result in numbered]
    signal = [_line(result, n, lambda point: point.signal) for n, result in numbered]
    return document(
        title,
        [
            Panel(title="ready pods", lines=ready),
            Panel(title="desired pods", lines=desired),
            Panel(title="waiting requests", lines=waiting),
            Panel(title="mean signal per pod (each in its own unit, cut at 4)", lines=signal, top=4.0),
        ],
    )


def _line(result: Result, number: int, value: Callable[[Point], float], *, is_step: bool = False) -> Line:
    points = [(point.at_s / 60, value(point)) for point in result.points]
    return Line(label=result.policy, points=points, style=style(number), is_step=is_step)
