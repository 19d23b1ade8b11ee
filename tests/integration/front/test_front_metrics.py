"""The exported numbers against what the engine itself measured, in a real tritonserver."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.front.conftest import RunningServer, engine_info, serve, standin
from tests.unit.front import kinds
from trtbuild.repository import ServedModel, write_repository

pytestmark = pytest.mark.integration

SLOTS = 4
STEP_S = 0.05
TOKENS = 10
WINDOW_S = 12.0
QUEUE, COMPUTE = "trtbuild_request_queue_seconds_total", "trtbuild_request_compute_seconds_total"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, front_tokenizer: Path) -> Iterator[RunningServer]:
    workspace = tmp_path_factory.mktemp("metrics")
    record = workspace / "engine.jsonl"
    model = ServedModel(
        served_name="chat",
        engine_template=standin(SLOTS, STEP_S, record),
        engine_info=engine_info(SLOTS),
        tokenizer_dir=front_tokenizer,
    )
    with serve(write_repository(workspace / "repository", [model]), workspace, record) as running:
        yield running


class Load:
    """Clients in a closed loop; remembers when each request was sent, by its first tokens."""

    def __init__(self, server: RunningServer, clients: int) -> None:
        self.sent: dict[tuple[int, ...], float] = {}
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
            prompt = f"{client}-{turn} asks"
            turn += 1
            self.sent[tuple(kinds.byte_level().encode(prompt).ids)] = time.time()
            assert self._server.generate(text_input=prompt, max_tokens=TOKENS)["completion_tokens"] == TOKENS


def _overlap_s(start: float, end: float, window: tuple[float, float]) -> float:
    return max(0.0, min(end, window[1]) - max(start, window[0]))


def test_idle_is_zero_and_there(server: RunningServer) -> None:
    assert server.metric(QUEUE) == server.metric(COMPUTE) == 0
    assert server.metric("trtbuild_requests_waiting") == server.metric("trtbuild_requests_running") == 0
    assert server.metric("trtbuild_request_slots") == SLOTS
    for outcome in ("ok", "failed", "cancelled", "rejected"):
        assert server.metric("trtbuild_requests_total", outcome=outcome) == 0
    assert server.metric("trtbuild_time_to_first_token_seconds_bucket", le="+Inf") == 0


def test_the_ratio_is_the_engine_s_own_within_ten_percent(server: RunningServer) -> None:
    """Three times as many clients as slots: the honest ratio of waiting to running is about two."""
    with Load(server, 3 * SLOTS) as load:
        server.eventually(lambda: server.metric("trtbuild_requests_waiting") > 0, "somebody waits")
        time.sleep(1.0)
        began, queue_s, compute_s = time.time(), server.metric(QUEUE), server.metric(COMPUTE)
        time.sleep(WINDOW_S)
        ended, queue_s, compute_s = time.time(), server.metric(QUEUE) - queue_s, server.metric(COMPUTE) - compute_s
    window = (began, ended)
    true_queue_s = true_compute_s = 0.0
    for record in server.records():
        sent = load.sent.get(tuple(record["prompt"]))
        if sent is not None:
            scheduled, last = record["scheduled_ns"] / 1e9, record["last_ns"] / 1e9
            true_queue_s += _overlap_s(sent, scheduled, window)
            true_compute_s += _overlap_s(scheduled, last, window)
    assert true_compute_s > WINDOW_S  # there was a steady overload at all
    assert 1.5 < true_queue_s / true_compute_s < 3.0
    assert queue_s / compute_s == pytest.approx(true_queue_s / true_compute_s, rel=0.10)


def test_after_the_load_everything_is_zero_again_and_stands_still(server: RunningServer) -> None:
    server.eventually(lambda: server.metric("trtbuild_requests_running") == 0, "nothing runs")
    assert server.metric("trtbuild_requests_waiting") == 0
    time.sleep(1.5)  # the last tick of the distributions
    before = [server.metric(QUEUE), server.metric(COMPUTE), server.metric("trtbuild_generation_tokens_total")]
    time.sleep(1.0)
    after = [server.metric(QUEUE), server.metric(COMPUTE), server.metric("trtbuild_generation_tokens_total")]
    assert before == after
    done = len(server.records())
    assert server.metric("trtbuild_requests_total", outcome="ok") == done
    assert server.metric("trtbuild_generation_tokens_total") == done * TOKENS
    assert server.metric("trtbuild_request_duration_seconds_count") == done
    assert server.metric("trtbuild_time_to_first_token_seconds_count") == done


def test_it_moves_while_requests_wait_not_when_they_end(server: RunningServer) -> None:
    """Requests of 25 s in every slot and one in line: the queue counter grows before any of them has ended."""
    before, ended = server.metric(QUEUE), len(server.records())
    with server.open_streams(SLOTS + 1, text_input="long", max_tokens=500):
        server.eventually(lambda: server.metric("trtbuild_requests_waiting") == 1, "one waits", timeout_s=10)
        server.eventually(lambda: server.metric(QUEUE) > before + 1.0, "the counter has grown", timeout_s=10)
        assert len(server.records()) == ended
    server.eventually(lambda: server.metric("trtbuild_requests_running") == 0, "nothing runs")
    assert server.metric("trtbuild_requests_waiting") == 0
