"""Pods with in-flight batching: what serves the requests of the simulator.

A pod holds up to ``slots`` requests at once and gives each of them a token every ``base_s + per_request_s * batch``
seconds; the others wait in order of arrival. That is processor sharing, so a virtual clock per pod (tokens given to
every running request so far) yields the exact time of each completion. Not modelled: the KV cache as a second limit,
prefill that stalls decoding, and speeds that drift with the context's length.

Source of the linear law: inter-token latency = alpha + beta x batch, fitted on real GPUs by llm-d's workload variant
autoscaler (docs/design/modeling-optimization.md).
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from enum import Enum

from benchmarks.autoscaling.promql import Sample


@dataclass(frozen=True, kw_only=True)
class Sku:
    """A GPU product as a server of tokens.

    Attributes:
        slots: Requests that run at once.
        base_s: Seconds per token of one request alone, less the batch's share.
        per_request_s: Seconds that each running request adds to everybody's token.
        cost_per_hour: Of one pod, any currency.
    """

    name: str
    slots: int
    base_s: float
    per_request_s: float
    cost_per_hour: float = 1.0

    @property
    def batching_factor(self) -> float:
        """k: how much slower a token is in a full batch, compared with the base."""
        return self.per_request_s * self.slots / self.base_s

    @property
    def tokens_per_s(self) -> float:
        """Throughput with every slot busy."""
        return self.slots / (self.base_s + self.per_request_s * self.slots)


# Two fictitious products about 1:2 in speed; not fitted to published numbers.
A100_LIKE = Sku(name="a100-like", slots=64, base_s=0.012, per_request_s=0.0003, cost_per_hour=1.0)
H100_LIKE = Sku(name="h100-like", slots=64, base_s=0.007, per_request_s=0.00013, cost_per_hour=2.0)


@dataclass(frozen=True, kw_only=True)
class StartUp:
    """How long a new pod takes: the init container (Pending), then loading the engine (Running, no metrics yet).

    Attributes:
        init_s: Seconds of the init container with the engine in the cache.
        load_s: Seconds from the server's start to ready.
        cold_init_s: Seconds of an init container that has to build.
        cold_share: Share of the new pods that build.
    """

    init_s: float = 15.0
    load_s: float = 45.0
    cold_init_s: float = 1140.0
    cold_share: float = 0.0

    @property
    def expected_s(self) -> float:
        """Seconds from created to ready that a careful operator declares: the slowest that happens."""
        return (self.cold_init_s if self.cold_share > 0 else self.init_s) + self.load_s


class PodState(Enum):
    """Where a pod is in its life."""

    PENDING = "pending"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    GONE = "gone"


@dataclass(kw_only=True)
class Requests:
    """Every request of a run, by index.

    Attributes:
        arrival_s: Time of arrival.
        tokens: Tokens of work (output, and the prompt's equivalent).
        patience_s: A client gives up after waiting this long.
        wait_s: Seconds waited, or -1 while unknown.
        done_s: Time of the last token, or -1.
    """

    arrival_s: list[float]
    tokens: list[float]
    patience_s: float
    wait_s: list[float]
    done_s: list[float]


class Pod:
    """One pod: state, requests, and the counters that its metrics endpoint would show."""

    __slots__ = (
        "_tokens_given",
        "_updated_s",
        "busy_s",
        "by_proxy",
        "compute_s",
        "created_s",
        "done",
        "done_compute_s",
        "done_queue_s",
        "event_s",
        "gone_s",
        "number",
        "proxied",
        "queue_s",
        "ready_index",
        "ready_s",
        "requests",
        "running",
        "samples",
        "scheduled",
        "sku",
        "state",
        "waiting",
    )

    def __init__(self, *, number: int, sku: Sku, requests: Requests, created_s: float, scheduled: bool = True) -> None:
        self.number = number
        self.sku = sku
        self.requests = requests
        self.created_s = created_s
        self.scheduled = scheduled
        self.ready_s = -1.0
        self.gone_s = -1.0
        self.state = PodState.PENDING
        self.running: list[tuple[float, int]] = []
        self.waiting: deque[int] = deque()
        self.samples: deque[Sample] = deque(maxlen=64)
        self.ready_index = -1
        self.event_s = -1.0
        self.by_proxy: dict[int, int] = {}
        self.proxied: dict[int, int] = {}
        self.queue_s = self.compute_s = self.busy_s = 0.0
        self.done = 0
        self.done_queue_s = self.done_compute_s = 0.0
        self._tokens_given = 0.0
        self._updated_s = created_s

    @property
    def outstanding(self) -> int:
        """Requests inside."""
        return len(self.running) + len(self.waiting)

    def advance(self, now_s: float) -> None:
        """Bring the counters to ``now_s``; nothing completes in between (the caller sees to that)."""
        running, waiting = self.running, self.waiting
        elapsed_s = now_s - self._updated_s
        if elapsed_s <= 0:
            return
        self._updated_s = now_s
        if running:
            batch = len(running)
            self._tokens_given += elapsed_s / (self.sku.base_s + self.sku.per_request_s * batch)
            self.compute_s += batch * elapsed_s
            self.busy_s += elapsed_s
        if waiting:
            self._wait(now_s, elapsed_s)

    def _wait(self, now_s: float, elapsed_s: float) -> None:
        """Account waiting, and let those go who have lost patience; the first in line always loses it first."""
        requests, waiting = self.requests, self.waiting
        patience_s = requests.patience_s
        self.queue_s += len(waiting) * elapsed_s
        while waiting:
            first = waiting[0]
            gives_up_s = requests.arrival_s[first] + patience_s
            if gives_up_s > now_s:
                return
            waiting.popleft()
            self.queue_s -= min(now_s - gives_up_s, elapsed_s)
            requests.wait_s[first] = patience_s
            self._forget(first)

    def _forget(self, index: int) -> None:
        proxy = self.proxied.pop(index, None)
        if proxy is not None:
            self.by_proxy[proxy] -= 1

    def arrive(self, index: int, now_s: float) -> None:
        """Take a request at ``now_s`` (the pod must be advanced to it)."""
        if len(self.running) < self.sku.slots:
            self._start(index, now_s)
        else:
            self.waiting.append(index)

    def _start(self, index: int, now_s: float) -> None:
        requests = self.requests
        requests.wait_s[index] = now_s - requests.arrival_s[index]
        heapq.heappush(self.running, (self._tokens_given + requests.tokens[index], index))

    def next_done_s(self) -> float:
        """Return when the next running request ends, or -1 where none runs."""
        if not self.running:
            return -1.0
        left = self.running[0][0] - self._tokens_given
        return self._updated_s + max(left, 0.0) * (self.sku.base_s + self.sku.per_request_s * len(self.running))

    def complete(self, now_s: float) -> None:
        """End what is due at ``now_s`` and start those who waited (the pod must be advanced to it)."""
        requests, running, waiting = self.requests, self.running, self.waiting
        due = self._tokens_given + 1e-6
        while running and running[0][0] <= due:
            index = heapq.heappop(running)[1]
            requests.done_s[index] = now_s
            waited_s = requests.wait_s[index]
            self.done += 1
            self.done_queue_s += waited_s
            self.done_compute_s += now_s - requests.arrival_s[index] - waited_s
            self._forget(index)
        while waiting and len(running) < self.sku.slots:
            self._start(waiting.popleft(), now_s)

    def scrape(self, now_s: float) -> None:
        """Store what a scrape at ``now_s`` reads."""
        self.advance(now_s)
        self.samples.append(
            Sample(
                at_s=now_s,
                queue_s=self.queue_s,
                compute_s=self.compute_s,
                waiting=len(self.waiting),
                running=len(self.running),
                busy_s=self.busy_s,
                done=self.done,
                done_queue_s=self.done_queue_s,
                done_compute_s=self.done_compute_s,
            )
        )

    def abandon(self) -> None:
        """Drop everything inside: the pod was killed before it had drained."""
        for _, index in self.running:
            self.requests.wait_s[index] = self.requests.patience_s
        for index in self.waiting:
            self.requests.wait_s[index] = self.requests.patience_s
        self.running.clear()
        self.waiting.clear()
        self.by_proxy.clear()
        self.proxied.clear()
