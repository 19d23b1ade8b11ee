"""The front model in a real tritonserver, over HTTP and gRPC, with a stand-in engine."""

from __future__ import annotations

import json
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from tritonclient.utils import InferenceServerException

from tests.integration.front.conftest import RunningServer
from tests.unit.front import kinds

pytestmark = pytest.mark.integration

PROMPT = "Größe: naïve café, 日本語 and 🙂🙂 too."


def _echo(prompt: str, tokens: int) -> str:
    """Return what the stand-in engine answers: the prompt's tokens in turn (BOS is skipped when decoded)."""
    ids = kinds.byte_level().encode(prompt).ids
    return kinds.byte_level().decode([ids[at % len(ids)] for at in range(tokens)])


def test_generate_answers_once_with_everything(server: RunningServer) -> None:
    answer = server.generate(text_input=PROMPT, max_tokens=30)
    assert answer["text_output"] == _echo(PROMPT, 30)
    assert answer["finish_reason"] == "length"
    assert answer["completion_tokens"] == 30
    assert answer["prompt_tokens"] == len(kinds.byte_level().encode(PROMPT).ids)


def test_the_stream_adds_up_to_the_whole_and_ends_with_the_reason(server: RunningServer) -> None:
    events = server.stream(text_input=PROMPT, max_tokens=40)
    assert len(events) > 3
    assert "".join(event["text_output"] for event in events) == _echo(PROMPT, 40)
    assert not any("\ufffd" in event["text_output"] for event in events)
    assert [event["finish_reason"] for event in events] == [""] * (len(events) - 1) + ["length"]
    assert events[-1]["completion_tokens"] == 40


def test_messages_go_through_the_chat_template(server: RunningServer) -> None:
    answer = server.generate(messages=json.dumps([{"role": "user", "content": "Hi"}]), max_tokens=200)
    rendered = "<user>Hi\n<assistant>"
    assert answer["text_output"].startswith(rendered * 2)


def test_the_default_length_is_sixteen_tokens(server: RunningServer) -> None:
    assert server.generate(text_input=PROMPT)["completion_tokens"] == 16


def test_what_does_not_fit_is_cut_and_says_length(server: RunningServer) -> None:
    prompt = "x" * 200
    answer = server.generate(text_input=prompt, max_tokens=10_000)
    assert answer["prompt_tokens"] + answer["completion_tokens"] == 512
    assert answer["finish_reason"] == "length"


def test_a_stop_string_over_token_borders_ends_the_text_and_frees_the_engine(server: RunningServer) -> None:
    before = len(server.records())
    answer = server.generate(text_input="one two STOP three", max_tokens=400, stop_words=[" STOP "])
    assert (answer["text_output"], answer["finish_reason"]) == ("one two", "stop")
    server.eventually(lambda: len(server.records()) > before, "the engine's slot is free")
    assert server.records()[-1]["how"] == "cancelled"
    assert server.records()[-1]["tokens"] < 200


def test_stop_strings_do_not_count_before_min_tokens(server: RunningServer) -> None:
    answer = server.generate(text_input="ab!cd!", max_tokens=60, stop_words=["!"], min_length=10)
    assert answer["completion_tokens"] > 10
    assert "!" in answer["text_output"]
    assert answer["finish_reason"] == "stop"


@pytest.mark.parametrize("end", [pytest.param("</s>", id="the-first"), pytest.param("<|end|>", id="another-one")])
def test_every_end_id_ends_the_answer(server: RunningServer, end: str) -> None:
    answer = server.generate(text_input=f"abc{end}def", max_tokens=100)
    assert (answer["text_output"], answer["finish_reason"]) == ("abc", "stop")
    assert server.records()[-1]["how"] == "done"  # the engine stopped by itself


def test_log_probs_on_request(server: RunningServer) -> None:
    events = server.stream(text_input="abc", max_tokens=4, return_log_probs=True)
    values = [value for event in events for value in np.atleast_1d(event.get("output_log_probs", []))]
    assert values == [-0.5] * 4
    assert events[-1]["cum_log_probs"] == -2.0


def test_the_prompt_is_echoed_on_request(server: RunningServer) -> None:
    answer = server.generate(text_input="abc", max_tokens=4, exclude_input_in_output=False)
    assert answer["text_output"] == "abc" + _echo("abc", 4)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        pytest.param({"text_input": "x" * 500}, 400, "this engine takes at most 256", id="too-long"),
        pytest.param({"max_tokens": 3}, 400, "expected text_input or messages, got neither", id="no-prompt"),
        pytest.param({"text_input": "a", "top_p": 3.0}, 400, "top_p: expected a number > 0 and <= 1", id="top_p"),
        pytest.param({"text_input": "a", "min_p": 0.3}, 400, "min_p: the engine model", id="not-the-engine-s"),
        pytest.param({"text_input": "a", "beam_width": 2}, 400, "no beam search", id="beam"),
        pytest.param({"messages": "[]"}, 400, "messages: expected a JSON list", id="messages"),
        pytest.param({"text_input": "<bad>"}, 400, "the stand-in engine refuses this prompt", id="engine"),
    ],
)
def test_errors_are_per_request_and_clear(
    server: RunningServer, body: dict[str, Any], status: int, message: str
) -> None:
    got, text = server.post("chat/generate", body)
    assert got == status, text
    assert message in text
    assert server.generate(text_input="abc", max_tokens=1)["completion_tokens"] == 1


def _grpc_stream(server: RunningServer, answers: queue.Queue[Any], **inputs: Any) -> grpc_client.InferenceServerClient:
    client = grpc_client.InferenceServerClient(server.grpc)
    client.start_stream(lambda result, error: answers.put(error or result))
    types = {bool: ("BOOL", np.bool_), int: ("INT32", np.int32), str: ("BYTES", np.object_)}
    tensors = []
    for name, value in inputs.items():
        datatype, dtype = types[type(value)]
        tensor = grpc_client.InferInput(name, [1], datatype)
        tensor.set_data_from_numpy(np.array([value], dtype))
        tensors.append(tensor)
    client.async_stream_infer("chat", tensors, enable_empty_final_response=True)
    return client


def test_grpc_streams(server: RunningServer) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    client = _grpc_stream(server, answers, text_input=PROMPT, max_tokens=20, stream=True)
    text, reason = "", ""
    while not reason:
        result = answers.get(timeout=60)
        assert not isinstance(result, InferenceServerException), result
        text += result.as_numpy("text_output")[0].decode()
        reason = result.as_numpy("finish_reason")[0].decode()
    client.stop_stream()
    client.close()
    assert (text, reason) == (_echo(PROMPT, 20), "length")


def test_a_cancelled_grpc_stream_frees_the_engine(server: RunningServer) -> None:
    before = len(server.records())
    answers: queue.Queue[Any] = queue.Queue()
    client = _grpc_stream(server, answers, text_input="abc", max_tokens=500, stream=True)
    assert not isinstance(answers.get(timeout=60), InferenceServerException)
    client.stop_stream(cancel_requests=True)
    client.close()
    server.eventually(lambda: len(server.records()) > before, "the engine's slot is free")
    assert server.records()[-1]["how"] == "cancelled"
    assert server.records()[-1]["tokens"] < 450
    server.eventually(lambda: server.metric("trtbuild_requests_running") == 0, "nothing runs")


def test_a_client_that_hangs_up_frees_the_engine(server: RunningServer) -> None:
    before, cancelled = len(server.records()), server.metric("trtbuild_requests_total", outcome="cancelled")
    with server.open_streams(1, text_input="abc", max_tokens=500) as connections:
        assert connections[0].getresponse().read(10)
    server.eventually(lambda: len(server.records()) > before, "the engine's slot is free")
    assert server.records()[-1]["how"] == "cancelled"
    server.eventually(
        lambda: server.metric("trtbuild_requests_total", outcome="cancelled") == cancelled + 1, "it is counted"
    )


def test_waiting_clients_that_hang_up_leave_the_line(server: RunningServer) -> None:
    before = len(server.records())
    with server.open_streams(10, text_input="abc", max_tokens=500):
        server.eventually(lambda: server.metric("trtbuild_requests_waiting") == 6, "six wait")
    server.eventually(lambda: server.metric("trtbuild_requests_waiting") == 0, "the line is empty")
    server.eventually(lambda: server.metric("trtbuild_requests_running") == 0, "nothing runs")
    server.eventually(lambda: len(server.records()) >= before + 4, "the four that ran have ended")
    assert {record["how"] for record in server.records()[before:]} == {"cancelled"}


def test_thirty_two_clients_at_once_get_their_own_answers(server: RunningServer) -> None:
    def one(number: int) -> bool:
        prompt = f"client {number}: {PROMPT[number % 7 :]}"
        whole = server.generate(text_input=prompt, max_tokens=12)["text_output"]
        events = server.stream(text_input=prompt, max_tokens=12)
        return whole == "".join(event["text_output"] for event in events) == _echo(prompt, 12)

    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(one, range(32))) == [True] * 32
    server.eventually(lambda: server.metric("trtbuild_requests_running") == 0, "nothing runs")


def test_a_full_queue_refuses_at_once_and_retryably(server: RunningServer) -> None:
    rejected = server.metric("trtbuild_requests_total", outcome="rejected")
    results: list[tuple[int, str]] = []

    def one() -> None:
        results.append(server.post("chat/generate", {"text_input": "abc", "max_tokens": 8}))

    threads = [threading.Thread(target=one) for _ in range(4 + 64 + 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [text for status, text in results if status != 200]
    assert 0 < len(refused) <= 20
    assert all("UNAVAILABLE: the queue is full (64 requests are waiting)" in text for text in refused)
    server.eventually(
        lambda: server.metric("trtbuild_requests_total", outcome="rejected") == rejected + len(refused), "counted"
    )


def test_the_server_s_log_has_no_fault(server: RunningServer) -> None:
    server.generate(text_input="abc", max_tokens=2)
    log = server.log_path.read_text()
    assert "front model chat: engine tensorrt_llm at 127.0.0.1:" in log
    assert "Traceback" not in log and "signal" not in log
