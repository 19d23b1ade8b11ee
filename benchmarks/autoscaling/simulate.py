"""The event loop: arrivals, completions, scrapes, syncs of the autoscalers, pods that start and leave.

Deterministic: equal scenario, policy and seed give equal results. Time is in seconds from 0.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from benchmarks.autoscaling.balancing import Balancer, StickyConnections
from benchmarks.autoscaling.hpa import SYNC_S, HpaController, HpaSpec, Phase, PodMetric, pods_metric_replicas
from benchmarks.autoscaling.model import Pod, PodState, Requests, Sku, StartUp
from benchmarks.autoscaling.policies import CAP, Autoscaling
from benchmarks.autoscaling.traces import WORK_TOKENS, Trace

ORACLE_LOAD = 0.85


@dataclass(frozen=True, kw_only=True)
class Group:
    """One Deployment and its autoscaler.

    Attributes:
        stock: Pods that the cluster has GPUs for, or None for no limit.
        weight: Relative capacity of a pod, as the chart's values declare it.
    """

    sku: Sku
    min_replicas: int = 1
    max_replicas: int = 10
    stock: int | None = None
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Everything but the policy.

    Attributes:
        patience_s: A client gives up after waiting this long.
        slo_wait_s: A request is served in time when it waited no longer.
        grace_s: Termination grace period: a draining pod is killed after it.
        scrape_loss: Share of scrapes that fail.
    """

    trace: Trace
    groups: tuple[Group, ...]
    balancer: Callable[[int], Balancer]
    start: StartUp = field(default_factory=StartUp)
    patience_s: float = 120.0
    slo_wait_s: float = 2.0
    grace_s: float = 120.0
    scrape_loss: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Point:
    """The state at one sync, for plots."""

    at_s: float
    rate_rps: float
    desired: tuple[int, ...]
    ready: tuple[int, ...]
    waiting: int
    running: int
    signal: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run cost and gave.

    Attributes:
        attainment: Share of all requests that waited no longer than the limit and were answered.
        reversals: Changes of direction in the replicas, summed over groups.
        deleted_starting: Pods deleted before they were ever ready.
        mean_ready: Mean ready pods per group.
    """

    policy: str
    attainment: float
    wait_p50_s: float
    wait_p99_s: float
    latency_p99_s: float
    gpu_hours: float
    cost: float
    ups: int
    downs: int
    reversals: int
    deleted_starting: int
    unanswered: int
    requests: int
    mean_ready: tuple[float, ...]
    points: tuple[Point, ...]


class _Deployment:
    """A group at run time."""

    def __init__(self, group: Group, policy: Autoscaling, start: StartUp) -> None:
        self.group = group
        self.spec = HpaSpec(
            min_replicas=group.min_replicas,
            max_replicas=group.max_replicas,
            target=policy.target,
            up=policy.up,
            down=policy.down_for(start),
        )
        self.hpa = HpaController(spec=self.spec)
        self.replicas = 0
        self.pods: list[Pod] = []
        self.changes: list[tuple[float, int]] = []
        self.ready_s = 0.0


class _Simulation:
    def __init__(self, scenario: Scenario, policy: Autoscaling, seed: int) -> None:
        self.scenario, self.policy = scenario, policy
        trace = scenario.trace
        arrivals = trace.arrivals(seed).tolist()
        count = len(arrivals)
        self.requests = Requests(
            arrival_s=arrivals,
            tokens=trace.work(count, seed).tolist(),
            patience_s=scenario.patience_s,
            wait_s=[-1.0] * count,
            done_s=[-1.0] * count,
        )
        self.random = random.Random(seed * 7919 + 17)
        self.balancer = scenario.balancer(seed)
        self.deployments = [_Deployment(group, policy, scenario.start) for group in scenario.groups]
        self.of_pod: dict[int, _Deployment] = {}
        self.events: list[tuple[float, int, Callable[[float], None]]] = []
        self.order = itertools.count()
        self.every: list[Pod] = []
        self.deleted_starting = 0
        self.points: list[Point] = []
        self.end_s = trace.duration_s

    def at(self, when_s: float, action: Callable[[float], None]) -> None:
        heapq.heappush(self.events, (when_s, next(self.order), action))

    # -- pods ---------------------------------------------------------------------------------------------------------

    def create(self, deployment: _Deployment, now_s: float, *, is_ready: bool = False) -> None:
        """Create a pod; without GPUs left it stays Pending and costs nothing."""
        stock = deployment.group.stock
        has_gpu = stock is None or sum(pod.scheduled for pod in deployment.pods) < stock
        pod = Pod(
            number=len(self.every),
            sku=deployment.group.sku,
            requests=self.requests,
            created_s=now_s,
            scheduled=has_gpu,
        )
        self.every.append(pod)
        self.of_pod[pod.number] = deployment
        deployment.pods.append(pod)
        if is_ready:
            self.become_ready(pod, now_s)
        elif has_gpu:
            start = self.scenario.start
            is_cold = self.random.random() < start.cold_share
            init_s = start.cold_init_s if is_cold else start.init_s
            self.at(now_s + init_s, lambda t: self.load(pod, t))

    def load(self, pod: Pod, now_s: float) -> None:
        if pod.state is PodState.PENDING:
            pod.state = PodState.LOADING
            self.at(now_s + self.scenario.start.load_s, lambda t: self.become_ready(pod, t))

    def become_ready(self, pod: Pod, now_s: float) -> None:
        if pod.state is PodState.GONE:
            return
        pod.advance(now_s)
        pod.state, pod.ready_s = PodState.READY, now_s
        self.balancer.add(pod)
        self.at(now_s + self.random.random() * self.policy.scrape_s, lambda t: self.scrape(pod, t))

    def scrape(self, pod: Pod, now_s: float) -> None:
        if pod.state is not PodState.READY:
            return
        if self.random.random() >= self.scenario.scrape_loss:
            pod.scrape(now_s)
        self.at(now_s + self.policy.scrape_s, lambda t: self.scrape(pod, t))

    def delete(self, pod: Pod, now_s: float) -> None:
        """Delete a pod: at once if it never served, else drain it."""
        self.of_pod[pod.number].pods.remove(pod)
        if pod.state is not PodState.READY:
            self.deleted_starting += 1
            self.leave(pod, now_s)
            return
        self.balancer.remove(pod)
        pod.state = PodState.DRAINING
        if pod.outstanding:
            self.at(now_s + self.scenario.grace_s, lambda t: self.leave(pod, t))
        else:
            self.leave(pod, now_s)

    def leave(self, pod: Pod, now_s: float) -> None:
        if pod.state is PodState.GONE:
            return
        pod.advance(now_s)
        pod.abandon()
        pod.state, pod.gone_s = PodState.GONE, now_s

    def expect_completion(self, pod: Pod) -> None:
        """Make sure an event is due no later than the pod's next completion (an early one is asked again)."""
        done_s = pod.next_done_s()
        if done_s >= 0 and not 0 <= pod.event_s <= done_s:
            pod.event_s = done_s
            self.at(done_s, lambda t: self.complete(pod, t, done_s))

    def complete(self, pod: Pod, now_s: float, planned_s: float) -> None:
        if pod.event_s != planned_s or pod.state is PodState.GONE:
            return
        pod.event_s = -1.0
        pod.advance(now_s)
        pod.complete(now_s)
        if pod.state is PodState.DRAINING and not pod.outstanding:
            self.leave(pod, now_s)
        else:
            self.expect_completion(pod)

    # -- autoscaling --------------------------------------------------------------------------------------------------

    def value_of(self, pod: Pod, now_s: float) -> float | None:
        """Return the recorded series' last value: the rule ran on its own grid, up to an interval ago."""
        if pod.state is not PodState.READY or self.policy.signal is None:
            return None
        rule_s = self.policy.rule_s
        return self.policy.signal(pod.samples, pod.sku, now_s // rule_s * rule_s)

    def by_cost(self, deployment: _Deployment, own: list[float | None], now_s: float) -> list[float | None]:
        """Return ``triton:demand_by_cost:ratio`` of a deployment's pods."""
        work, weight, before = 0.0, deployment.group.weight, 0.0
        price = deployment.group.sku.cost_per_hour / weight
        for other in self.deployments:
            group = other.group
            values = own if other is deployment else [self.value_of(pod, now_s) for pod in other.pods]
            work += group.weight * sum(value for value in values if value is not None)
            if other is not deployment:
                is_cheaper = group.sku.cost_per_hour / group.weight < price
                before += group.weight * (group.max_replicas if is_cheaper else group.min_replicas)
        present = sum(value is not None for value in own)
        share = min(max(work - self.policy.target * before, 0.0) / weight / max(present, 1), CAP)
        return [None if value is None else value if value > 1 else share for value in own]

    def sync(self, deployment: _Deployment, now_s: float) -> None:
        if now_s > self.end_s:
            return
        self.at(now_s + SYNC_S, lambda t: self.sync(deployment, t))
        values = [self.value_of(pod, now_s) for pod in deployment.pods]
        if self.policy.prefer_cheap:
            values = self.by_cost(deployment, values, now_s)
        pods = [
            PodMetric(phase=Phase.PENDING if pod.state is PodState.PENDING else Phase.RUNNING, value=value)
            for pod, value in zip(deployment.pods, values, strict=True)
        ]
        spec = deployment.spec
        wanted = pods_metric_replicas(deployment.replicas, pods, spec.target, up=spec.up, down=spec.down)
        self.scale(deployment, deployment.hpa.sync(now_s, deployment.replicas, wanted), now_s)
        if deployment is self.deployments[0]:
            self.record(now_s, [value for value in values if value is not None])

    def oracle(self, now_s: float) -> None:
        """Set the replicas for the highest rate until pods asked for now would be ready; cheapest work first."""
        if now_s > self.end_s:
            return
        self.at(now_s + SYNC_S, self.oracle)
        ahead_s = self.scenario.start.expected_s + SYNC_S
        rate = float(self.scenario.trace.rate_at(np.linspace(now_s, now_s + ahead_s, 61)).max())
        work = rate * WORK_TOKENS / ORACLE_LOAD
        work -= sum(d.group.min_replicas * d.group.sku.tokens_per_s for d in self.deployments)
        cheapest = sorted(self.deployments, key=lambda d: d.group.sku.cost_per_hour / d.group.sku.tokens_per_s)
        for deployment in cheapest:
            group = deployment.group
            most = group.max_replicas if group.stock is None else min(group.max_replicas, group.stock)
            extra = min(max(math.ceil(work / group.sku.tokens_per_s - 1e-9), 0), most - group.min_replicas)
            work -= extra * group.sku.tokens_per_s
            self.scale(deployment, group.min_replicas + extra, now_s)
        self.record(now_s, [])

    def scale(self, deployment: _Deployment, replicas: int, now_s: float) -> None:
        change = replicas - deployment.replicas
        if change:
            deployment.changes.append((now_s, change))
            deployment.replicas = replicas
        for _ in range(change):
            self.create(deployment, now_s)
        if change < 0:
            # As the ReplicaSet does: not scheduled, then Pending, then not ready, then the youngest ready pod.
            rank = {PodState.PENDING: 0, PodState.LOADING: 1, PodState.READY: 2}
            order = sorted(deployment.pods, key=lambda p: (p.scheduled, rank[p.state], -p.ready_s, -p.created_s))
            for pod in order[:-change]:
                self.delete(pod, now_s)

    def record(self, now_s: float, values: list[float]) -> None:
        """Store a point of the plots and account ready pods."""
        ready = [[pod for pod in d.pods if pod.state is PodState.READY] for d in self.deployments]
        for deployment, pods in zip(self.deployments, ready, strict=True):
            deployment.ready_s += len(pods) * SYNC_S
        inside = [pod for pods in ready for pod in pods]
        self.points.append(
            Point(
                at_s=now_s,
                rate_rps=float(self.scenario.trace.rate_at(np.asarray([now_s]))[0]),
                desired=tuple(d.replicas for d in self.deployments),
                ready=tuple(len(pods) for pods in ready),
                waiting=sum(len(pod.waiting) for pod in inside),
                running=sum(len(pod.running) for pod in inside),
                signal=sum(values) / len(values) if values else 0.0,
            )
        )

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> Result:
        for deployment in self.deployments:
            deployment.replicas = deployment.group.min_replicas
            for _ in range(deployment.replicas):
                self.create(deployment, 0.0, is_ready=True)
        if self.policy.is_oracle:
            self.at(0.0, self.oracle)
        elif self.policy.signal is not None:
            for deployment in self.deployments:
                self.at(self.random.random() * SYNC_S, lambda t, d=deployment: self.sync(d, t))  # type: ignore[misc]
        self.loop()
        for pod in self.every:
            pod.gone_s = min(pod.gone_s, self.end_s) if pod.state is PodState.GONE else self.end_s
        return self.result()

    def loop(self) -> None:
        """Interleave arrivals and events until everything that arrived has ended or given up."""
        events, arrival_s, pick = self.events, self.requests.arrival_s, self.balancer.pick
        sticky = self.balancer if isinstance(self.balancer, StickyConnections) else None
        last_s = self.end_s + self.scenario.patience_s + 60.0
        index, count = 0, len(arrival_s)
        next_s = arrival_s[0] if count else math.inf
        while True:
            if events and events[0][0] <= next_s:
                now_s, _, action = heapq.heappop(events)
                if now_s > last_s:
                    return
                action(now_s)
                continue
            if index >= count:
                return
            if sticky is not None:
                sticky.now_s = next_s
            pod = pick(index)
            if pod is not None:
                pod.advance(next_s)
                pod.arrive(index, next_s)
                self.expect_completion(pod)
            index += 1
            next_s = arrival_s[index] if index < count else math.inf

    def result(self) -> Result:
        waits = np.asarray(self.requests.wait_s)
        done = np.asarray(self.requests.done_s)
        arrival = np.asarray(self.requests.arrival_s)
        answered = done >= 0
        served = np.where(answered, waits, self.scenario.patience_s)
        latency = np.where(answered, done - arrival, self.scenario.patience_s)
        hours = [(pod.gone_s - pod.created_s) / 3600 if pod.scheduled else 0.0 for pod in self.every]
        changes = [[change for _, change in d.changes] for d in self.deployments]
        return Result(
            policy=self.policy.name,
            attainment=float(np.mean(answered & (waits <= self.scenario.slo_wait_s))) if len(waits) else 1.0,
            wait_p50_s=float(np.percentile(served, 50)) if len(waits) else 0.0,
            wait_p99_s=float(np.percentile(served, 99)) if len(waits) else 0.0,
            latency_p99_s=float(np.percentile(latency, 99)) if len(waits) else 0.0,
            gpu_hours=sum(hours),
            cost=sum(h * pod.sku.cost_per_hour for h, pod in zip(hours, self.every, strict=True)),
            ups=sum(c > 0 for each in changes for c in each),
            downs=sum(c < 0 for each in changes for c in each),
            reversals=sum(a * b < 0 for each in changes for a, b in itertools.pairwise(each)),
            deleted_starting=self.deleted_starting,
            unanswered=int(np.sum(~answered)),
            requests=len(waits),
            mean_ready=tuple(d.ready_s / max(len(self.points) * SYNC_S, 1) for d in self.deployments),
            points=tuple(self.points),
        )


def simulate(scenario: Scenario, policy: Autoscaling, seed: int) -> Result:
    """Run one scenario under one policy."""
    return _Simulation(scenario, policy, seed).run()
