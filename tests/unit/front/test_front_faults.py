"""Unexpected exceptions at every call the service makes: one request ends, nothing is left, the service goes on."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trtbuild_front import fault_policy, intake, serving, sweep
from trtbuild_front.admission import Admission
from trtbuild_front.calls import _StopRequest
from trtbuild_front.faults import EngineError, OverloadError, RequestError
from trtbuild_front.generation import Writer
from trtbuild_front.metrics.accounting import Accounting

from tests.fakes.inputs import as_inputs
from tests.unit.front.test_front_service import WAIT_S, FakeReply, Stage, answer


class PanicError(BaseException):
    """Stands in for pyo3's PanicException, which is no Exception either."""


ERRORS = (RuntimeError, ValueError, OSError, MemoryError, RecursionError, SystemExit, KeyboardInterrupt, PanicError)


class Saboteur:
    """Makes a callable raise at its ``first`` call and, if ``always``, at all that follow."""

    def __init__(self, real: Callable[..., Any], error: type[BaseException], first: int, *, always: bool) -> None:
        self.real, self.error, self.first, self.always = real, error, first, always
        self.calls = self.raised = 0
        self.is_on = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.is_on and (self.calls == self.first or (self.always and self.calls > self.first)):
            self.raised += 1
            raise self.error("sabotage")
        return self.real(*args, **kwargs)


SITES = {
    "parse": (intake, "parse_request"),
    "prepare": (intake, "prepare"),
    "writer": (intake, "Writer"),
    "feed": (Writer, "feed"),
    "take": (Writer, "take"),
    "last": (Writer, "last"),
    "read": (serving, "read_update"),
    "times": (serving, "engine_times"),
    "send": (FakeReply, "send"),
    "fail": (FakeReply, "fail"),
    "is_cancelled": (FakeReply, "is_cancelled"),
    "connect": ("engine", "connect"),
    "call": ("engine", "call"),
    "cancel": ("engine", "cancel"),
    "step": ("engine", "step"),
    "arrive": (Accounting, "arrive"),
    "start": (Accounting, "start"),
    "add_tokens": (Accounting, "add_tokens"),
    "finish": (Accounting, "finish"),
    "line_up": (Admission, "line_up"),
    "next": (Admission, "next"),
    "leave": (Admission, "leave"),
}
MUST_NOT_LAST = {"finish", "leave", "step", "next", "arrive"}
"""Where a fault that stays leaves no way to go on; the process ends instead."""

CASES = [(site, always) for site in SITES for always in (False, True) if not (always and site in MUST_NOT_LAST)]


@pytest.fixture
def stage(tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(sweep, "_UNCHECKED_S", 0.0)
    monkeypatch.setattr(sweep, "_PAUSE_S", 0.002)
    monkeypatch.setattr(fault_policy, "_FAULT_PAUSE_S", 0.001)
    stage = Stage(tokenizer_dir, 2, 50)
    ends: list[str] = []
    stage.service._on_fatal = ends.append
    yield stage
    stage.service.stop()
    assert ends == []


def sabotage(
    patch: pytest.MonkeyPatch, stage: Stage, site: str, error: type[BaseException], first: int, *, always: bool
) -> Saboteur:
    where, name = SITES[site]
    if where == "engine":
        target: Any = stage.engine
        saboteur = Saboteur(getattr(target, name), error, first, always=always)
        patch.setattr(target, name, saboteur)
        if name == "connect":
            patch.setattr(stage.service._calls, "_connect", saboteur)
        return saboteur
    target = where
    saboteur = Saboteur(getattr(target, name), error, first, always=always)

    def call(*args: Any, **kwargs: Any) -> Any:
        return saboteur(*args, **kwargs)

    patch.setattr(target, name, call)
    return saboteur


def run_requests(stage: Stage) -> list[FakeReply]:
    """Send requests of every fate and play the engine until all have left."""
    replies: list[FakeReply] = []
    for number in range(12):
        reply = FakeReply()
        prompt = "x" * 60 if number == 5 else "ab"
        try:
            stage.service.submit(
                as_inputs(text_input=prompt, max_tokens=9, stream=number % 2 == 0, stop_words=["S"]), reply
            )
        except BaseException as error:  # noqa: BLE001
            assert "sabotage" in str(error)  # reply.fail raised: the caller's to log
        replies.append(reply)
    replies[3].is_gone = True
    replies[7].is_deaf = True
    deadline = time.monotonic() + WAIT_S
    ids = stage.ids("xyS")
    visits: dict[int, int] = {}
    while stage.gauges() != (0, 0) or stage.service._requests.by_ticket:
        assert time.monotonic() < deadline, (stage.gauges(), stage.service._requests.by_ticket)
        for number in list(stage.engine.calls):
            visits[number] = visits.get(number, 0) + 1
            if visits[number] < 4:
                stage.engine.say(number, answer(ids[number % 2], times_ns=(1, 2, 3, 4)))
            elif number == 8:
                stage.engine.say(number, b"\xff\xff")
            elif number % 3 == 0:
                stage.engine.say(number, answer(*ids))  # up to the stop string
            else:
                stage.engine.end(number, 13 if number == 4 else 0)
        time.sleep(0.003)
    return replies


@pytest.mark.parametrize(
    ("site", "always"),
    [pytest.param(site, always, id=f"{site}-{'always' if always else 'once'}") for site, always in CASES],
)
def test_a_fault_ends_one_request_and_leaves_nothing(
    stage: Stage, site: str, always: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    raised = 0
    for first, error in enumerate(ERRORS if not always else ERRORS[:1] + ERRORS[-1:], 1):
        with monkeypatch.context() as patch:
            saboteur = sabotage(patch, stage, site, error, first, always=always)
            replies = run_requests(stage)
            raised += saboteur.raised
            saboteur.is_on = False
        if site not in {"send", "fail"}:
            assert all(reply.over.wait(WAIT_S) for reply in replies), [r for r in replies if not r.over.is_set()]
        assert stage.gauges() == (0, 0)
        assert not stage.service._requests.admission._inside and not stage.service._requests.admission._running
        before = set(stage.engine.bodies)
        good = stage.ask(max_tokens=3)  # the service goes on
        stage.until(lambda before=before: set(stage.engine.bodies) - before, "the engine is called")  # type: ignore[misc]
        stage.engine.end(max(stage.engine.bodies))
        assert good.result()[1] == "stop"
    assert raised
    assert "sabotage" in capfd.readouterr().err or site in {"arrive", "parse", "connect", "call"}


def test_the_client_is_told_what_happened(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    sabotage(monkeypatch, stage, "prepare", MemoryError, 1, always=False)
    fault = stage.ask().fault()
    assert isinstance(fault, EngineError)
    assert str(fault) == "the request could not be prepared: MemoryError: sabotage"
    assert stage.service.accounting.snapshot(time.monotonic()).outcomes["failed"] == 1


def test_a_fault_holds_no_reference_to_a_reply(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception knows the frames it came through; the response sender must not wait for the garbage collector."""
    gc.disable()
    try:
        for site, error in (("prepare", RequestError), ("prepare", PanicError), ("feed", RuntimeError)):
            with monkeypatch.context() as patch:
                sabotage(patch, stage, site, error, 1, always=False)
                reply = stage.ask(stream=True)
                if site == "feed":
                    stage.engine.say(stage.call(1), answer(*stage.ids("x")))
                reply.fault()
            gone = weakref.ref(reply)
            del reply
            stage.until(lambda gone=gone: gone() is None, "the reply is gone")  # type: ignore[misc]
    finally:
        gc.enable()


@pytest.mark.parametrize("site", ["step", "next"])
def test_a_thread_that_cannot_go_on_ends_the_process(
    tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch, site: str, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fault_policy, "_FAULT_PAUSE_S", 0.0)
    stage = Stage(tokenizer_dir, 2, 0)
    ends: list[str] = []
    stage.service._on_fatal = ends.append
    first = stage.ask()
    stage.call(1)
    sabotage(monkeypatch, stage, site, RuntimeError, 1, always=True)
    faults = [first.fault()]
    while not ends and len(faults) < 50:
        faults.append(stage.ask().fault())
    stage.until(lambda: bool(ends), "the process ends")
    assert all(isinstance(fault, OverloadError) for fault in faults)
    assert ends == ["thread 'serve' failed 10 times in a minute: RuntimeError('sabotage')"]
    assert "Traceback" in capfd.readouterr().err
    stage.service.stop()


def test_the_beat_goes_on_while_the_thread_does(stage: Stage) -> None:
    before = stage.service.beat_s
    stage.until(lambda: stage.service.beat_s > before, "another turn")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("UNAVAILABLE: the engine process was ended; repeat the request", OverloadError),
        (
            "Failed to process the request(s) for model 'e', message: Stub process 'e_0_0' is not healthy.",
            OverloadError,
        ),
        ("Server is stopping, scheduler for model has stopped accepting new inference requests", OverloadError),
        ("Request for unknown model: 'e' has no available versions", OverloadError),
        ("the engine refused the request", EngineError),
    ],
)
def test_states_that_pass_are_retryable(stage: Stage, text: str, kind: type[Exception]) -> None:
    reply = stage.ask()
    stage.engine.say(stage.call(1), answer(error=text))
    fault = reply.fault()
    assert type(fault) is kind and str(fault) == text.removeprefix("UNAVAILABLE: ")


def test_draining_ends_what_waits_at_once_and_what_runs_at_the_deadline(stage: Stage) -> None:
    replies = [stage.ask(max_tokens=9, stream=True) for _ in range(2)]
    stage.until(lambda: stage.gauges() == (0, 2), "two run")
    first = stage.reply_of(1)  # two threads tokenize: a later one may run first
    [second] = set(replies) - {first}
    replies += [stage.ask(max_tokens=9, stream=True) for _ in range(3)]
    stage.until(lambda: stage.gauges() == (3, 2), "three wait")
    stage.service.drain(time.monotonic() + 3600)
    for reply in replies[2:]:
        assert "the server is shutting down" in str(reply.fault()) and isinstance(reply.fault(), OverloadError)
    assert isinstance(stage.ask().fault(), OverloadError)
    assert stage.gauges() == (0, 2)
    stage.engine.end(1)
    assert first.result()[1] == "stop"
    stage.service.drain(time.monotonic())
    assert "ran into the drain timeout" in str(second.fault())
    assert stage.gauges() == (0, 0)
    stage.service.resume()
    reply = stage.ask()
    stage.engine.end(stage.call(3))
    assert reply.result()[1] == "stop"


def test_a_stop_that_is_refused_resets_the_call(stage: Stage) -> None:
    """A server that is ending takes no new requests, not even one to stop another."""
    order = _StopRequest(stage.engine, 7)  # type: ignore[arg-type]
    stage.engine.calls[7] = order
    order.on_message(answer())
    order.on_end(0, "")
    assert stage.engine.cancelled == []
    order.on_message(answer(error="has stopped accepting new requests"))
    assert stage.engine.cancelled == [7]


def test_no_values_at_all_are_the_client_s_fault(stage: Stage) -> None:
    reply = FakeReply()
    stage.service.submit({"nonsense": np.zeros(1)}, reply)
    assert isinstance(reply.fault(), RequestError)
