"""The serving thread: all traffic with the engine, and all answers.

It decides the order of things. Everything that has arrived is read before anyone is answered, and an answer carries all
tokens since the last one: when the thread falls behind, pieces grow and their number falls, so it catches up by itself.

An exception that concerns a request ends this request. One that concerns no request leaves :meth:`ServingLoop.turn`,
and the connection to the engine is closed, which ends what runs with a retryable error.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from trtbuild_front.engine import Update, engine_times, read_update
from trtbuild_front.fault_policy import as_fault, engine_fault, outcome_of
from trtbuild_front.faults import ClientGoneError, OverloadError
from trtbuild_front.live import SHUTTING_DOWN, LiveRequests
from trtbuild_front.sweep import is_worth_asking
from trtbuild_front.transport import kserve

if TYPE_CHECKING:
    from trtbuild_front.calls import EngineCalls
    from trtbuild_front.generation import Generation
    from trtbuild_front.transport.connection import Connection

_IDLE_S = 0.25
_URGENT_PER_TURN = 16
_OTHERS_PER_TURN = 8
_UNAVAILABLE = 14


class _Call:
    """What the connection says about one generation. It never raises: all requests share the connection."""

    __slots__ = ("connection", "generation", "loop", "stream")

    def __init__(self, loop: ServingLoop, generation: Generation, connection: Connection) -> None:
        self.loop, self.generation, self.connection = loop, generation, connection
        self.stream = 0

    def on_message(self, message: bytes) -> None:
        try:
            self.loop.on_message(self.generation, message)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it concerns this request
            self.loop.requests.fail_soon(self.generation, error, "the engine's answer could not be handled")

    def on_end(self, status: int, detail: str) -> None:
        try:
            self.loop.on_end(self.generation, status, detail)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it concerns this request
            self.generation.has_ended = True
            self.loop.requests.fail_soon(self.generation, error, "the engine's end could not be handled")


class ServingLoop:
    """What the serving thread does. Every method belongs to it.

    Attributes:
        requests: What the threads share.
        beat_s: When the last turn began, in seconds since the epoch; others may read it.
    """

    def __init__(self, requests: LiveRequests, calls: EngineCalls) -> None:
        self.requests, self._calls = requests, calls
        self._now_s, self._accounting = requests.now_s, requests.accounting
        self._urgent: deque[Generation] = deque()
        self._others: deque[Generation] = deque()
        self.beat_s = time.time()

    def turn(self) -> None:
        """Do all that is due; wait a moment for the engine when nothing is."""
        self.beat_s = time.time()
        self._take_orders()
        self._drain()
        self._admit()
        is_busy = self._urgent or self._others or self.requests.orders
        self._calls.exchange(0.0 if is_busy else _IDLE_S)
        # First tokens and ends go first, but no answer starves: both queues move at every turn.
        for line, most in ((self._urgent, _URGENT_PER_TURN), (self._others, _OTHERS_PER_TURN)):
            for _ in range(min(len(line), most)):
                self._guarded(self._answer, line.popleft())

    def finish(self) -> None:
        """End every request with a retryable error, and close the connections."""
        for generation in [*self.requests.by_ticket.values(), *self._urgent, *self._others]:
            if not generation.is_over:
                self._guarded(lambda one: self._fail(one, OverloadError(SHUTTING_DOWN)), generation)
        self.requests.log.attempt_twice(self._calls.lose_connection)
        self.requests.log.attempt_twice(self._calls.close_draining)

    def _guarded(self, step: Callable[[Generation], None], generation: Generation) -> None:
        """Do something for one request; whatever is raised ends it."""
        try:
            step(generation)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it concerns this request
            fault = as_fault(error, "the request failed unexpectedly")
            self.requests.log.write("a request failed unexpectedly", error)
            self._close(generation, "failed")
            if not generation.is_answered:
                generation.is_answered = True
                self.requests.log.attempt_twice(lambda: _send_fault(generation, fault))

    # What others want ended, and who is next.

    def _take_orders(self) -> None:
        orders = self.requests.orders
        while orders:
            what, generation = orders.popleft()
            if generation.is_over:
                continue
            if what == "cancel":
                self._guarded(self._cancel, generation)
            elif generation.fault is not None:
                fault = generation.fault
                self._guarded(lambda one, fault=fault: self._fail(one, fault), generation)  # type: ignore[misc]

    def _drain(self) -> None:
        """While the server is ending: end what waits at once, and what runs when its time is over."""
        until_s = self.requests.drain_until_s
        if until_s is None:
            return
        is_late = self._now_s() >= until_s
        for generation in list(self.requests.by_ticket.values()):
            if not generation.is_over and (is_late or generation.call is None):
                reason = f"{SHUTTING_DOWN}; it ran into the drain timeout" if is_late else SHUTTING_DOWN
                self._guarded(lambda one, reason=reason: self._fail(one, OverloadError(reason)), generation)  # type: ignore[misc]

    def _admit(self) -> None:
        while self.requests.drain_until_s is None and (generation := self.requests.admission.next()) is not None:
            self._guarded(self._begin, generation)

    def _begin(self, generation: Generation) -> None:
        """Give a request whose turn it is to the engine."""
        assert generation.prompt is not None
        # A client that had to wait may have gone: the engine should not compute an answer that is not read.
        if is_worth_asking(generation, self._now_s()) and generation.reply.is_cancelled():
            self._cancel(generation)
            return
        try:
            connection = self._calls.connection()
            call = _Call(self, generation, connection)
            call.stream = connection.call(kserve.STREAM_INFER, generation.prompt.body, call)
        except OSError as error:
            self._fail(generation, OverloadError(f"no connection to the engine model: {error}"))
            return
        generation.call = call
        self._accounting.start(generation.account, self._now_s(), generation.prompt.token_count)

    # What the engine says.

    def on_message(self, generation: Generation, message: bytes) -> None:
        """Keep what one response of the engine brings, and have it answered."""
        if generation.is_over:
            return
        try:
            update = read_update(message)
        except ValueError as error:
            update = Update(error=f"the engine's answer cannot be read: {error}")
        self._accounting.add_tokens(generation.account, self._now_s(), len(update.token_ids))
        if update.error:
            generation.fault = engine_fault(update.error)
        is_first = not generation.updates and generation.writer is not None and not generation.writer.completion_tokens
        generation.updates.append(update)
        generation.times_ns = update.times_ns or generation.times_ns  # the end may come after they were answered
        self._line_up_answer(generation, is_urgent=is_first)

    def on_end(self, generation: Generation, status: int, detail: str) -> None:
        """The engine is done with a request: its slot is free, its last answer is due."""
        if generation.is_over:
            return
        if status and generation.fault is None:
            detail = detail or f"the engine model ended the call with gRPC status {status}"
            generation.fault = OverloadError(detail) if status == _UNAVAILABLE else engine_fault(detail)
        generation.has_ended = True
        outcome = "failed" if generation.fault else "ok"
        self.requests.release(generation, outcome, engine_times(generation.times_ns))
        self._line_up_answer(generation, is_urgent=True)

    def _line_up_answer(self, generation: Generation, *, is_urgent: bool) -> None:
        if generation.is_queued or generation.is_over:
            return
        generation.is_queued = True
        (self._urgent if is_urgent else self._others).append(generation)

    # Answers.

    def _answer(self, generation: Generation) -> None:
        generation.is_queued = False
        if generation.is_over:
            return
        if generation.fault is not None:
            self._fail(generation, generation.fault)
            return
        writer = generation.writer
        assert writer is not None
        updates = list(generation.updates)
        generation.updates.clear()
        writer.feed(updates)
        try:
            if generation.has_ended or writer.must_cancel:
                last = writer.last(times_ns=generation.request_times_ns())
                self._close(generation, "ok")
                generation.reply.send(last)
                generation.is_answered = True
            elif generation.request.stream and not writer.is_complete and (piece := writer.take()) is not None:
                generation.reply.send(piece)
        except ClientGoneError:
            self._close(generation, "cancelled")

    def _cancel(self, generation: Generation) -> None:
        self._close(generation, "cancelled")
        writer = generation.writer
        with contextlib.suppress(ClientGoneError):
            if writer is None:
                generation.reply.fail(OverloadError("the request was cancelled"))
            else:
                generation.reply.send(writer.last(times_ns=generation.request_times_ns(), is_cancelled=True))
        generation.is_answered = True

    def _fail(self, generation: Generation, error: Exception) -> None:
        self._close(generation, outcome_of(error))
        _send_fault(generation, error)
        generation.is_answered = True

    def _close(self, generation: Generation, outcome: str) -> None:
        """Leave the engine, the line and the metrics; the client gets its last answer now."""
        generation.is_over = True
        call, prompt = generation.call, generation.prompt
        if isinstance(call, _Call) and prompt is not None and not generation.has_ended:
            may_ask = not self.requests.stopping.is_set()
            self.requests.log.attempt_twice(lambda: self._calls.give_up(call, prompt.request_id, may_ask=may_ask))
        self.requests.release(generation, outcome, None)


def _send_fault(generation: Generation, fault: Exception) -> None:
    with contextlib.suppress(ClientGoneError):
        generation.reply.fail(fault)
