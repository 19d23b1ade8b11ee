"""What the front model knows about its load: waiting, running, seconds of both, tokens, outcomes, latencies.

It decides the arithmetic of the metrics, and nothing else: no clock, no threads of its own, no Triton. Times are
seconds of one monotonic clock, given by the caller, and must not decrease.

Two counters integrate the number of waiting and of running requests over time, so they grow while requests are still
waiting and ``rate(queue) / rate(compute)`` is the ratio of the mean numbers (Little's law). When a request ends and
the engine says when it was really scheduled, its share is corrected. A correction downwards is carried as a debt that
later growth pays off: what is exported never decreases.
"""

from __future__ import annotations

import bisect
import enum
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

OUTCOMES = ("ok", "cancelled", "failed", "invalid", "rejected")
"""How a request can end; ``invalid`` is the client's fault, ``failed`` the server's, ``rejected`` a lack of room."""
FIRST_TOKEN_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
INTER_TOKEN_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
DURATION_BOUNDS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class State(enum.Enum):
    """Where a request is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"


@dataclass(frozen=True, kw_only=True)
class EngineTimes:
    """What the engine says about one request, in seconds.

    Attributes:
        waited_s: From its arrival at the engine until it was scheduled.
        computed_s: From then until its last token.
    """

    waited_s: float
    computed_s: float


class Distribution:
    """Counts of observations in buckets, with sum and count, as a Prometheus histogram exports them."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Add ``times`` observations of ``value``."""
        self.counts[bisect.bisect_left(self.bounds, value)] += times
        self.total += value * times

    def cumulative(self) -> dict[str, int]:
        """Return the cumulative counts by ``le``."""
        result: dict[str, int] = {}
        count = 0
        for bound, number in zip([*self.bounds, float("inf")], self.counts, strict=True):
            count += number
            result["+Inf" if bound == float("inf") else f"{bound:g}"] = count
        return result


@dataclass(slots=True, eq=False)
class Account:
    """One request's share. Made by :meth:`Accounting.arrive`; changed by :class:`Accounting` only."""

    arrived_s: float
    state: State = State.WAITING
    started_s: float = 0.0
    last_token_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything that is exported, at one moment."""

    waiting: int
    running: int
    stalled_s: float
    queue_s: float
    compute_s: float
    prompt_tokens: int
    generation_tokens: int
    outcomes: Mapping[str, int]
    first_token: tuple[Mapping[str, int], float]
    inter_token: tuple[Mapping[str, int], float]
    duration: tuple[Mapping[str, int], float]


class Accounting:
    """The sums over all requests of one front model. Thread-safe."""

    def __init__(self, now_s: float) -> None:
        self._lock = threading.Lock()
        self._now_s = now_s
        self._progress_s = now_s
        self._waiting = self._running = 0
        self._queue_s = self._compute_s = 0.0
        self._queue_shown_s = self._compute_shown_s = 0.0
        self._prompt_tokens = self._generation_tokens = 0
        self._outcomes = dict.fromkeys(OUTCOMES, 0)
        self._first_token = Distribution(FIRST_TOKEN_BOUNDS_S)
        self._inter_token = Distribution(INTER_TOKEN_BOUNDS_S)
        self._duration = Distribution(DURATION_BOUNDS_S)

    def arrive(self, now_s: float) -> Account:
        """A request came in and waits."""
        with self._lock:
            self._advance(now_s)
            self._waiting += 1
            return Account(arrived_s=now_s)

    def reject(self) -> None:
        """A request was refused on arrival."""
        with self._lock:
            self._outcomes["rejected"] += 1

    def start(self, account: Account, now_s: float, prompt_tokens: int) -> None:
        """A waiting request was given to the engine."""
        with self._lock:
            if account.state is not State.WAITING:
                return
            self._advance(now_s)
            self._waiting -= 1
            if not self._running:  # before, there was nothing to make progress with
                self._progress_s = now_s
            self._running += 1
            self._prompt_tokens += prompt_tokens
            account.state = State.RUNNING
            account.started_s = now_s

    def add_tokens(self, account: Account, now_s: float, count: int) -> None:
        """``count`` more tokens of a running request arrived together."""
        if count <= 0:
            return
        with self._lock:
            if account.state is not State.RUNNING:
                return
            self._generation_tokens += count
            self._progress_s = now_s
            if account.last_token_s is None:  # tokens that come with the first one cannot be told apart in time
                self._first_token.observe(now_s - account.arrived_s)
            else:
                self._inter_token.observe((now_s - account.last_token_s) / count, count)
            account.last_token_s = now_s

    def finish(self, account: Account, now_s: float, outcome: str, times: EngineTimes | None = None) -> None:
        """A request is over, wherever it was. A second call changes nothing."""
        with self._lock:
            if account.state is State.DONE:
                return
            self._advance(now_s)
            if account.state is State.WAITING:
                self._waiting -= 1
            else:
                self._running -= 1
                if outcome == "ok":
                    self._progress_s = now_s
                if times is not None:
                    self._settle(now_s - account.started_s, times)
            account.state = State.DONE
            self._outcomes[outcome] += 1
            if outcome == "ok":
                self._duration.observe(now_s - account.arrived_s)

    def snapshot(self, now_s: float) -> Snapshot:
        """Return what is to be exported now."""
        with self._lock:
            self._advance(now_s)
            self._queue_shown_s = max(self._queue_shown_s, self._queue_s)
            self._compute_shown_s = max(self._compute_shown_s, self._compute_s)
            return Snapshot(
                waiting=self._waiting,
                running=self._running,
                stalled_s=now_s - self._progress_s if self._running else 0.0,
                queue_s=self._queue_shown_s,
                compute_s=self._compute_shown_s,
                prompt_tokens=self._prompt_tokens,
                generation_tokens=self._generation_tokens,
                outcomes=dict(self._outcomes),
                first_token=(self._first_token.cumulative(), self._first_token.total),
                inter_token=(self._inter_token.cumulative(), self._inter_token.total),
                duration=(self._duration.cumulative(), self._duration.total),
            )

    def _advance(self, now_s: float) -> None:
        elapsed = max(0.0, now_s - self._now_s)
        self._now_s = max(self._now_s, now_s)
        self._queue_s += self._waiting * elapsed
        self._compute_s += self._running * elapsed

    def _settle(self, charged_s: float, times: EngineTimes) -> None:
        """Replace the ``charged_s`` seconds that a request counted as running by what the engine measured."""
        waited = min(max(0.0, times.waited_s), charged_s)
        computed = min(max(0.0, times.computed_s), charged_s - waited)
        self._queue_s += waited
        self._compute_s += computed - charged_s
