"""The front model and the full layout on the real cpu engine, built here from the example checkpoint."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.front.conftest import RunningServer, serve_cpu

pytest.importorskip("openvino_genai", reason="the cpu engine (openvino-genai) is not installed")
pytestmark = pytest.mark.integration

PROMPT = "The assert statement"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serve_cpu(tmp_path_factory.mktemp("cpu"), "--layout", "full") as running:
        yield running


def test_streamed_and_whole_text_are_equal(server: RunningServer) -> None:
    whole = server.generate(text_input=PROMPT, max_tokens=30)
    events = server.stream(text_input=PROMPT, max_tokens=30)
    assert len(whole["text_output"]) > 20
    assert "".join(event["text_output"] for event in events) == whole["text_output"]
    assert whole["finish_reason"] == events[-1]["finish_reason"] == "length"


def test_a_stop_string_cuts_the_same_text(server: RunningServer) -> None:
    whole = server.generate(text_input=PROMPT, max_tokens=30)["text_output"]
    stop = whole[12:16]
    cut = server.generate(text_input=PROMPT, max_tokens=30, stop_words=[stop])
    assert cut["text_output"] == whole[: whole.index(stop)]
    assert cut["finish_reason"] == "stop"


def test_the_other_layout_s_models_say_the_same(server: RunningServer) -> None:
    whole = server.generate(text_input=PROMPT, max_tokens=12)["text_output"]
    for model in ("ensemble", "tensorrt_llm_bls"):
        status, text = server.post(f"{model}/generate", {"text_input": PROMPT, "max_tokens": 12})
        assert status == 200, text
        assert json.loads(text)["text_output"] == PROMPT + whole  # upstream's default; its clients count on it
        body = {"text_input": PROMPT, "max_tokens": 12, "exclude_input_in_output": True}
        status, text = server.post(f"{model}/generate", body)
        assert (status, json.loads(text)["text_output"]) == (200, whole)


def test_thirty_two_clients_at_once_get_the_same_text(server: RunningServer) -> None:
    alone = server.generate(text_input=PROMPT, max_tokens=20)["text_output"]
    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(lambda _: server.generate(text_input=PROMPT, max_tokens=20)["text_output"], range(32)))
    assert together == [alone] * 32
    server.eventually(lambda: server.metric("trtbuild_requests_running") == 0, "nothing runs")
    queue_s = server.metric("trtbuild_request_queue_seconds_total")
    compute_s = server.metric("trtbuild_request_compute_seconds_total")
    assert queue_s > compute_s > 0  # 32 clients at 4 slots: seven times as many wait as run


def test_a_client_may_ask_when_its_request_was_computed(server: RunningServer) -> None:
    began_ns = time.monotonic_ns()
    answer = server.generate(text_input=PROMPT, max_tokens=5, return_perf_metrics=True)
    ended_ns = time.monotonic_ns()
    times_ns = [answer[f"{name}_time_ns"] for name in ("arrival", "first_scheduled", "first_token", "last_token")]
    in_order = [began_ns, *times_ns, ended_ns]
    assert in_order == sorted(in_order)
    assert "arrival_time_ns" not in server.generate(text_input=PROMPT, max_tokens=5)


def test_hanging_up_frees_the_engine(server: RunningServer) -> None:
    with server.open_streams(8, text_input=PROMPT, max_tokens=400):
        server.eventually(lambda: server.metric("trtbuild_requests_waiting") == 4, "four wait")
    server.eventually(lambda: server.metric("trtbuild_requests_running") == 0, "nothing runs")
    assert server.metric("trtbuild_requests_waiting") == 0
    assert server.generate(text_input=PROMPT, max_tokens=3)["completion_tokens"] == 3


def test_a_server_that_has_seen_stop_strings_ends_when_told(tmp_path: Path) -> None:
    """Calls to the engine that are reset as they end are never forgotten by the server: it would take its 30 s."""
    with serve_cpu(tmp_path) as running:
        whole = running.generate(text_input=PROMPT, max_tokens=40)["text_output"]
        words = [word for word in whole.split()[2:] if len(word) > 2]
        with ThreadPoolExecutor(4) as pool:
            ends = pool.map(
                lambda turn: running.generate(text_input=PROMPT, max_tokens=40, stop_words=[words[turn % len(words)]])[
                    "finish_reason"
                ],
                range(200),
            )
            assert set(ends) == {"stop"}
    assert "Exit timeout expired" not in running.log_path.read_text()
