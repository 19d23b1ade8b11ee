"""The life of requests, with a played engine and played clients: order, limits, faults, and nothing left behind."""

from __future__ import annotations

import gc
import json
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2
from trtbuild_front import lanes, sweep
from trtbuild_front.engine import TIME_OUTPUTS, EngineContract, read_update, word_list
from trtbuild_front.faults import ClientGoneError, EngineError, OverloadError, RequestError
from trtbuild_front.generation import Piece
from trtbuild_front.prompt import prepare
from trtbuild_front.request import parse_request
from trtbuild_front.service import Service, Settings
from trtbuild_front.text.model import load_text_model
from trtbuild_front.transport.stream import StreamEvents

from tests.fakes.inputs import as_inputs

WAIT_S = 30.0
INPUTS = """input_ids input_lengths request_output_len end_id pad_id streaming temperature min_length random_seed
stop_words_list bad_words_list return_log_probs"""
OUTPUTS = f"output_ids sequence_length output_log_probs {' '.join(TIME_OUTPUTS)}"
CONTRACT = EngineContract(
    model="engine",
    inputs=frozenset(INPUTS.split()),
    outputs=frozenset(OUTPUTS.split()),
    has_batch_dimension=True,
    max_input_len=40,
    max_seq_len=60,
)


def answer(*token_ids: int, error: str = "", times_ns: tuple[int, ...] = ()) -> bytes:
    """Return a message of the engine."""
    message = service_pb2.ModelStreamInferResponse(error_message=error)
    outputs: dict[str, np.ndarray[Any, Any]] = {"output_ids": np.array([[token_ids]], np.int32)}
    for name, value in zip(TIME_OUTPUTS, times_ns, strict=False):
        outputs[name] = np.array([[value]], np.int64)
    for name, value in outputs.items():
        datatype = "INT32" if value.dtype == np.int32 else "INT64"
        message.infer_response.outputs.add(name=name, datatype=datatype, shape=value.shape)
        message.infer_response.raw_output_contents.append(value.tobytes())
    return message.SerializeToString()


class FakeEngine:
    """Stands in for the connection: calls are listed, what happens to them is said by the test."""

    def __init__(self) -> None:
        self.calls: dict[int, StreamEvents] = {}
        self.bodies: dict[int, bytes] = {}
        self.cancelled: list[int] = []
        self.failure = ""
        self.is_draining = False
        self.has_calls = False
        self.is_down = False
        self._todo: list[Callable[[], None]] = []
        self._wake = threading.Event()
        self._last = 0

    def connect(self) -> FakeEngine:
        if self.is_down:
            raise ConnectionRefusedError("no listener")
        self.failure = ""
        return self

    def call(self, path: str, message: bytes, events: StreamEvents) -> int:
        assert path.endswith("ModelStreamInfer")
        self._last += 1
        self.calls[self._last], self.bodies[self._last] = events, message
        return self._last

    def cancel(self, number: int) -> None:
        if self.calls.pop(number, None) is not None:
            self.cancelled.append(number)

    def step(self, timeout_s: float) -> None:
        self._wake.wait(timeout_s)
        self._wake.clear()
        while self._todo:
            self._todo.pop(0)()

    def wake(self) -> None:
        self._wake.set()

    def close(self) -> None:
        calls, self.calls = self.calls, {}
        for events in calls.values():
            events.on_end(14, "the connection was closed")

    # What the test does, in the serving thread as a real connection does.

    def say(self, number: int, message: bytes) -> None:
        self._later(lambda: self.calls[number].on_message(message) if number in self.calls else None)

    def end(self, number: int, status: int = 0, detail: str = "") -> None:
        self._later(lambda: self.calls.pop(number).on_end(status, detail) if number in self.calls else None)

    def lose(self) -> None:
        def lost() -> None:
            self.failure = "lost"
            calls, self.calls = self.calls, {}
            for events in calls.values():
                events.on_end(14, "lost")

        self._later(lost)

    def _later(self, what: Callable[[], None]) -> None:
        self._todo.append(what)
        self._wake.set()


class FakeReply:
    """A client that remembers, and may be gone."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.error: Exception | None = None
        self.is_gone = False
        self.is_deaf = False
        self.over = threading.Event()
        self.on_end: Callable[[FakeReply], None] = lambda _: None

    def send(self, piece: Piece) -> None:
        assert not self.over.is_set()
        if self.is_deaf:
            self.over.set()
            raise ClientGoneError("gone")
        self.pieces.append(piece)
        if piece.finish_reason:
            self.on_end(self)
            self.over.set()

    def fail(self, error: Exception) -> None:
        assert not self.over.is_set()
        self.error = error
        self.over.set()

    def is_cancelled(self) -> bool:
        return self.is_gone

    def result(self) -> tuple[str, str]:
        assert self.over.wait(WAIT_S)
        assert self.error is None, self.error
        return "".join(piece.text for piece in self.pieces), self.pieces[-1].finish_reason

    def fault(self) -> Exception:
        assert self.over.wait(WAIT_S)
        assert self.error is not None
        return self.error


class Clock:
    """A clock that stands still unless it is told to go on."""

    def __init__(self) -> None:
        self._now_s = 1000.0

    def now_s(self) -> float:
        return self._now_s

    def advance(self, seconds: float) -> None:
        self._now_s += seconds


class Stage:
    """A service with its played surroundings."""

    def __init__(
        self,
        directory: Path,
        slots: int,
        max_waiting: int,
        contract: EngineContract = CONTRACT,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine = FakeEngine()
        self.now_s = now_s
        self.text = load_text_model(directory)
        self.service = Service(
            text=self.text,
            contract=contract,
            settings=Settings(slots=slots, max_waiting=max_waiting, default_max_tokens=16),
            connect=self.engine.connect,  # type: ignore[arg-type]
            now_s=now_s,
        )
        self.service.start()

    def ask(self, prompt: str = "ab", **inputs: Any) -> FakeReply:
        reply = FakeReply()
        self.service.submit(as_inputs(text_input=prompt, **inputs), reply)
        return reply

    def call(self, number: int) -> int:
        """Wait until the engine was called for the ``number``-th time."""
        self.until(lambda: number in self.engine.bodies, f"call {number}")
        return number

    def reply_of(self, number: int) -> FakeReply:
        """Return whose call it is: of requests that come together, the first whose prompt is read goes first."""
        reply = self.engine.calls[self.call(number)].generation.reply  # type: ignore[attr-defined]
        assert isinstance(reply, FakeReply)
        return reply

    def reply_of_any(self, number: int) -> object:
        """As :meth:`reply_of`, whatever the client is."""
        return self.engine.calls[self.call(number)].generation.reply  # type: ignore[attr-defined]

    def until(self, is_so: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not is_so():
            assert time.monotonic() < deadline, what
            time.sleep(0.005)

    def gauges(self) -> tuple[int, int]:
        seen = self.service.accounting.snapshot(self.now_s())
        return seen.waiting, seen.running

    def ids(self, words: str) -> list[int]:
        return list(self.text.tokenizer.encode(words, add_special_tokens=False).ids)


@pytest.fixture
def make_stage(tokenizer_dir: Path) -> Iterator[Callable[..., Stage]]:
    stages: list[Stage] = []

    def make(
        slots: int = 2,
        max_waiting: int = 0,
        contract: EngineContract = CONTRACT,
        now_s: Callable[[], float] = time.monotonic,
    ) -> Stage:
        stages.append(Stage(tokenizer_dir, slots, max_waiting, contract, now_s))
        return stages[-1]

    yield make
    for stage in stages:
        stage.service.stop()


def test_pieces_come_as_tokens_do_and_end_with_the_counts(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()
    reply = stage.ask(max_tokens=9, stream=True)
    call = stage.call(1)
    for token in stage.ids("xyz"):
        stage.engine.say(call, answer(token))
    stage.until(lambda: "".join(piece.text for piece in reply.pieces) == "xyz", "three pieces")
    stage.engine.end(call)
    assert reply.result() == ("xyz", "stop")
    assert (reply.pieces[-1].prompt_tokens, reply.pieces[-1].completion_tokens) == (3, 3)
    stage.until(lambda: stage.gauges() == (0, 0), "nothing is left")


def test_tokens_that_came_together_are_one_piece(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()
    reply = stage.ask(max_tokens=9, stream=True)
    stage.engine.say(stage.call(1), answer(*stage.ids("hello")))
    stage.until(lambda: len(reply.pieces) == 1, "one piece")
    assert reply.pieces[0].text == "hello"


def test_without_stream_there_is_one_answer(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()
    ids = stage.ids("ab")
    reply = stage.ask(max_tokens=len(ids))
    call = stage.call(1)
    for token in ids:
        stage.engine.say(call, answer(token))
    stage.engine.end(call)
    assert reply.result() == ("ab", "length")
    assert len(reply.pieces) == 1


def test_only_as_many_as_there_are_slots_reach_the_engine(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(slots=2)
    replies = [stage.ask() for _ in range(5)]
    stage.until(lambda: stage.gauges() == (3, 2), "two run, three wait")
    assert len(stage.engine.calls) == 2
    for number in range(1, 6):
        stage.engine.end(stage.call(number))
    assert [reply.result()[1] for reply in replies] == ["stop"] * 5
    assert stage.gauges() == (0, 0)


def test_a_full_line_refuses_retryably(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(slots=1, max_waiting=2)
    held = [stage.ask() for _ in range(3)]
    refused = stage.ask()
    assert isinstance(refused.fault(), OverloadError)
    assert "the queue is full (2 requests are waiting)" in str(refused.fault())
    assert stage.service.accounting.snapshot(time.monotonic()).outcomes["rejected"] == 1
    assert not any(reply.over.is_set() for reply in held)


def test_a_full_line_of_conversations_refuses_retryably_and_is_no_failure(
    make_stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "MAX_RENDERING", 0)
    stage = make_stage()
    refused = FakeReply()
    stage.service.submit(as_inputs(messages='[{"role": "user", "content": "Hi"}]'), refused)
    assert isinstance(refused.fault(), OverloadError)
    assert "wait for the chat template" in str(refused.fault())
    outcomes = stage.service.accounting.snapshot(time.monotonic()).outcomes
    assert (outcomes["rejected"], outcomes["failed"], stage.gauges()) == (1, 0, (0, 0))
    stage.ask()
    stage.until(lambda: stage.gauges() == (0, 1), "plain text is served")


@pytest.mark.parametrize("where", ["waiting", "running"])
def test_a_client_that_has_gone_frees_its_place(make_stage: Callable[..., Stage], where: str) -> None:
    stage = make_stage(slots=1)
    both = {stage.ask(), stage.ask()}
    stage.until(lambda: stage.gauges() == (1, 1), "one waits")
    first = stage.reply_of(1)
    [second] = both - {first}
    gone, stays = (second, first) if where == "waiting" else (first, second)
    gone.is_gone = True
    assert gone.result()[1] == "cancelled"
    assert stage.engine.cancelled == ([] if where == "waiting" else [1])
    stage.engine.end(stage.call(1 if where == "waiting" else 2))
    assert stays.result()[1] == "stop"
    assert stage.gauges() == (0, 0)


def test_an_answer_that_cannot_be_delivered_cancels(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()
    reply = stage.ask(stream=True)
    reply.is_deaf = True
    stage.engine.say(stage.call(1), answer(*stage.ids("x")))
    stage.until(lambda: stage.engine.cancelled == [1], "the engine stops")
    assert stage.service.accounting.snapshot(time.monotonic()).outcomes["cancelled"] == 1


def test_a_stop_string_cancels_the_engine_and_is_a_good_end(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()
    reply = stage.ask(stop_words=["ST"], max_tokens=30)
    stage.engine.say(stage.call(1), answer(*stage.ids("abSTcd")))
    assert reply.result() == ("ab", "stop")
    stage.until(lambda: stage.engine.cancelled == [1], "the engine stops")
    assert stage.service.accounting.snapshot(time.monotonic()).outcomes["ok"] == 1


def test_an_engine_that_takes_stop_requests_gets_one(
    make_stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And reset only when it does not stop: a call that is reset too late holds up the server when it ends."""
    monkeypatch.setattr("trtbuild_front.calls._STOP_S", 0.3)
    stage = make_stage(slots=1, contract=replace(CONTRACT, inputs=CONTRACT.inputs | {"stop"}))
    reply = stage.ask(max_tokens=9, stop_words=["b"])
    stage.engine.say(stage.call(1), answer(*stage.ids("ab")))
    assert reply.result() == ("a", "stop")
    first, second = (service_pb2.ModelInferRequest.FromString(stage.engine.bodies[call]) for call in (1, stage.call(2)))
    assert first.id == second.id and len(first.id) == 16
    names = [tensor.name for tensor in second.inputs]
    assert names == ["input_ids", "input_lengths", "request_output_len", "stop"]
    assert second.raw_input_contents[names.index("stop")] == b"\1"
    stage.engine.say(1, answer(*stage.ids("c")))  # what was on its way
    stage.engine.end(2)
    stage.until(lambda: stage.gauges() == (0, 0), "nothing is left")
    assert not stage.engine.cancelled
    stage.until(lambda: stage.engine.cancelled == [1], "the engine did not stop")
    other = stage.ask(max_tokens=9, stop_words=["b"])
    stage.engine.say(stage.call(3), answer(*stage.ids("ab")))
    assert other.result() == ("a", "stop")
    stage.call(4)
    stage.engine.lose()
    stage.until(lambda: not stage.engine.calls, "the connection is lost")
    assert len(reply.pieces) == len(other.pieces) == 1


def test_nothing_keeps_a_reply_that_is_over(make_stage: Callable[..., Stage]) -> None:
    """Its response sender must be gone before the interpreter ends; garbage collection may come too late for that."""
    stage = make_stage(slots=1)
    gc.disable()
    try:
        reply = stage.ask(max_tokens=9, stop_words=["b"], stream=True)
        stage.engine.say(stage.call(1), answer(*stage.ids("ab")))
        assert reply.result() == ("a", "stop")
        stage.until(lambda: stage.gauges() == (0, 0), "nothing is left")
        gone = weakref.ref(reply)
        del reply
        stage.ask(max_tokens=1)  # the serving thread's own variables move on
        stage.call(2)
        stage.until(lambda: gone() is None, "the reply is gone")
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("status", "detail", "message", "expected"),
    [
        pytest.param(0, "", answer(error="no such luck"), EngineError, id="error-message"),
        pytest.param(13, "internal", b"", EngineError, id="grpc-status"),
        pytest.param(14, "unavailable", b"", OverloadError, id="unavailable"),
        pytest.param(0, "", b"\xff\xff", EngineError, id="unreadable"),
    ],
)
def test_faults_of_the_engine_end_one_request(
    make_stage: Callable[..., Stage], status: int, detail: str, message: bytes, expected: type[Exception]
) -> None:
    stage = make_stage()
    both = {stage.ask(), stage.ask()}
    bad = stage.reply_of(1)
    [good] = both - {bad}
    if message:
        stage.engine.say(stage.call(1), message)
    stage.engine.end(stage.call(1), status, detail)
    stage.engine.end(stage.call(2))
    assert type(bad.fault()) is expected
    assert good.result()[1] == "stop"
    assert stage.gauges() == (0, 0)


def test_a_lost_connection_fails_what_ran_and_is_opened_again(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(slots=1)
    both = {stage.ask(), stage.ask()}
    first = stage.reply_of(1)
    [second] = both - {first}
    stage.engine.lose()
    assert isinstance(first.fault(), OverloadError)
    stage.engine.end(stage.call(2))
    assert second.result()[1] == "stop"


def test_no_connection_is_a_retryable_error(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()
    stage.engine.is_down = True
    fault = stage.ask().fault()
    assert isinstance(fault, OverloadError) and "no connection to the engine model: no listener" in str(fault)
    stage.engine.is_down = False
    reply = stage.ask()
    stage.engine.end(stage.call(1))
    assert reply.result()[1] == "stop"


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        pytest.param({"prompt": "x" * 50}, "has 51 tokens; this engine takes at most 40", id="too-long"),
        pytest.param({"top_k": 3}, "runtime_top_k: the engine model 'engine' has no such input", id="not-the-engine-s"),
        pytest.param({"max_tokens": 0}, "max_tokens: expected at least 1", id="bad-parameter"),
    ],
)
def test_bad_requests_never_reach_the_engine(
    make_stage: Callable[..., Stage], inputs: dict[str, Any], message: str
) -> None:
    stage = make_stage(slots=1)
    fault = stage.ask(**inputs).fault()
    assert isinstance(fault, RequestError) and message in str(fault)
    assert not stage.engine.bodies
    assert stage.service.accounting.snapshot(time.monotonic()).outcomes["invalid"] == 1
    stage.engine.end(1)
    assert stage.gauges() == (0, 0)


def test_stopping_ends_all_requests_and_refuses_new_ones(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(slots=1)
    replies = [stage.ask() for _ in range(3)]
    stage.until(lambda: stage.gauges() == (2, 1), "two wait")
    stage.service.stop()
    assert all(isinstance(reply.fault(), OverloadError) for reply in replies)
    assert isinstance(stage.ask().fault(), OverloadError)
    assert stage.gauges() == (0, 0)


def test_any_mixture_of_fates_leaves_nothing_behind(
    make_stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_UNCHECKED_S", 0.0)
    monkeypatch.setattr(sweep, "_PAUSE_S", 0.001)
    random_ = random.Random(7)
    stage = make_stage(slots=4, max_waiting=20)
    replies: list[FakeReply] = []
    handled = 0
    started_s = time.monotonic()
    # Which fates 300 requests meet is up to the threads: go on until each was met.
    while handled < 300 or not all(stage.service.accounting.snapshot(time.monotonic()).outcomes.values()):
        assert time.monotonic() < started_s + WAIT_S, stage.service.accounting.snapshot(time.monotonic()).outcomes
        for _ in range(random_.randrange(8)):
            prompt = "x" * 60 if random_.random() < 0.1 else "ab"
            replies.append(stage.ask(prompt, max_tokens=20, stream=random_.random() < 0.5))
        for number in list(stage.engine.calls):
            fate = random_.random()
            if fate < 0.5:
                stage.engine.say(number, answer(*stage.ids("hello")))
            elif fate < 0.9:
                handled += 1
                stage.engine.end(number, random_.choice([0, 0, 0, 13, 14]))
            else:
                stage.engine.say(number, answer(1, times_ns=(5, 10, 20)))
        for reply in random_.sample(replies, min(2, len(replies))):
            reply.is_gone = random_.random() < 0.2
        if random_.random() < 0.02:
            stage.engine.lose()
        time.sleep(0.001)
    deadline = time.monotonic() + WAIT_S
    while stage.gauges() != (0, 0):
        assert time.monotonic() < deadline
        for number in list(stage.engine.calls):
            stage.engine.end(number)
        time.sleep(0.005)
    assert all(reply.over.wait(WAIT_S) for reply in replies)
    outcomes = stage.service.accounting.snapshot(time.monotonic()).outcomes
    assert sum(outcomes.values()) == len(replies)
    assert all(count > 0 for count in outcomes.values()), outcomes


def _decoded(directory: Path, **inputs: Any) -> dict[str, Any]:
    """Return what the engine would be sent: input name to (shape, values)."""
    request = parse_request(as_inputs(**inputs))
    body = prepare(request, load_text_model(directory), CONTRACT, 16).body
    message = service_pb2.ModelInferRequest.FromString(body)
    types = {"INT32": np.int32, "UINT64": np.uint64, "FP32": np.float32, "BOOL": np.bool_}
    return {
        tensor.name: np.frombuffer(raw, types[tensor.datatype]).reshape(tuple(tensor.shape)).tolist()
        for tensor, raw in zip(message.inputs, message.raw_input_contents, strict=True)
    }


def test_the_engine_s_own_spelling_and_shapes_are_used(tokenizer_dir: Path) -> None:
    sent = _decoded(
        tokenizer_dir, text_input="ab", max_tokens=5, seed=2**63, min_tokens=2, temperature=0.5, bad_words=["ab"]
    )
    ids = load_text_model(tokenizer_dir).encode("ab")
    assert sent["input_ids"] == [ids]
    assert sent["input_lengths"] == [[len(ids)]]
    assert sent["request_output_len"] == [[5]]
    assert sent["random_seed"] == [[2**63]]
    assert sent["min_length"] == [[2]]
    assert sent["temperature"] == [[0.5]]
    assert sent["end_id"] == [[1]]
    assert sent["pad_id"] == [[0]]
    assert sent["stop_words_list"] == [[[3], [1]]]  # the second end id
    assert len(sent["bad_words_list"][0]) == 2
    assert sent["streaming"] == [[True]]


@pytest.mark.parametrize(
    ("inputs", "tokens"),
    [
        pytest.param({"text_input": "ab"}, 16, id="default"),
        pytest.param({"text_input": "x" * 38, "max_tokens": 21}, 21, id="what-fits"),
        pytest.param({"text_input": "x" * 38, "max_tokens": 100}, 21, id="cut"),
        pytest.param({"messages": json.dumps([{"role": "u", "content": "a"}])}, None, id="conversations-take-all"),
    ],
)
def test_lengths(tokenizer_dir: Path, inputs: dict[str, Any], tokens: int | None) -> None:
    sent = _decoded(tokenizer_dir, **inputs)
    length = sent["request_output_len"][0][0]
    assert length == (tokens if tokens is not None else 60 - sent["input_lengths"][0][0])


def test_an_end_id_of_the_client_replaces_the_model_s(tokenizer_dir: Path) -> None:
    sent = _decoded(tokenizer_dir, text_input="ab", end_id=9)
    assert sent["end_id"] == [[9]] and "stop_words_list" not in sent
    assert "end_id" not in _decoded(tokenizer_dir, text_input="ab", end_id=-1)


def test_word_lists() -> None:
    assert word_list([(1, 2), (3,)]).tolist() == [[1, 2, 3], [2, 3, -1]]
    assert word_list([]).shape == (2, 0)


def test_times_that_are_not_all_there_are_none_at_all() -> None:
    times_ns = (1, 2_000_000_001, 3_000_000_001, 5_000_000_001)
    assert read_update(answer(4, times_ns=times_ns)).times_ns == times_ns
    assert read_update(answer(4, times_ns=(0, 0, 0, 0))).times_ns == ()
    assert read_update(answer(4, times_ns=times_ns[:2])).times_ns == ()
    assert read_update(answer(4)).times_ns == ()


def test_the_engine_s_times_reach_the_metrics_and_the_client(make_stage: Callable[..., Stage]) -> None:
    """Also when its end comes after its last tokens were answered; the client's arrival is that at the front model."""
    clock = Clock()
    stage = make_stage(slots=1, now_s=clock.now_s)
    second = 10**9
    times_ns = (5 * second, 6 * second, 7 * second, 8 * second)  # all that it ran for will have been waiting
    first = stage.ask(max_tokens=9)
    stage.until(lambda: stage.gauges() == (0, 1), "one runs")
    asks, asks_not = (stage.ask(max_tokens=9, stream=True, return_perf_metrics=asks) for asks in (True, False))
    stage.until(lambda: stage.gauges() == (2, 1), "two are in line")
    clock.advance(0.2)
    stage.engine.end(stage.call(1))
    assert first.result() == ("", "stop")
    compute_s = stage.service.accounting.snapshot(clock.now_s()).compute_s
    assert compute_s == pytest.approx(0.2)
    in_line_s, line_s = {}, 0.2
    for call in (2, 3):
        reply = stage.reply_of(call)
        in_line_s[reply] = line_s
        stage.engine.say(call, answer(*stage.ids("x"), times_ns=times_ns))
        stage.until(lambda reply=reply: len(reply.pieces) == 1, "the tokens are answered")  # type: ignore[misc]
        clock.advance(0.3)
        line_s += 0.3
        stage.engine.end(call)
        assert reply.result() == ("x", "stop")
    assert stage.service.accounting.snapshot(clock.now_s()).compute_s == pytest.approx(compute_s)
    arrival_ns, *others = asks.pieces[-1].times_ns
    assert tuple(others) == times_ns[1:]
    assert arrival_ns / second == pytest.approx(5 - in_line_s[asks]), "it came so long before the engine's 5"
    assert asks_not.pieces[-1].times_ns == ()


def test_answers_are_fair_when_there_are_more_than_can_be_sent(make_stage: Callable[..., Stage]) -> None:
    """An early end is not overtaken by hundreds of later ones."""
    stage = make_stage(slots=300)
    replies = [stage.ask() for _ in range(300)]
    answered: list[FakeReply] = []
    for reply in replies:
        reply.on_end = answered.append
    stage.call(300)
    expected = [call.generation.reply for _, call in sorted(stage.engine.calls.items())]  # type: ignore[attr-defined]
    for number in range(1, 301):
        stage.engine.end(number)
    assert all(reply.over.wait(WAIT_S) for reply in replies)
    assert answered == expected


def test_a_connection_that_is_being_closed_finishes_its_calls(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()
    first, second = stage.engine, FakeEngine()
    old = stage.ask()
    stage.call(1)
    first.is_draining = first.has_calls = True
    stage.service._calls._connect = second.connect  # type: ignore[assignment]
    new = stage.ask()
    stage.until(lambda: 1 in second.bodies, "the new call takes a new connection")
    first.say(1, answer(*stage.ids("old")))
    first.end(1)
    assert old.result()[0] == "old"
    first.has_calls = False
    second.end(1)
    assert new.result()[1] == "stop"
    stage.until(lambda: not stage.service._calls._draining, "the old connection is closed")
