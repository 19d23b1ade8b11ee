"""The questions put to the simulator. Each returns the text that the command prints."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.autoscaling import traces
from benchmarks.autoscaling.balancing import Balancer, KubeProxy, LeastRequest, StickyConnections, WeightedRoute
from benchmarks.autoscaling.model import A100_LIKE, H100_LIKE, StartUp
from benchmarks.autoscaling.policies import COMPARED, FIXED, ORACLE, POD_GROUP_S, SHIPPED, Autoscaling
from benchmarks.autoscaling.report import Summary, plot, summarize, table
from benchmarks.autoscaling.simulate import Group, Result, Scenario, simulate
from benchmarks.autoscaling.traces import WORK_TOKENS, Trace

TUNED_SEEDS = tuple(range(1, 25))
HELD_OUT_SEEDS = (401, 402, 403, 404, 405, 406)
A100_RPS = A100_LIKE.tokens_per_s / WORK_TOKENS
H100_RPS = H100_LIKE.tokens_per_s / WORK_TOKENS
ONE_SKU = (Group(sku=A100_LIKE),)
# Declared as an operator would, rounded: the second product does twice the work for twice the money.
TWO_SKUS = (Group(sku=A100_LIKE, weight=1.0), Group(sku=H100_LIKE, weight=2.0))


@dataclass(frozen=True, kw_only=True)
class Output:
    """Text to print and SVG files to write, and whether a goal was missed."""

    text: str
    plots: dict[str, str]
    is_met: bool = True


def _runs(make: Callable[[int], Scenario], policy: Autoscaling, seeds: Sequence[int]) -> list[Result]:
    return [simulate(make(seed), policy, seed) for seed in seeds]


def _load(name: str, seed: int) -> Trace:
    return {"step": traces.step, "diurnal": traces.diurnal}[name]() if name != "bursty" else traces.bursty(seed=seed)


def _single(name: str, balancer: Callable[[int], Balancer], start: StartUp) -> Callable[[int], Scenario]:
    return lambda seed: Scenario(trace=_load(name, seed), groups=ONE_SKU, balancer=balancer, start=start)


def compare(seeds: Sequence[int]) -> Output:
    """All policies on all loads, one SKU, kube-proxy, warm start of 60 s."""
    text, plots = [], {}
    for name in ("step", "diurnal", "bursty"):
        summaries, drawn = [], []
        for policy in COMPARED:
            results = _runs(_single(name, KubeProxy, StartUp()), policy, seeds)
            summaries.append(summarize(policy.name, results))
            if policy is ORACLE or policy is SHIPPED or "visible" in policy.name:
                drawn.append(results[0])
        text.append(f"### {name}\n\n{table(summaries)}\n")
        plots[f"compare-{name}.svg"] = plot(f"{name}: 60 s start, seed {seeds[0]}", drawn, capacity_rps=A100_RPS)
    return Output(text="\n".join(text), plots=plots)


def _judge(name: str, ours: Summary, oracle: Summary, steps: int) -> tuple[str, bool]:
    points = (oracle.attainment - ours.attainment) * 100
    hours = ours.gpu_hours / oracle.gpu_hours
    per_step = ours.most_reversals / max(steps, 1)
    is_met = points <= 2.0 and hours <= 1.35 and per_step <= 2.0
    verdict = "met" if is_met else "MISSED"
    return f"| {name} | {points:.2f} | {hours:.3f} | {per_step:.1f} | {verdict} |", is_met


def goals(seeds: Sequence[int]) -> Output:
    """Step and day against the oracle: within 2 points, at most 1.35 x its GPU-hours, at most 2 reversals per step."""
    rows = ["| load, balancing | points below the oracle | x its GPU-hours | most reversals per step | goal |"]
    rows.append("|---|---:|---:|---:|---|")
    every = True
    balancers: dict[str, Callable[[int], Balancer]] = {"kube-proxy": KubeProxy, "Envoy least request": LeastRequest}
    for label, balancer in balancers.items():
        for name in ("step", "diurnal"):
            make = _single(name, balancer, StartUp())
            ours = summarize("ours", _runs(make, SHIPPED, seeds))
            oracle = summarize("oracle", _runs(make, ORACLE, seeds))
            row, is_met = _judge(f"{name}, {label}", ours, oracle, _load(name, 0).steps)
            rows.append(row)
            every = every and is_met
    return Output(text="\n".join(rows), plots={}, is_met=every)


def _weighted(*, follow: bool) -> Callable[[int], Balancer]:
    weights = {A100_LIKE.name: 1.0, H100_LIKE.name: 2.0}
    return lambda seed: WeightedRoute(seed, weights, follow=follow)


BALANCERS: dict[str, Callable[[int], Balancer]] = {
    "kube-proxy (random)": KubeProxy,
    "HTTPRoute, fixed weights 1:2": _weighted(follow=False),
    "HTTPRoute, weights x ready replicas": _weighted(follow=True),
    "Envoy least request, 1 proxy": LeastRequest,
    "Envoy least request, 3 proxies": lambda seed: LeastRequest(seed, proxies=3),
}


def _largest_load(balancer: Callable[[int], Balancer], seed: int) -> float:
    """Return the largest constant load (rps) of which 2 + 2 pods serve 99 % in time, to 0.5 rps."""
    groups = tuple(replace(group, min_replicas=2, max_replicas=2) for group in TWO_SKUS)
    low, high = 5.0, 2 * (A100_RPS + H100_RPS)
    while high - low > 0.5:
        rps = (low + high) / 2
        scenario = Scenario(trace=traces.constant(rps, 900.0), groups=groups, balancer=balancer)
        low, high = (rps, high) if simulate(scenario, FIXED, seed).attainment >= 0.99 else (low, rps)
    return low


def balancing(seeds: Sequence[int]) -> Output:
    """Unequal SKUs behind one Service: how much of a fixed fleet is usable, and what autoscaling makes of it."""
    whole = 2 * (A100_RPS + H100_RPS)
    rows = ["| balancing | largest load in time (rps) | of the fleet's capacity |", "|---|---:|---:|"]
    for name, balancer in BALANCERS.items():
        rps = sum(_largest_load(balancer, seed) for seed in seeds[:2]) / len(seeds[:2])
        rows.append(f"| {name} | {rps:.1f} | {rps / whole:.0%} |")
    text = [f"Fixed fleet, 2 + 2 pods, capacity {whole:.1f} rps:\n", *rows, "\nAutoscaled, diurnal 12-68 rps:\n"]
    day = traces.diurnal(12.0, 68.0)
    text.append(
        table(
            [
                summarize(
                    name,
                    _runs(lambda _, b=balancer: Scenario(trace=day, groups=TWO_SKUS, balancer=b), SHIPPED, seeds),  # type: ignore[misc]
                )
                for name, balancer in BALANCERS.items()
            ]
        )
    )
    connections: dict[str, Callable[[int], Balancer]] = {
        "kube-proxy, a connection per request": KubeProxy,
        "kube-proxy, 100 long-lived gRPC connections": StickyConnections,
        "the same, closed by the server after 120 s": lambda seed: StickyConnections(seed, max_age_s=120.0),
        "Envoy least request": LeastRequest,
    }
    text.append("\nOne SKU, diurnal 5-35 rps:\n")
    text.append(
        table([summarize(n, _runs(_single("diurnal", b, StartUp()), SHIPPED, seeds)) for n, b in connections.items()])
    )
    return Output(text="\n".join(text), plots={})


def cost(seeds: Sequence[int]) -> Output:
    """Cheap SKU first: the second SKU costs three times the first for twice the work."""
    dear = replace(H100_LIKE, cost_per_hour=3.0)
    day = traces.diurnal(12.0, 68.0)
    text = []
    for stock, label in ((None, "every pod finds a GPU"), (2, "only 2 of the cheap GPUs can be had")):
        groups = (
            Group(sku=A100_LIKE, weight=1.0, max_replicas=8, stock=stock),
            Group(sku=dear, weight=2.0, max_replicas=8),
        )
        policies = (ORACLE, SHIPPED, replace(SHIPPED, name="demand_by_cost 0.8", prefer_cheap=True, rule_s=POD_GROUP_S))
        summaries, drawn = [], []
        for policy in policies:
            results = _runs(lambda _, g=groups: Scenario(trace=day, groups=g, balancer=LeastRequest), policy, seeds)  # type: ignore[misc]
            summaries.append(summarize(policy.name, results))
            drawn.append(results[0])
        text.append(f"### {label}\n\n{table(summaries)}\n")
    return Output(text="\n".join(text), plots={})


def starts(seeds: Sequence[int]) -> Output:
    """What the engine cache is worth: the same rule with pods that start warm, build, or build half of the time."""
    kinds = {
        "warm 60 s": StartUp(),
        "every second pod builds 20 min": StartUp(cold_share=0.5),
        "every pod builds 20 min": StartUp(cold_share=1.0),
    }
    default = replace(SHIPPED, name="default behavior", down=Autoscaling(name="", signal=None).down, window_per_start=0)
    text = []
    for name in ("step", "diurnal", "bursty"):
        rows = [
            summarize(f"{label}, {policy.name}", _runs(_single(name, KubeProxy, start), policy, seeds))
            for label, start in kinds.items()
            for policy in (SHIPPED, default)
        ]
        text.append(f"### {name}\n\n{table(rows)}\n")
    return Output(text="\n".join(text), plots={})


def scale(seeds: Sequence[int]) -> Output:
    """A thousand pods: the step scaled up, ten minutes of it at the top."""
    trace = replace(traces.constant(6500.0, 900.0), name="thousand")
    groups = (Group(sku=A100_LIKE, min_replicas=700, max_replicas=1000),)
    began_s = time.monotonic()
    balancer = partial(LeastRequest, choices=2)  # a full scan of a thousand pods per request would take hours here
    result = simulate(Scenario(trace=trace, groups=groups, balancer=balancer), SHIPPED, seeds[0])
    took_s = time.monotonic() - began_s
    highest = max(sum(point.desired) for point in result.points)
    text = f"{result.requests} requests, up to {highest} pods, {trace.duration_s:.0f} s simulated in {took_s:.0f} s\n\n"
    return Output(text=text + table([summarize(SHIPPED.name, [result])]), plots={})


EXPERIMENTS: dict[str, Callable[[Sequence[int]], Output]] = {
    "goals": goals,
    "compare": compare,
    "balancing": balancing,
    "cost": cost,
    "starts": starts,
    "scale": scale,
}
