"""The life of every request: admitted, given to the engine, answered, ended, accounted for.

It decides the order of things and which thread does them. It does not know Triton: requests come as arrays, answers
leave through a :class:`Reply`.

Threads: the caller's (checks and queues), a few that tokenize, one that serves (all engine traffic and all answers),
one that asks whether clients are still there. The serving thread reads everything that has arrived before it answers
anyone, and an answer carries all tokens since the last one: when it falls behind, pieces grow and their number falls,
so it catches up by itself.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from trtbuild_front import kserve
from trtbuild_front.accounting import Accounting, EngineTimes
from trtbuild_front.admission import Admission
from trtbuild_front.engine import EngineContract, Update, engine_times, prepare, read_update, stop_message
from trtbuild_front.faults import ClientGoneError, EngineError, OverloadError, RequestError
from trtbuild_front.generation import Generation, Reply, Writer
from trtbuild_front.http2 import Connection
from trtbuild_front.request import parse_request
from trtbuild_front.text import TextModel

_IDLE_S = 0.25
_STOP_S = 10.0
"""How long an engine that was asked to stop a request may take before the call is reset."""
_URGENT_PER_TURN = 16
_OTHERS_PER_TURN = 8
_SWEEP_PAUSE_S = 0.4
_CHECK_PAUSE_S = 0.001
_UNCHECKED_S = 0.4
"""Age below which nobody asks whether a client is still there: asking costs the server as much as an answer."""
_TOKENIZING_THREADS = 2
_UNAVAILABLE = 14
_PREPARE_FAULTS = (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a front model works.

    Attributes:
        slots: Requests the engine computes at once.
        max_waiting: Requests that may wait beside them; 0 for no limit.
        default_max_tokens: Used when a request with ``text_input`` does not say.
    """

    slots: int
    max_waiting: int
    default_max_tokens: int


class _Call:
    """What the connection tells about one generation."""

    __slots__ = ("connection", "generation", "service", "stream")

    def __init__(self, service: Service, generation: Generation, connection: Connection) -> None:
        self.service, self.generation, self.connection = service, generation, connection
        self.stream = 0

    def on_message(self, message: bytes) -> None:
        self.service._on_message(self.generation, message)

    def on_end(self, status: int, detail: str) -> None:
        self.service._on_end(self.generation, status, detail)

    def cancel(self) -> None:
        self.connection.cancel(self.stream)


class _Unheard:
    """Takes what the engine says to a request to stop, which is nothing of interest."""

    def on_message(self, message: bytes) -> None:
        pass

    def on_end(self, status: int, detail: str) -> None:
        pass


class Service:
    """Serves the requests of one front model. Start with :meth:`start`, end with :meth:`stop`."""

    def __init__(
        self,
        *,
        text: TextModel,
        contract: EngineContract,
        settings: Settings,
        connect: Callable[[], Connection],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._text, self._contract, self._settings = text, contract, settings
        self._connect, self._now_s = connect, now_s
        self.accounting = Accounting(now_s())
        self._admission: Admission[Generation] = Admission(settings.slots, settings.max_waiting)
        self._live: dict[int, Generation] = {}
        self._inbox: deque[tuple[str, Generation]] = deque()
        self._urgent: deque[Generation] = deque()
        self._others: deque[Generation] = deque()
        self._connection: Connection | None = None
        self._draining: list[Connection] = []
        self._asked_to_stop: deque[tuple[float, Connection, int]] = deque()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(_TOKENIZING_THREADS, thread_name_prefix="tokenize")
        self._threads = [
            threading.Thread(target=self._serve, name="serve", daemon=True),
            threading.Thread(target=self._sweep, name="sweep", daemon=True),
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End every request with a retryable error and join the threads."""
        self._stopping.set()
        self._notify()
        self._pool.shutdown(cancel_futures=True)
        for thread in self._threads:
            thread.join()

    def submit(self, values: Mapping[str, npt.NDArray[Any]], reply: Reply) -> None:
        """Take a request; every answer, errors too, goes to ``reply``. Returns at once."""
        if self._stopping.is_set():
            reply.fail(OverloadError("the model is shutting down; send the request again"))
            return
        ticket = self._admission.enter()
        if ticket is None:
            self.accounting.reject()
            limit = self._settings.max_waiting
            reply.fail(OverloadError(f"the queue is full ({limit} requests are waiting); send the request again later"))
            return
        account = self.accounting.arrive(self._now_s())
        try:
            request = parse_request(values)
        except RequestError as error:
            self._admission.leave(ticket)
            self.accounting.finish(account, self._now_s(), "invalid")
            reply.fail(error)
            return
        generation = Generation(ticket=ticket, request=request, reply=reply, account=account)
        self._live[ticket] = generation
        self._pool.submit(self._prepare, generation)

    def _prepare(self, generation: Generation) -> None:
        """Tokenize, in a thread of the pool."""
        try:
            generation.prompt = prepare(
                generation.request, self._text, self._contract, self._settings.default_max_tokens
            )
            generation.writer = Writer(generation.request, generation.prompt, self._text)
        except RequestError as error:
            generation.fault = error
        except _PREPARE_FAULTS as error:  # a fault of ours or of the tokenizer's must not take the thread with it
            generation.fault = EngineError(f"the request could not be prepared: {error!r}")
        if generation.fault is None:
            self._admission.line_up(generation.ticket, generation)
        else:
            self._inbox.append(("fail", generation))
        self._notify()

    def _notify(self) -> None:
        self._wake.set()
        connection = self._connection
        if connection is not None:
            connection.wake()

    # The serving thread.

    def _serve(self) -> None:
        try:
            while not self._stopping.is_set():
                self._take_inbox()
                self._reset_overdue()
                self._admit()
                self._exchange()
                # First tokens and ends go first, but nobody starves: both lines move at every turn.
                for line, most in ((self._urgent, _URGENT_PER_TURN), (self._others, _OTHERS_PER_TURN)):
                    for _ in range(min(len(line), most)):
                        self._answer(line.popleft())
        finally:
            self._stopping.set()
            for generation in list(self._live.values()):
                self._fail(generation, OverloadError("the model is shutting down; send the request again"))
            if self._connection is not None:
                self._draining.append(self._connection)
            for connection in self._draining:
                connection.close()

    def _take_inbox(self) -> None:
        while self._inbox:
            what, generation = self._inbox.popleft()
            if generation.is_over:
                continue
            if what == "cancel":
                self._cancel(generation)
            elif generation.fault is not None:
                self._fail(generation, generation.fault)

    def _admit(self) -> None:
        while (generation := self._admission.next()) is not None:
            assert generation.prompt is not None
            if self._is_abandoned(generation):
                self._cancel(generation)
                continue
            try:
                connection = self._open_connection()
                call = _Call(self, generation, connection)
                call.stream = connection.call(kserve.STREAM_INFER, generation.prompt.body, call)
            except OSError as error:
                self._fail(generation, OverloadError(f"no connection to the engine model: {error}"))
                continue
            generation.call = call
            self.accounting.start(generation.account, self._now_s(), generation.prompt.token_count)

    def _is_abandoned(self, generation: Generation) -> bool:
        """Return whether a client that had to wait has gone: the engine is not to work for nobody."""
        has_waited = self._now_s() - generation.account.arrived_s >= _UNCHECKED_S
        return has_waited and generation.reply.is_cancelled()

    def _open_connection(self) -> Connection:
        current = self._connection
        if current is not None and not current.failure and not current.is_draining:
            return current
        if current is not None and not current.failure:
            self._draining.append(current)
        self._connection = None
        self._connection = self._connect()
        return self._connection

    def _exchange(self) -> None:
        """Send and receive; wait only when there is nobody to answer."""
        timeout_s = 0.0 if self._urgent or self._others or self._inbox else _IDLE_S
        for connection in [*self._draining]:
            connection.step(0)
            timeout_s = min(timeout_s, 0.02)
            if not connection.has_calls or connection.failure:
                connection.close()
                self._draining.remove(connection)
        current = self._connection
        if current is None:
            self._wake.wait(timeout_s)
        else:
            current.step(timeout_s)
            if current.failure:
                current.close()
                self._connection = None
        self._wake.clear()

    def _on_message(self, generation: Generation, message: bytes) -> None:
        if generation.is_over:
            return
        try:
            update = read_update(message)
        except ValueError as error:
            update = Update(error=f"the engine's answer cannot be read: {error}")
        self.accounting.add_tokens(generation.account, self._now_s(), len(update.token_ids))
        if update.error:
            generation.fault = EngineError(update.error)
        is_first = not generation.updates and generation.writer is not None and not generation.writer.completion_tokens
        generation.updates.append(update)
        generation.times_ns = update.times_ns or generation.times_ns  # the end may come after they were answered
        self._line_up_answer(generation, is_urgent=is_first)

    def _on_end(self, generation: Generation, status: int, detail: str) -> None:
        if generation.is_over:
            return
        if status and generation.fault is None:
            kind = OverloadError if status == _UNAVAILABLE else EngineError
            generation.fault = kind(detail or f"the engine model ended the call with gRPC status {status}")
        generation.has_ended = True
        self._release(generation, "failed" if generation.fault else "ok", engine_times(generation.times_ns))
        self._line_up_answer(generation, is_urgent=True)

    def _line_up_answer(self, generation: Generation, *, is_urgent: bool) -> None:
        if generation.is_queued or generation.is_over:
            return
        generation.is_queued = True
        (self._urgent if is_urgent else self._others).append(generation)

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
                self._close(generation, "ok")
                generation.reply.send(writer.last(times_ns=generation.told_times_ns()))
            elif generation.request.stream and not writer.is_complete and (piece := writer.take()) is not None:
                generation.reply.send(piece)
        except ClientGoneError:
            self._close(generation, "cancelled")

    def _cancel(self, generation: Generation) -> None:
        self._close(generation, "cancelled")
        writer = generation.writer
        try:
            if writer is None:
                generation.reply.fail(OverloadError("the request was cancelled"))
            else:
                generation.reply.send(writer.last(times_ns=generation.told_times_ns(), is_cancelled=True))
        except ClientGoneError:
            return

    def _fail(self, generation: Generation, error: Exception) -> None:
        self._close(generation, "invalid" if isinstance(error, RequestError) else "failed")
        try:
            generation.reply.fail(error)
        except ClientGoneError:
            return

    def _close(self, generation: Generation, outcome: str) -> None:
        """The client gets the last word now: leave the engine, the line and the books."""
        generation.is_over = True
        if isinstance(generation.call, _Call) and not generation.has_ended:
            self._leave_engine(generation, generation.call)
        self._release(generation, outcome, None)

    def _leave_engine(self, generation: Generation, call: _Call) -> None:
        """Tell the engine that nobody wants the rest: ask it to stop; reset the call where it cannot be asked.

        A call that is reset just when its last answer is being written is never forgotten by the server, which then
        takes its whole exit timeout to stop. Seen with Triton 2.51: in nearly every run of 300 stop strings.
        """
        assert generation.prompt is not None
        body = stop_message(self._contract, generation.prompt.request_id)
        if body and not self._stopping.is_set():
            with contextlib.suppress(OSError):
                self._open_connection().call(kserve.STREAM_INFER, body, _Unheard())
                self._asked_to_stop.append((self._now_s() + _STOP_S, call.connection, call.stream))
                return
        call.cancel()

    def _reset_overdue(self) -> None:
        """Reset the calls whose engine does not stop."""
        while self._asked_to_stop and self._asked_to_stop[0][0] <= self._now_s():
            _, connection, stream = self._asked_to_stop.popleft()
            connection.cancel(stream)

    def _release(self, generation: Generation, outcome: str, times: EngineTimes | None) -> None:
        self.accounting.finish(generation.account, self._now_s(), outcome, times)
        self._admission.leave(generation.ticket)
        self._live.pop(generation.ticket, None)
        # The call knows the generation: left to the garbage collector, the circle would keep the response sender until
        # the interpreter ends, when Triton's memory is gone, and destroying it crashes there (seen with Triton 2.51).
        generation.call = None

    # The thread that looks for clients that have gone.

    def _sweep(self) -> None:
        while not self._stopping.wait(_SWEEP_PAUSE_S):
            for generation in list(self._live.values()):
                if self._stopping.is_set():
                    return
                if generation.is_over or self._now_s() - generation.account.arrived_s < _UNCHECKED_S:
                    continue
                if generation.reply.is_cancelled():
                    self._inbox.append(("cancel", generation))
                    self._notify()
                time.sleep(_CHECK_PAUSE_S)  # leave the processor to the tokens
