"""The exported times against per-request timestamps of the real cpu engine, in a real tritonserver."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.integration.front.conftest import RunningServer, serve_cpu

pytest.importorskip("openvino_genai", reason="the cpu engine (openvino-genai) is not installed")
pytestmark = pytest.mark.integration

SLOTS = 4
TOKENS = 200
WINDOW_S = 30.0
STEP_SEEN_S = 2.0
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
    """What was exported at one moment of the machine's monotonic clock."""

    at_s: float
    queue_s: float
    compute_s: float
    waiting: float
    running: float


@dataclass(frozen=True)
class Stay:
    """One request: when the client sent it, and the engine's own timestamps. All of the same clock."""

    sent_s: float
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
            self.scrapes.append(Scrape((began_s + time.monotonic()) / 2, *values))

    def ratio(self, since_s: float, until_s: float) -> tuple[float, Scrape, Scrape]:
        """Return queue over compute between the scrapes next to two moments, and those scrapes."""
        first, last = (min(self.scrapes, key=lambda one: abs(one.at_s - at_s)) for at_s in (since_s, until_s))
        return (last.queue_s - first.queue_s) / max(last.compute_s - first.compute_s, 0.01), first, last


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

    def _run(self, client: int) -> None:
        turn = 0
        while not self._stop.is_set():
            turn += 1
            sent_s = time.monotonic()
            answer = self._server.generate(
                text_input=f"The {client} and the {turn} are", max_tokens=TOKENS, min_tokens=TOKENS,
                return_perf_metrics=True,
            )  # fmt: skip
            scheduled_s, last_s = (answer[f"{name}_time_ns"] / 1e9 for name in ("first_scheduled", "last_token"))
            self.stays.append(Stay(sent_s, scheduled_s, last_s))


def true_ratio(stays: list[Stay], since_s: float, until_s: float) -> float:
    """Return seconds of waiting over seconds of computing that fall between two moments."""

    def inside(start_s: float, end_s: float) -> float:
        return max(0.0, min(end_s, until_s) - max(start_s, since_s))

    compute_s = sum(inside(stay.scheduled_s, stay.last_token_s) for stay in stays)
    return sum(inside(stay.sent_s, stay.scheduled_s) for stay in stays) / compute_s


def test_idle_a_step_overload_and_idle_again(server: RunningServer) -> None:
    """Three times as many clients as slots: about two wait for each that runs, in every window of half a minute."""
    with Watch(server) as watch:
        time.sleep(2.0)
        with Load(server, 1) as light:
            time.sleep(3.0)
            stepped_s = time.monotonic()
            with Load(server, 3 * SLOTS - 1) as heavy:
                time.sleep(WINDOW_S + 14.0)
                ended_s = time.monotonic()
        drained_s = time.monotonic()
        time.sleep(3.0)
    stays = light.stays + heavy.stays
    idle = [one for one in watch.scrapes if one.at_s < stepped_s - 3.5]
    assert idle and {(one.queue_s, one.compute_s, one.waiting, one.running) for one in idle} == {(0, 0, 0, 0)}

    before, _, _ = watch.ratio(stepped_s - 2.5, stepped_s - 0.3)
    assert before < 0.1
    moved_s = next(one.at_s for one in watch.scrapes if one.at_s > stepped_s and one.waiting > SLOTS)
    after, _, seen = watch.ratio(moved_s - 0.25, moved_s + 0.75)
    assert after > 1.0 and seen.at_s - stepped_s < STEP_SEEN_S

    starts = [stepped_s + 2.0 + offset for offset in range(12)]
    windows = [watch.ratio(start, start + WINDOW_S) for start in starts if start + WINDOW_S < ended_s]
    assert len(windows) >= 10
    for exported, first, end in windows:
        truth = true_ratio(stays, first.at_s, end.at_s)
        assert 1.5 < truth < 2.6
        assert exported == pytest.approx(truth, rel=0.10)

    none, rested, end = watch.ratio(drained_s + 1.0, drained_s + 2.8)
    assert none == 0 and rested.compute_s == end.compute_s
    assert (end.waiting, end.running) == (0, 0)
