"""The front model and the full layout on the real cpu engine, built here from the example checkpoint."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.integration.front.conftest import RunningServer, serve_cpu
from tests.integration.front.test_front_layout import _ask

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


@pytest.mark.parametrize("stream", [pytest.param(True, id="stream"), pytest.param(False, id="whole")])
def test_triton_s_own_openai_frontend_gets_what_it_asks_for(server: RunningServer, stream: bool) -> None:
    """What it sends to a model that is not vLLM's, with its schema's defaults; it adds the counts of a stream up.

    Source: triton-inference-server/server, python/openai/openai_frontend/engine/utils/triton.py
    (_create_trtllm_generate_request, _get_usage_from_response) and schemas/openai.py.
    """
    results = _ask(
        server, "tensorrt_llm_bls", wants_all=True, text_input=PROMPT, stream=stream, max_tokens=9, stop_words=["§"],
        top_p=1.0, frequency_penalty=0.0, presence_penalty=0.0, temperature=1.0, exclude_input_in_output=True,
        return_num_input_tokens=True, return_num_output_tokens=True,
    )  # fmt: skip
    with_text = [result for result in results if result.as_numpy("text_output") is not None]
    assert all(result.as_numpy("text_output").size == 1 for result in with_text)
    assert len(results) <= 2 or stream
    counts = [result.as_numpy("num_output_tokens") for result in results]
    assert sum(int(each.reshape(-1)[0]) for each in counts if each is not None) == 9
    inputs = [result.as_numpy("num_input_tokens") for result in results]
    [count] = [each for each in inputs if each is not None]
    assert (
        count.dtype == np.int32
        and count.reshape(-1)[0] == server.generate(text_input=PROMPT, max_tokens=1)["prompt_tokens"]
    )


def test_the_front_model_counts_under_upstream_s_names_too(server: RunningServer) -> None:
    wanted = {"return_num_input_tokens": True, "return_num_output_tokens": True}
    answer = server.generate(text_input=PROMPT, max_tokens=7, **wanted)
    assert (answer["num_input_tokens"], answer["num_output_tokens"]) == (answer["prompt_tokens"], 7)
    assert "num_output_tokens" not in server.generate(text_input=PROMPT, max_tokens=7)
    assert (
        server.generate(text_input=PROMPT, max_tokens=9, top_p=0.9, temperature=1.5, min_p=1.0, seed=5)["text_output"]
        == server.generate(text_input=PROMPT, max_tokens=9)["text_output"]
    )


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
