"""Tables and plots of simulated runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmarks.autoscaling.simulate import Result
from benchmarks.autoscaling.svg import Line, Panel, chart


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
    first = results[0].points
    minutes = [point.at_s / 60 for point in first]
    load = Line(name="load (in pods)", x=minutes, y=[p.rate_rps / capacity_rps for p in first], is_dashed=True)
    ready, waiting, signal = [load], [], []
    for result in results:
        x = [point.at_s / 60 for point in result.points]
        ready.append(Line(name=result.policy, x=x, y=[sum(p.ready) for p in result.points], is_stepped=True))
        waiting.append(Line(name=result.policy, x=x, y=[p.waiting for p in result.points]))
        signal.append(Line(name=result.policy, x=x, y=[p.signal for p in result.points]))
    desired = [load, *(_desired(result) for result in results)]
    return chart(
        title,
        [
            Panel(title="ready pods", lines=ready),
            Panel(title="desired pods", lines=desired),
            Panel(title="waiting requests", lines=[no_line(), *waiting]),
            Panel(title="mean signal per pod (each in its own unit, cut at 4)", lines=[no_line(), *signal], top=4.0),
        ],
    )


def no_line() -> Line:
    """Return an empty line, so that a policy has the same colour in every panel."""
    return Line(name="", x=[0], y=[0])


def _desired(result: Result) -> Line:
    x = [point.at_s / 60 for point in result.points]
    return Line(name=result.policy, x=x, y=[sum(p.desired) for p in result.points], is_stepped=True)
