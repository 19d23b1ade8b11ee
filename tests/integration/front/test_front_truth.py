"""The exported times against per-request timestamps of the real cpu engine, in a real tritonserver.

Nothing here depends on how fast the machine is. Loads last until a number of requests has ended; what is exported must
lie between two figures from the engine's timestamps, for the earliest and the latest moment that a scrape can speak of.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from tests.integration.front.conftest import RunningServer, serve_cpu

pytest.importorskip("openvino_genai", reason="the cpu engine (openvino-genai) is not installed")
pytestmark = pytest.mark.integration

SLOTS = 4
CLIENTS = 3 * SLOTS
TOKENS = 200
LAG_S = 1.0
"""How far a scrape may be from the truth: five turns of the front model, which exports in each (metrics/live.py)."""
PRECISION = 0.10
SERIES = (
    "trtbuild_request_queue_seconds_total",
    "trtbuild_request_compute_seconds_total",
    "trtbuild_requests_waiting",
    "trtbuild_requests_running",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serve_cpu(tmp_path_factory.mktemp("truth")) as running:
        yield running


@dataclass(frozen=True)
class Scrape:
    """What was exported at some moment between two of the machine's monotonic clock."""

    began_s: float
    ended_s: float
    queue_s: float
    compute_s: float
    waiting: float
    running: float


@dataclass(frozen=True)
class Stay:
    """One request by the server's own timestamps, all of the monotonic clock."""

    arrived_s: float
    scheduled_s: float
    last_token_s: float


class Watch:
    """Scrapes four times a second until the end of the block."""

    def __init__(self, server: RunningServer) -> None:
        self.scrapes: list[Scrape] = []
        self._server, self._stop = server, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.25):
            began_s = time.monotonic()
            values = self._server.metrics(*SERIES)
            self.scrapes.append(Scrape(began_s, time.monotonic(), *values))

    def more(self, count: int) -> list[Scrape]:
        """Return the next ``count`` scrapes that begin from now on."""
        now_s = time.monotonic()
        self._server.eventually(lambda: len(self._since(now_s)) >= count, f"{count} scrapes", 120.0)
        return self._since(now_s)[:count]

    def _since(self, now_s: float) -> list[Scrape]:
        return [one for one in self.scrapes if one.began_s >= now_s]


class Load:
    """Clients in a closed loop."""

    def __init__(self, server: RunningServer, clients: int) -> None:
        self.stays: list[Stay] = []
        self._server, self._stop = server, threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def until_ended(self, count: int) -> None:
        """Wait until so many requests have ended, however long that takes here."""
        self._server.eventually(lambda: len(self.stays) >= count, f"{count} requests ended", 600.0)

    def _run(self, client: int) -> None:
        turn = 0
        while not self._stop.is_set():
            turn += 1
            answer = self._server.generate(
                text_input=f"The {client} and the {turn} are", max_tokens=TOKENS, min_tokens=TOKENS,
                return_perf_metrics=True,
            )  # fmt: skip
            names = ("arrival", "first_scheduled", "last_token")
            self.stays.append(Stay(*(answer[f"{name}_time_ns"] / 1e9 for name in names)))


Span = Callable[[Stay], tuple[float, float]]


def waited(stay: Stay) -> tuple[float, float]:
    return stay.arrived_s, stay.scheduled_s


def computed(stay: Stay) -> tuple[float, float]:
    return stay.scheduled_s, stay.last_token_s


def seconds(stays: Sequence[Stay], span: Span, since_s: float, until_s: float) -> float:
    """Return the request-seconds of one kind between two moments."""
    return sum(max(0.0, min(end, until_s) - max(start, since_s)) for start, end in map(span, stays))


def counts(stays: Sequence[Stay], span: Span, since_s: float, until_s: float) -> set[int]:
    """Return every number of requests of one kind that there was between two moments."""
    spans = [span(stay) for stay in stays]
    changes = {moment for pair in spans for moment in pair if since_s < moment < until_s}
    return {sum(start <= moment < end for start, end in spans) for moment in {since_s, *changes}}


def assert_between(stays: Sequence[Stay], first: Scrape, last: Scrape) -> None:
    """Both counters grew by what the requests did, between the moments that the two scrapes can speak of."""
    for span, grown in ((waited, last.queue_s - first.queue_s), (computed, last.compute_s - first.compute_s)):
        least = seconds(stays, span, first.ended_s + LAG_S, last.began_s - LAG_S)
        most = seconds(stays, span, first.began_s - LAG_S, last.ended_s + LAG_S)
        assert (1 - PRECISION) * least <= grown <= (1 + PRECISION) * most, (span.__name__, first, last)


def test_idle_a_step_overload_and_idle_again(server: RunningServer) -> None:
    """One client, then three times as many as slots: about two wait for each that runs."""
    with Watch(server) as watch:
        idle = watch.more(4)
        with Load(server, 1) as light:
            light.until_ended(3)
            stepped = watch.more(1)[0]
            with Load(server, CLIENTS - 1) as heavy:
                heavy.until_ended(12 * CLIENTS)
                crowded = watch.more(1)[0]
        rested = watch.more(4 + round(LAG_S / 0.25))[-4:]
        end = rested[-1]
    stays = light.stays + heavy.stays

    assert {(one.queue_s, one.compute_s, one.waiting, one.running) for one in idle} == {(0, 0, 0, 0)}
    assert {(one.queue_s, one.compute_s, one.waiting, one.running) for one in rested} == {
        (end.queue_s, end.compute_s, 0, 0)
    }

    # Idle at both ends: the counters are sums over requests, whenever they were read.
    assert end.compute_s == pytest.approx(sum(stop - start for start, stop in map(computed, stays)), rel=0.02)
    assert end.queue_s == pytest.approx(sum(stop - start for start, stop in map(waited, stays)), rel=0.05)

    # While requests wait and run the counters grow with them, not when they end.
    busy = [one for one in watch.scrapes if stepped.began_s <= one.began_s <= crowded.began_s]
    half = len(busy) // 2
    assert half >= 8
    for first, last in [(idle[-1], stepped), (stepped, crowded), *zip(busy, busy[half:], strict=False)]:
        assert_between(stays, first, last)

    for one in watch.scrapes:
        for span, shown in ((waited, one.waiting), (computed, one.running)):
            true = counts(stays, span, one.began_s - LAG_S, one.ended_s + LAG_S)
            assert min(true) <= shown <= max(true), (span.__name__, one)
    assert max(one.waiting for one in busy) > SLOTS == max(one.running for one in busy)

    ratios = [
        (last.queue_s - first.queue_s) / (last.compute_s - first.compute_s)
        for first, last in itertools.pairwise((idle[-1], stepped, crowded))
    ]
    # Two wait for each that runs, give or take what clients and slots need between requests; one alone does not wait.
    assert ratios[0] < 0.5 < 1.0 < ratios[1] < 4.0, ratios
