"""OpenAI's API on the real cpu engine in a real server: the same text as Triton's protocols, counted with them."""

from __future__ import annotations

import json
import math
import os
import queue
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client

from tests.integration.front.conftest import RunningServer, serve_cpu
from tests.integration.front.openai_client import CHAT, COMPLETIONS, ask, get, stream
from tests.integration.front.test_front_orphans import argvs

pytest.importorskip("openvino_genai", reason="the cpu engine (openvino-genai) is not installed")
pytestmark = pytest.mark.integration

PROMPT = "The assert statement"
MESSAGES = [{"role": "user", "content": "What does the assert statement do?"}]
OUTCOMES = ("ok", "cancelled", "failed", "invalid", "rejected")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serve_cpu(tmp_path_factory.mktemp("cpu")) as running:
        running.eventually(lambda: get(running.openai, "/health/ready")[0] == 200, "the endpoint is ready")
        yield running


def _counted(server: RunningServer) -> dict[str, int]:
    """Return the outcomes of requests as the endpoint has them, which is at once; the server's own port follows."""
    series = dict(line.rsplit(" ", 1) for line in get(server.openai, "/metrics")[1].splitlines() if line[0] != "#")
    return {
        name: int(series[f'trtbuild_requests_total{{model="chat",version="1",outcome="{name}"}}']) for name in OUTCOMES
    }


def _exported(server: RunningServer) -> dict[str, int]:
    return {name: int(server.metric("trtbuild_requests_total", outcome=name)) for name in OUTCOMES}


def _by_grpc(server: RunningServer, max_tokens: int) -> str:
    answers: queue.Queue[Any] = queue.Queue()
    client = grpc_client.InferenceServerClient(server.grpc)
    client.start_stream(lambda result, error: answers.put(error or result))
    inputs = []
    for name, kind, value in (
        ("text_input", "BYTES", np.array([PROMPT], np.object_)),
        ("max_tokens", "INT32", np.array([max_tokens], np.int32)),
    ):
        tensor = grpc_client.InferInput(name, [1], kind)
        tensor.set_data_from_numpy(value)
        inputs.append(tensor)
    client.async_stream_infer("chat", inputs)
    result = answers.get(timeout=60)
    client.stop_stream()
    client.close()
    return str(result.as_numpy("text_output")[0].decode())


def test_every_protocol_says_the_same(server: RunningServer) -> None:
    said = server.generate(text_input=PROMPT, max_tokens=30)["text_output"]
    assert len(said) > 20
    assert _by_grpc(server, 30) == said
    common: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 30, "temperature": 0}
    whole, pieces = ask(server.openai, COMPLETIONS, **common), stream(server.openai, COMPLETIONS, **common)
    assert (whole.text, whole.choices[0]["finish_reason"]) == (said, "length")
    assert (pieces.text(), pieces.finish_reason(), pieces.is_done) == (said, "length", True)
    assert len(pieces.events) > 2  # pieces are as large as what the engine sent since the last one


def test_a_conversation_says_the_same(server: RunningServer) -> None:
    said = server.generate(text_input="", messages=json.dumps(MESSAGES), max_tokens=25)
    common: dict[str, Any] = {"messages": MESSAGES, "max_completion_tokens": 25, "temperature": 0}
    whole, pieces = ask(server.openai, CHAT, **common), stream(server.openai, CHAT, **common)
    assert whole.text == pieces.text() == said["text_output"]
    assert whole.choices[0]["message"]["role"] == "assistant"
    assert pieces.events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    usage = {"prompt_tokens": said["prompt_tokens"], "completion_tokens": said["completion_tokens"]}
    assert whole.body["usage"] == {**usage, "total_tokens": sum(usage.values())}
    parts = [{"role": "user", "content": [{"type": "text", "text": MESSAGES[0]["content"]}]}]
    assert ask(server.openai, CHAT, **{**common, "messages": parts}).text == whole.text


def test_tokens_and_log_probabilities(server: RunningServer) -> None:
    said = server.generate(text_input=PROMPT, max_tokens=20, return_log_probs=True)
    answer = ask(server.openai, COMPLETIONS, prompt=PROMPT, max_tokens=20, temperature=0, logprobs=1)
    found = answer.choices[0]["logprobs"]
    assert "".join(found["tokens"]) == said["text_output"] == answer.text
    assert found["token_logprobs"] == pytest.approx(said["output_log_probs"], abs=1e-6)
    assert found["text_offset"] == [len("".join(found["tokens"][:at])) for at in range(20)]
    assert [list(top) for top in found["top_logprobs"]] == [[token] for token in found["tokens"]]
    chat = {"messages": MESSAGES, "max_tokens": 12, "temperature": 0, "logprobs": True}
    whole, pieces = ask(server.openai, CHAT, **chat), stream(server.openai, CHAT, **chat)
    content = whole.choices[0]["logprobs"]["content"]
    assert bytes(byte for token in content for byte in token["bytes"]).decode() == whole.text
    assert all(token["logprob"] <= 0 and token["top_logprobs"] == [] for token in content)
    streamed = [
        token for event in pieces.events for choice in event["choices"] for token in
        (choice["logprobs"] or {"content": []})["content"]
    ]  # fmt: skip
    assert [(token["token"], token["bytes"]) for token in streamed] == [(t["token"], t["bytes"]) for t in content]
    assert all(math.isclose(a["logprob"], b["logprob"], abs_tol=1e-5) for a, b in zip(streamed, content, strict=True))


def test_stop_strings_cut_text_and_tokens(server: RunningServer) -> None:
    whole = ask(server.openai, COMPLETIONS, prompt=PROMPT, max_tokens=30, temperature=0).text
    stop = whole[15:19]
    common: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 30, "temperature": 0, "stop": [stop, "never"]}
    cut = ask(server.openai, COMPLETIONS, **common, logprobs=0)
    assert cut.text == whole[: whole.index(stop)]
    assert cut.choices[0]["finish_reason"] == "stop"
    shown = "".join(cut.choices[0]["logprobs"]["tokens"])
    assert shown.startswith(cut.text) and len(shown) - len(cut.text) < 12
    pieces = stream(server.openai, COMPLETIONS, **common)
    assert (pieces.text(), pieces.finish_reason()) == (cut.text, "stop")


def test_prompts_of_every_form(server: RunningServer) -> None:
    ids = ask(server.openai, "/tokenize", prompt=PROMPT)
    assert ids.status == 200 and ids.body["count"] == len(ids.body["tokens"])
    assert ids.body["max_model_len"] == 1024
    back = ask(server.openai, "/detokenize", tokens=ids.body["tokens"])
    assert PROMPT in back.body["prompt"]
    tokens, common = ids.body["tokens"], {"max_tokens": 8, "temperature": 0}
    alone = ask(server.openai, COMPLETIONS, prompt=PROMPT, **common).text
    other = ask(server.openai, COMPLETIONS, prompt="A list", **common).text
    assert ask(server.openai, COMPLETIONS, prompt=tokens, **common).text == alone
    for prompt in ([PROMPT, "A list"], [tokens, ask(server.openai, "/tokenize", prompt="A list").body["tokens"]]):
        both = ask(server.openai, COMPLETIONS, prompt=prompt, n=2, **common)
        assert [choice["text"] for choice in both.choices] == [alone, alone, other, other]
        assert [choice["index"] for choice in both.choices] == [0, 1, 2, 3]
        assert both.body["usage"]["completion_tokens"] == 32
        assert both.body["usage"]["prompt_tokens"] < 20  # each prompt once
    pieces = stream(server.openai, COMPLETIONS, prompt=[PROMPT, "A list"], **common)
    assert (pieces.text(0), pieces.text(1), pieces.is_done) == (alone, other, True)


def test_sampling_reaches_the_engine(server: RunningServer) -> None:
    def say(**fields: Any) -> str:
        return ask(server.openai, COMPLETIONS, prompt=PROMPT, max_tokens=24, **fields).text

    greedy = say(temperature=0)
    assert say(temperature=1.5, seed=7) == say(temperature=1.5, seed=7)
    assert len({say(temperature=1.5, seed=seed) for seed in range(5)}) > 1
    assert len({say() for _ in range(6)}) > 1, "OpenAI's default is to sample"
    # min_p 1 leaves nothing but the likeliest token.
    assert {say(temperature=1.5, seed=seed, min_p=1.0) for seed in range(4)} == {greedy}
    assert say(temperature=1.0, top_k=1) == greedy
    first = ask(server.openai, COMPLETIONS, prompt=PROMPT, max_tokens=1, temperature=0, logprobs=0)
    token = ask(server.openai, "/tokenize", prompt=first.text, add_special_tokens=False).body["tokens"]
    banned = say(temperature=0, logit_bias={str(token[0]): -100})
    assert banned != greedy and not banned.startswith(first.text)
    repeated = ask(server.openai, COMPLETIONS, prompt=PROMPT, max_tokens=16, temperature=1.2, n=3, seed=11)
    texts = [choice["text"] for choice in repeated.choices]
    assert texts == [say(temperature=1.2, seed=11 + at)[: len(texts[at])] for at in range(3)]


def test_usage_comes_last_in_a_stream(server: RunningServer) -> None:
    pieces = stream(
        server.openai, CHAT, messages=MESSAGES, max_tokens=6, temperature=0, stream_options={"include_usage": True}
    )
    assert pieces.events[-1]["choices"] == []
    assert pieces.events[-1]["usage"]["completion_tokens"] == 6
    assert {json.dumps(event["usage"]) for event in pieces.events[:-1]} == {"null"}


@pytest.mark.parametrize(
    ("path", "body", "param", "word"),
    [
        pytest.param(COMPLETIONS, {"prompt": "a " * 3000}, "prompt", "at most", id="too-long"),
        pytest.param(COMPLETIONS, {"prompt": []}, "prompt", "got 0 items", id="empty"),
        pytest.param(COMPLETIONS, {"prompt": [99999999]}, "prompt", "tokens from 0", id="no-token"),
        pytest.param(COMPLETIONS, {"prompt": "a", "echo": True}, "echo", "leave it out", id="echo"),
        pytest.param(COMPLETIONS, {"prompt": "a", "logprobs": 3, "temperature": 0}, "logprobs", "chosen", id="top"),
        pytest.param(COMPLETIONS, {"prompt": "a", "logit_bias": {"5": 3}}, "logit_bias", "forbid", id="bias"),
        pytest.param(CHAT, {"messages": [{"role": "user"}]}, "messages", "content", id="no-content"),
        pytest.param(
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages",
            "text only",
            id="image",
        ),
        pytest.param(CHAT, {"messages": MESSAGES, "tools": [{"type": "function"}]}, "tools", "tool_choice", id="tools"),
    ],
)
def test_refusals_name_the_field(server: RunningServer, path: str, body: dict[str, Any], param: str, word: str) -> None:
    before = _counted(server)
    for streams in (False, True):
        answer = ask(server.openai, path, **body, stream=streams)
        assert (answer.status, answer.error["param"], answer.error["type"]) == (400, param, "invalid_request_error")
        assert word in answer.error["message"]
    assert _counted(server) == {**before, "invalid": before["invalid"] + 2}


def test_thirty_two_clients_of_all_protocols_are_counted_once_each(server: RunningServer) -> None:
    said = server.generate(text_input=PROMPT, max_tokens=20)["text_output"]
    before = _counted(server)
    server.eventually(lambda: _exported(server) == before, "the server's port has what the endpoint has")
    tokens_before = server.metric("trtbuild_generation_tokens_total")
    ways = (
        lambda: server.generate(text_input=PROMPT, max_tokens=20)["text_output"],
        lambda: "".join(event["text_output"] for event in server.stream(text_input=PROMPT, max_tokens=20)),
        lambda: ask(server.openai, COMPLETIONS, prompt=PROMPT, max_tokens=20, temperature=0).text,
        lambda: stream(server.openai, COMPLETIONS, prompt=PROMPT, max_tokens=20, temperature=0).text(),
    )
    with ThreadPoolExecutor(32) as pool:
        texts = list(pool.map(lambda number: ways[number % 4](), range(96)))
    assert texts == [said] * 96
    gauges = ("trtbuild_requests_waiting", "trtbuild_requests_running")
    server.eventually(lambda: server.metrics(*gauges) == [0, 0], "nothing waits and nothing runs")
    after = {**before, "ok": before["ok"] + 96}
    server.eventually(lambda: _exported(server) == after, "each is counted once")
    assert _counted(server) == after
    assert server.metric("trtbuild_generation_tokens_total") == tokens_before + 96 * 20


def test_a_client_that_hangs_up_frees_the_engine(server: RunningServer) -> None:
    from tests.integration.front.openai_client import connect, send

    before = _counted(server)
    connections = [connect(server.openai) for _ in range(8)]
    for connection in connections:
        send(connection, COMPLETIONS, {"prompt": PROMPT, "max_tokens": 900, "temperature": 0, "ignore_eos": True})
    server.eventually(lambda: server.metric("trtbuild_requests_waiting") == 4, "four wait")
    for connection in connections:
        connection.close()
    gauges = ("trtbuild_requests_waiting", "trtbuild_requests_running")
    server.eventually(lambda: server.metrics(*gauges) == [0, 0], "nothing is left", 10)
    assert _counted(server)["cancelled"] == before["cancelled"] + 8
    assert ask(server.openai, COMPLETIONS, prompt=PROMPT, max_tokens=2).status == 200


def test_the_engine_is_killed_and_comes_back(server: RunningServer) -> None:
    said = ask(server.openai, COMPLETIONS, prompt=PROMPT, max_tokens=10, temperature=0).text
    root = str(Path(server.log_path).parent)
    [engine] = [pid for pid, argv in argvs().items() if any("engine_worker.py" in word for word in argv)
                and any(root in word for word in argv)]  # fmt: skip
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(
            stream, server.openai, COMPLETIONS, prompt=PROMPT, max_tokens=1000, temperature=0, ignore_eos=True
        )
        server.eventually(lambda: server.metric("trtbuild_requests_running") == 1, "it runs")
        time.sleep(0.3)
        os.kill(engine, signal.SIGKILL)
        cut = running.result(60)
    assert cut.error and not cut.is_done
    while (answer := ask(server.openai, COMPLETIONS, prompt=PROMPT, max_tokens=10, temperature=0)).status == 503:
        assert answer.error["code"] == "unavailable" and int(answer.headers["retry-after"]) > 0
        time.sleep(0.2)
    assert answer.text == said
    server.eventually(lambda: get(server.openai, "/health/ready")[0] == 200, "the endpoint is ready again")
