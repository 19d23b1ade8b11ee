"""The exported numbers in a real tritonserver, on an engine whose speed is known."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.front.conftest import RunningServer, engine_info, serve, standin
from trtbuild.repository import ServedModel, write_repository

pytestmark = pytest.mark.integration

SLOTS = 4
STEP_S = 0.05
TOKENS = 10
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


def test_idle_is_zero_and_there(server: RunningServer) -> None:
    assert server.metric(QUEUE) == server.metric(COMPUTE) == 0
    assert server.metric("trtbuild_requests_waiting") == server.metric("trtbuild_requests_running") == 0
    assert server.metric("trtbuild_request_slots") == SLOTS
    for outcome in ("ok", "failed", "invalid", "cancelled", "rejected"):
        assert server.metric("trtbuild_requests_total", outcome=outcome) == 0
    assert server.metric("trtbuild_time_to_first_token_seconds_bucket", le="+Inf") == 0


def test_after_the_load_everything_is_zero_again_and_stands_still(server: RunningServer) -> None:
    """Three times as many clients as slots."""
    with ThreadPoolExecutor(3 * SLOTS) as pool:
        answers = pool.map(lambda turn: server.generate(text_input=f"{turn} asks", max_tokens=TOKENS), range(6 * SLOTS))
        assert [answer["completion_tokens"] for answer in answers] == [TOKENS] * 6 * SLOTS
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
