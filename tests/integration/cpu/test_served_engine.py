"""The engine model on a real server: the tensors of TensorRT-LLM's C++ backend in and out."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.cpu_parity import checkpoints
from tests.integration.cpu.conftest import Server, Stream, ask, until, word_list, workers

pytestmark = pytest.mark.integration
PROMPT = checkpoints.prompts()[1]


def test_streams_the_reference_tokens_of_several_requests_at_once(server: Server, reference: dict[str, Any]) -> None:
    with Stream(server) as stream:
        for index, prompt in enumerate(checkpoints.prompts()):
            stream.send(str(index), input_ids=prompt, request_output_len=48, streaming=True)
        stream.finish()
    answers = [stream.answers[str(index)] for index in range(5)]
    assert [answer.tokens for answer in answers] == reference["tokens"]


def test_without_streaming_one_response_holds_everything(server: Server, reference: dict[str, Any]) -> None:
    answer = ask(
        server,
        input_ids=PROMPT,
        input_lengths=len(PROMPT),
        request_output_len=48,
        return_log_probs=True,
        return_perf_metrics=True,
    )
    assert (answer.tokens, answer.parts) == (reference["tokens"][1], 1)
    assert answer.tensors["output_ids"].shape == (1, 1, 48)
    assert answer.tensors["sequence_length"].shape == (1, 1)
    np.testing.assert_allclose(answer.log_probs, reference["log_probs"][1], atol=1e-3)
    np.testing.assert_allclose(answer.tensors["cum_log_probs"], sum(reference["log_probs"][1]), atol=0.01)
    names = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")
    times = [int(answer.tensors[name].item()) for name in names]
    assert times == sorted(times)
    assert times[2] < times[3]


def test_log_probs_and_times_are_sent_only_when_asked_for(server: Server) -> None:
    answer = ask(server, input_ids=PROMPT, request_output_len=2)
    assert set(answer.tensors) == {"output_ids", "sequence_length", "batch_index", "sequence_index"}


def test_the_prompt_comes_first_when_it_is_not_excluded_and_counts_come_when_asked_for(server: Server) -> None:
    plain = ask(server, input_ids=PROMPT, request_output_len=2).tokens
    asked = {"exclude_input_in_output": False, "return_num_input_tokens": True, "return_num_output_tokens": True}
    whole = ask(server, input_ids=PROMPT, request_output_len=2, **asked)
    assert whole.tokens == [*PROMPT, *plain]
    assert int(whole.tensors["sequence_length"].item()) == len(PROMPT) + 2
    counts = [int(whole.tensors[name].item()) for name in ("num_input_tokens", "num_output_tokens")]
    assert counts == [len(PROMPT), 2]
    assert ask(server, input_ids=PROMPT, request_output_len=2, streaming=True, **asked).tokens == plain


def test_older_spellings_and_values_that_ask_for_nothing(server: Server) -> None:
    plain = ask(server, input_ids=PROMPT, request_output_len=4).tokens
    nothing = {"num_return_sequences": 1, "beam_width": 0, "runtime_top_p": -1.0, "return_context_logits": False}
    assert ask(server, input_ids=PROMPT, request_output_len=4, **nothing).tokens == plain
    draws = [
        ask(server, input_ids=PROMPT, request_output_len=16, runtime_top_p=1.0, temperature=5.0, **seed).tokens
        for seed in ({"seed": 7}, {"random_seed": 7}, {"random_seed": 8})
    ]
    assert draws[0] == draws[1] != draws[2]
    end = plain[0]
    assert ask(server, input_ids=PROMPT, request_output_len=4, end_id=end).tokens == []
    assert len(ask(server, input_ids=PROMPT, request_output_len=4, end_id=end, min_length=2).tokens) >= 2


def test_padding_after_input_lengths_is_not_part_of_the_prompt(server: Server, reference: dict[str, Any]) -> None:
    answer = ask(server, input_ids=[*PROMPT, 0, 0, 0], input_lengths=len(PROMPT), request_output_len=48)
    assert answer.tokens == reference["tokens"][1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"input_ids": [5] * 600}, "600 tokens, the engine takes at most 511", id="prompt too long"),
        pytest.param({"request_output_len": 510}, "5 + 510 = 515 tokens", id="prompt and output too long"),
        pytest.param({"input_ids": [5, 320]}, "token 320, the vocabulary is 0..319", id="token out of range"),
        pytest.param({"input_ids": [5, -1]}, "token -1", id="negative token"),
        pytest.param({"input_lengths": 0}, "the prompt is empty", id="empty prompt"),
        pytest.param({"input_lengths": 9}, "input_lengths: expected 0 to 5, got 9", id="length beyond the prompt"),
        pytest.param({"request_output_len": 0}, "request_output_len: expected 1", id="nothing to generate"),
        pytest.param({"request_output_len": None}, "request_output_len: missing", id="no output length"),
        pytest.param({"temperature": -1.0}, "temperature: expected 0", id="temperature"),
        pytest.param({"temperature": float("nan")}, "temperature: expected 0", id="not a number"),
        pytest.param({"runtime_top_p": 1.5}, "runtime_top_p: expected 0 to 1", id="top p"),
        pytest.param({"runtime_top_k": -3}, "runtime_top_k: expected 0", id="top k"),
        pytest.param({"repetition_penalty": 0.0}, "repetition_penalty", id="repetition penalty"),
        pytest.param({"presence_penalty": 9.0}, "presence_penalty: expected -2 to 2", id="presence penalty"),
        pytest.param({"beam_width": 4}, "no beam search", id="beam search"),
        pytest.param({"num_return_sequences": 2}, "num_return_sequences: this engine", id="several sequences"),
        pytest.param({"return_context_logits": True}, "return_context_logits: this engine", id="context logits"),
        pytest.param({"return_generation_logits": True}, "returns no logits", id="generation logits"),
        pytest.param({"seed": 1, "random_seed": 1}, "two spellings of one input", id="both spellings"),
        pytest.param(
            {"bad_words_list": word_list([5, 6]), "presence_penalty": 0.5},
            "takes no presence_penalty",
            id="bad words with penalties",
        ),
        pytest.param(
            {"bad_words_list": word_list(*[[token] for token in range(320)])}, "forbids every token", id="all forbidden"
        ),
        pytest.param({"stop_words_list": [[1, 2], [3, -1]]}, "offsets must rise", id="word list offsets"),
        pytest.param({"stop": True}, "needs the request id", id="stop what"),
    ],
)
def test_a_bad_request_says_what_is_wrong_with_it(server: Server, values: dict[str, Any], message: str) -> None:
    given = {"input_ids": PROMPT, "request_output_len": 4, **values}
    with Stream(server) as stream:
        name = "" if "stop" in values else "bad"
        stream.send(name, **{key: value for key, value in given.items() if value is not None})
        stream.finish()
        assert message in stream.answers[name].error
    assert ask(server, input_ids=PROMPT, request_output_len=1).tokens, "the next request suffers"


def test_end_id_ends_the_text_and_is_not_part_of_it(server: Server, reference: dict[str, Any]) -> None:
    expected = reference["tokens"][1]
    end = expected[7]
    for streaming in (True, False):
        answer = ask(server, input_ids=PROMPT, request_output_len=48, end_id=end, streaming=streaming)
        assert answer.tokens == expected[: expected.index(end)]


def test_min_tokens_keeps_the_end_away(server: Server, reference: dict[str, Any]) -> None:
    end = reference["tokens"][1][0]
    assert ask(server, input_ids=PROMPT, request_output_len=48, end_id=end).tokens == []
    answer = ask(server, input_ids=PROMPT, request_output_len=48, end_id=end, min_tokens=9)
    assert len(answer.tokens) >= 9
    assert end not in answer.tokens[:9]


def test_a_stop_sequence_ends_the_text_and_is_part_of_it(server: Server, reference: dict[str, Any]) -> None:
    expected = reference["tokens"][1]
    words = word_list([9999], expected[10:13])
    answer = ask(server, input_ids=PROMPT, request_output_len=48, stop_words_list=words)
    assert answer.tokens == expected[:13]


def test_a_bad_word_is_never_generated(server: Server, reference: dict[str, Any]) -> None:
    expected = reference["tokens"][1]
    single, pair = expected[20], expected[9:11]
    answer = ask(server, input_ids=PROMPT, request_output_len=48, bad_words_list=word_list([single], pair))
    before = min(expected.index(single), 10)
    assert answer.tokens[:before] == expected[:before]
    assert len(answer.tokens) == 48
    assert single not in answer.tokens
    assert pair not in [answer.tokens[at : at + 2] for at in range(47)]


def test_a_seed_repeats_a_sample_alone_and_among_others(server: Server) -> None:
    sampled = {"input_ids": PROMPT, "request_output_len": 30, "runtime_top_p": 0.95, "temperature": 1.5}
    alone = ask(server, **sampled, seed=11).tokens
    with Stream(server) as stream:
        stream.send("same", **sampled, seed=11)
        for other in range(6):
            stream.send(f"other {other}", **{**sampled, "input_ids": [3 + other] * (other + 1)}, seed=other)
        stream.send("different", **sampled, seed=12)
        stream.finish()
    assert stream.answers["same"].tokens == alone
    assert stream.answers["different"].tokens != alone
    unseeded = [tuple(ask(server, **sampled).tokens) for _ in range(2)]
    assert len({*unseeded, tuple(alone)}) == 3, "a request without a seed repeats another one"


@pytest.mark.parametrize(
    "greedy",
    [
        pytest.param({}, id="nothing said"),
        pytest.param({"runtime_top_k": 1, "temperature": 0.7}, id="top k of one"),
        pytest.param({"runtime_top_p": 0.9, "temperature": 0.0}, id="temperature zero"),
    ],
)
def test_what_counts_as_greedy(server: Server, reference: dict[str, Any], greedy: dict[str, Any]) -> None:
    assert ask(server, input_ids=PROMPT, request_output_len=48, **greedy).tokens == reference["tokens"][1]


def test_thirty_two_clients_get_what_each_would_get_alone(server: Server) -> None:
    prompts = {str(n): [3 + (7 * n + k) % 317 for k in range(1 + 3 * n)] for n in range(32)}
    alone = {name: ask(server, input_ids=prompt, request_output_len=24).tokens for name, prompt in prompts.items()}
    streams = [Stream(server) for _ in range(4)]
    try:
        for index, (name, prompt) in enumerate(prompts.items()):
            streams[index % 4].send(name, input_ids=prompt, request_output_len=24, streaming=True)
        together = {}
        for stream in streams:
            stream.finish()
            together.update({name: answer.tokens for name, answer in stream.answers.items()})
    finally:
        for stream in streams:
            stream.__exit__()
    assert together == alone


def _gauge(server: Server, model: str, kind: str) -> float:
    line = next(
        line
        for line in server.metrics().splitlines()
        if line.startswith("nv_trt_llm_") and f'"{kind}"' in line and f'model="{model}"' in line
    )
    return float(line.rsplit(" ", 1)[1])


def test_the_gauges_of_the_cpp_backend_tell_what_runs(server: Server) -> None:
    assert _gauge(server, "long", "max") == 60_000 // 32 * 2 or _gauge(server, "long", "max") == 2
    with Stream(server) as stream:
        for name in ("a", "b", "c"):
            stream.send(name, model="long", input_ids=PROMPT, request_output_len=50_000, streaming=True)
        until(lambda: _gauge(server, "long", "scheduled") == 2, "two requests run")
        until(lambda: _gauge(server, "long", "waiting") == 1, "one waits")
        assert _gauge(server, "long", "active") == 3
        until(lambda: _gauge(server, "long", "used") > 0, "blocks are used")
    until(lambda: _gauge(server, "long", "active") == 0, "all are gone")
    assert 'nv_trt_llm_request_metrics{model="long",request_type="max",version="1"} 2' in server.metrics()


def test_a_client_that_leaves_frees_its_slots(server: Server) -> None:
    hog = Stream(server)
    for name in ("a", "b"):
        hog.send(name, model="long", input_ids=PROMPT, request_output_len=50_000, streaming=True)
    while not all(answer.parts for answer in hog.answers.values()):
        hog.take()
    with Stream(server) as stream:
        stream.send("waiting", model="long", input_ids=PROMPT, request_output_len=4, streaming=True)
        until(lambda: _gauge(server, "long", "waiting") == 1, "both slots are taken")
        assert not any(answer.is_final for answer in hog.answers.values())
        hog.drop()
        stream.finish()
        assert len(stream.answers["waiting"].tokens) == 4
        until(lambda: _gauge(server, "long", "active") == 0, "the cancelled requests end")


def test_stop_ends_another_request_by_its_id(server: Server, long_engine: Path) -> None:
    with Stream(server) as stream, Stream(server) as other:
        stream.send("victim", model="long", input_ids=PROMPT, request_output_len=50_000, streaming=True)
        _, answer = stream.take()
        assert not answer.is_final
        assert 0 < len(answer.tokens) < 50_000, "tokens do not come while they are made"
        other.send("victim", model="long", input_ids=[1], stop=True)
        other.finish()
        assert other.answers["victim"].error == ""
        stream.finish()
    assert 0 < len(stream.answers["victim"].tokens) < 50_000
    assert stream.answers["victim"].error == ""


def test_a_full_queue_refuses_at_once(server: Server) -> None:
    with Stream(server) as stream:
        for index in range(5):  # two slots and three places to wait
            stream.send(str(index), model="long", input_ids=PROMPT, request_output_len=50_000, streaming=True)
        until(lambda: _gauge(server, "long", "active") == 5, "five requests are in")
        refused = ask(server, model="long", input_ids=PROMPT, request_output_len=1)
        assert "Exceeds maximum queue size: 3" in refused.error


def test_an_idle_engine_sleeps(server: Server, engine: Path) -> None:
    def ticks() -> int:
        (pid,) = workers(engine)
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    assert ask(server, input_ids=PROMPT, request_output_len=4).tokens
    time.sleep(0.5)
    before = ticks()
    time.sleep(1.0)
    assert ticks() - before <= 1, "an idle engine uses the CPU"


def test_a_killed_engine_fails_its_requests_and_comes_back(
    server: Server, long_engine: Path, reference: dict[str, Any]
) -> None:
    (before,) = workers(long_engine)
    for _ in range(2):
        with Stream(server) as stream:
            stream.send("lost", model="long", input_ids=PROMPT, request_output_len=50_000, streaming=True)
            stream.take()
            os.kill(workers(long_engine)[0], signal.SIGKILL)
            stream.finish()
            assert "signal 9 (SIGKILL)" in stream.answers["lost"].error
            assert "repeat the request" in stream.answers["lost"].error
        # The next request waits for the new engine; no restart by hand is needed.
        assert ask(server, model="long", input_ids=PROMPT, request_output_len=48).tokens == reference["tokens"][1]
    (after,) = workers(long_engine)
    assert after != before
