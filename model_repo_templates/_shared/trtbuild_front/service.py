"""The life of every request: admitted, given to the engine, answered, ended, accounted for.

It decides the order of things and which thread does them. It does not know Triton: requests come as arrays, answers
leave through a :class:`Reply`.

Threads: the caller's (checks and queues), a few that tokenize, one that serves (all engine traffic and all answers),
one that asks whether clients are still there. The serving thread reads everything that has arrived before it answers
anyone, and an answer carries all tokens since the last one: when it falls behind, pieces grow and their number falls,
so it catches up by itself.

Unexpected exceptions: one that concerns a request ends this request; one that concerns nobody closes the connection to
the engine, which ends what runs with a retryable error, and the service goes on. When it cannot go on, the process
ends: the server and its probes notice a dead process, and nobody notices a dead thread.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from trtbuild_front.admission import Admission
from trtbuild_front.engine import EngineContract, Update, check_size, engine_times, prepare, read_update, stop_message
from trtbuild_front.faults import ClientGoneError, EngineError, OverloadError, RequestError
from trtbuild_front.generation import Generation, Reply, Writer
from trtbuild_front.lanes import Lanes
from trtbuild_front.metrics.accounting import Accounting, EngineTimes
from trtbuild_front.request import Dialect, parse_request
from trtbuild_front.text.model import TextModel, size_bytes
from trtbuild_front.transport import kserve
from trtbuild_front.transport.http2 import Connection

_IDLE_S = 0.25
_STOP_S = 10.0
"""How long an engine that was asked to stop a request may take before the call is reset."""
_URGENT_PER_TURN = 16
_OTHERS_PER_TURN = 8
_SWEEP_PAUSE_S = 0.4
_CHECK_PAUSE_S = 0.001
_UNCHECKED_S = 0.4
"""Age below which nobody asks whether a client is still there: asking costs the server as much as an answer."""
_UNAVAILABLE = 14
_UNAVAILABLE_PREFIX = "UNAVAILABLE: "
_STATES_OF_THE_SERVER = re.compile(
    r"has stopped accepting new|Stub process '[^']*' is not healthy|is not ready"
    r"|has no available versions|unknown model"
)
"""What the server says of a model that may be there again later, or in another replica.

Source: triton-inference-server/core (model_repository_manager.cc, scheduler), server (stream_infer_handler.cc),
python_backend (python_be.cc).
"""
_SHUTTING_DOWN = "the server is shutting down; send the request again"
_MOST_FAULTS = 10
_FAULTS_WITHIN_S = 60.0
"""So many turns of one thread may raise within so many seconds before the process ends."""
_FAULT_PAUSE_S = 0.05
_JOIN_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a front model works.

    Attributes:
        slots: Requests the engine computes at once.
        max_waiting: Requests that may wait beside them; 0 for no limit.
        default_max_tokens: Used when a request with ``text_input`` does not say.
        dialect: How requests are to be understood.
    """

    slots: int
    max_waiting: int
    default_max_tokens: int
    dialect: Dialect = field(default_factory=Dialect)


def end_process(reason: str) -> None:
    """End this process at once; the server's log gets the reason."""
    print(f"trtbuild front model: {reason}; the process ends", file=sys.stderr, flush=True)  # noqa: T201
    os._exit(70)


def as_fault(error: BaseException, what: str) -> Exception:
    """Return what a client is told about an exception.

    A new exception: the old one knows the frames it came through, and they the request, so that the response sender
    would live until the garbage collector finds the circle.
    """
    for kind in (RequestError, OverloadError, EngineError):
        if isinstance(error, kind):
            return kind(str(error))
    return EngineError(f"{what}: {type(error).__name__}: {str(error)[:500]}")


class _Call:
    """What the connection tells about one generation. It never raises: the connection is everybody's."""

    __slots__ = ("connection", "generation", "service", "stream")

    def __init__(self, service: Service, generation: Generation, connection: Connection) -> None:
        self.service, self.generation, self.connection = service, generation, connection
        self.stream = 0

    def on_message(self, message: bytes) -> None:
        try:
            self.service._on_message(self.generation, message)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it concerns this request
            self.service._fail_soon(self.generation, error, "the engine's answer could not be handled")

    def on_end(self, status: int, detail: str) -> None:
        try:
            self.service._on_end(self.generation, status, detail)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it concerns this request
            self.generation.has_ended = True
            self.service._fail_soon(self.generation, error, "the engine's end could not be handled")

    def cancel(self) -> None:
        self.connection.cancel(self.stream)


class _StopRequest:
    """Takes what the engine says to a request to stop; one that is refused resets the call."""

    def __init__(self, connection: Connection, stream: int) -> None:
        self._connection, self._stream = connection, stream

    def on_message(self, message: bytes) -> None:
        with contextlib.suppress(ValueError):
            if read_update(message).error:
                self._connection.cancel(self._stream)

    def on_end(self, status: int, detail: str) -> None:  # noqa: ARG002
        if status:
            self._connection.cancel(self._stream)


def _engine_fault(text: str) -> Exception:
    """Return the error for what the engine model, or the server in its place, says went wrong."""
    if text.startswith(_UNAVAILABLE_PREFIX):
        return OverloadError(text.removeprefix(_UNAVAILABLE_PREFIX))
    return OverloadError(text) if _STATES_OF_THE_SERVER.search(text) else EngineError(text)


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
        on_hopeless: Callable[[str], None] = end_process,
    ) -> None:
        self._text, self._contract, self._settings = text, contract, settings
        self._connect, self._now_s, self._on_hopeless = connect, now_s, on_hopeless
        self._drain_until_s: float | None = None
        self._logged_faults = 0
        self._hopeless = ""
        self.beat_s = time.time()
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
        self._lanes = Lanes()
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
        self._text.close()  # threads that wait for a chat template go on
        self._lanes.shutdown()
        for thread in self._threads:
            thread.join(_JOIN_S)

    def drain(self, until_s: float) -> None:
        """The server is ending: refuse what is new or waits, let what runs go on until ``until_s`` of the clock."""
        self._drain_until_s = until_s
        self._notify()

    def resume(self) -> None:
        """The server is not ending after all."""
        self._drain_until_s = None

    def submit(self, values: Mapping[str, npt.NDArray[Any]], reply: Reply, parameters: str = "") -> None:
        """Take a request; every answer, errors too, goes to ``reply``. Returns at once."""
        if self._stopping.is_set() or self._drain_until_s is not None:
            reply.fail(OverloadError(_SHUTTING_DOWN))
            return
        ticket = self._admission.enter()
        if ticket is None:
            self.accounting.reject()
            limit = self._settings.max_waiting
            reply.fail(OverloadError(f"the queue is full ({limit} requests are waiting); send the request again later"))
            return
        account = None
        try:
            account = self.accounting.arrive(self._now_s())
            request = parse_request(values, self._settings.dialect, parameters)
            size = check_size(request, self._text, self._contract)
            generation = Generation(ticket=ticket, request=request, reply=reply, account=account)
            self._live[ticket] = generation
            if request.messages is not None:
                self._lanes.render(lambda: self._render(generation))
            else:
                self._lanes.tokenize(size, lambda: self._prepare(generation))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it concerns this request
            self._live.pop(ticket, None)
            self._firmly(lambda: self._admission.leave(ticket))
            fault = as_fault(error, "the request could not be taken")
            outcome = "invalid" if isinstance(fault, RequestError) else "failed"
            if account is not None:
                self._firmly(lambda: self.accounting.finish(account, self._now_s(), outcome))
            reply.fail(fault)

    def _render(self, generation: Generation) -> None:
        """Let the chat template write the prompt, in a thread that waits for it; then have it tokenized."""
        if generation.is_over:
            return
        try:
            text = self._text.render(generation.request.messages or "", self._contract.longest_prompt)
            self._lanes.tokenize(size_bytes(text), lambda: self._prepare(generation, text))
        except BaseException as error:  # noqa: BLE001 - as in _prepare
            self._fail_soon(generation, error, "the request could not be prepared")
            self._notify()

    def _prepare(self, generation: Generation, rendered: str | None = None) -> None:
        """Tokenize, in a thread of the lanes."""
        if generation.is_over:
            return
        try:
            generation.prompt = prepare(
                generation.request, self._text, self._contract, self._settings.default_max_tokens, rendered
            )
            generation.writer = Writer(generation.request, generation.prompt, self._text)
            self._admission.line_up(generation.ticket, generation)
        except BaseException as error:  # noqa: BLE001 - MemoryError and the panics of tokenizers, too: nobody else looks
            self._fail_soon(generation, error, "the request could not be prepared")
        self._notify()

    def _fail_soon(self, generation: Generation, error: BaseException, what: str) -> None:
        """Let the serving thread end a request that something unexpected happened to. Thread-safe."""
        generation.fault = as_fault(error, what)
        if not isinstance(error, RequestError):
            self._log_fault(what, error)
        self._inbox.append(("fail", generation))

    def _log_fault(self, what: str, error: BaseException) -> None:
        """Tell the server's log; not thousands of times."""
        self._logged_faults += 1
        if self._logged_faults <= 20 or self._logged_faults % 1000 == 0:
            lines = "".join(traceback.format_exception(error))
            print(f"trtbuild front model: {what} (fault {self._logged_faults}): {lines}", file=sys.stderr)  # noqa: T201

    def _firmly(self, step: Callable[[], None]) -> None:
        """Do a step of ending a request, twice if need be: what follows it is done whatever happens."""
        for _ in range(2):
            try:
                step()
            except BaseException as error:  # noqa: BLE001 - a request that ends half would be counted for ever
                self._log_fault("a request could not be ended", error)
            else:
                return

    def _guarded(self, what: Callable[[Generation], None], generation: Generation) -> None:
        """Do something for one request; whatever is raised ends it."""
        try:
            what(generation)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it concerns this request
            fault = as_fault(error, "the request failed unexpectedly")
            self._log_fault("a request failed unexpectedly", error)
            self._close(generation, "failed")
            if not generation.has_last_word:
                generation.has_last_word = True
                self._firmly(lambda: self._tell(generation, fault))

    @staticmethod
    def _tell(generation: Generation, fault: Exception) -> None:
        with contextlib.suppress(ClientGoneError):
            generation.reply.fail(fault)

    def _persistently(self, turn: Callable[[], None], name: str) -> None:
        """Repeat one turn of a thread until the service stops; give up when turns keep raising."""
        faults: deque[float] = deque(maxlen=_MOST_FAULTS)
        while not self._stopping.is_set():
            try:
                turn()
            except BaseException as error:  # noqa: BLE001 - a thread that ends quietly is the worst
                faults.append(self._now_s())
                self._log_fault(f"thread {name!r}", error)
                if len(faults) == _MOST_FAULTS and faults[-1] - faults[0] <= _FAULTS_WITHIN_S:
                    self._hopeless = f"thread {name!r} failed {_MOST_FAULTS} times in a minute: {error!r}"
                    self._stopping.set()
                    self._notify()
                    return
                if name == "serve":
                    self._firmly(self._lose_connection)
                time.sleep(_FAULT_PAUSE_S)

    def _notify(self) -> None:
        self._wake.set()
        connection = self._connection
        if connection is not None:
            connection.wake()

    # The serving thread.

    def _serve(self) -> None:
        self._persistently(self._turn, "serve")
        for generation in [*self._live.values(), *self._urgent, *self._others]:
            if not generation.is_over:
                self._guarded(lambda one: self._fail(one, OverloadError(_SHUTTING_DOWN)), generation)
        self._firmly(self._lose_connection)
        for connection in self._draining:
            self._firmly(connection.close)
        if self._hopeless:
            self._on_hopeless(self._hopeless)

    def _turn(self) -> None:
        self.beat_s = time.time()
        self._take_inbox()
        self._reset_overdue()
        self._drain()
        self._admit()
        self._exchange()
        # First tokens and ends go first, but nobody starves: both lines move at every turn.
        for line, most in ((self._urgent, _URGENT_PER_TURN), (self._others, _OTHERS_PER_TURN)):
            for _ in range(min(len(line), most)):
                self._guarded(self._answer, line.popleft())

    def _lose_connection(self) -> None:
        """Close the connection; what runs on it ends with a retryable error."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _take_inbox(self) -> None:
        while self._inbox:
            what, generation = self._inbox.popleft()
            if generation.is_over:
                continue
            if what == "cancel":
                self._guarded(self._cancel, generation)
            elif generation.fault is not None:
                fault = generation.fault
                self._guarded(lambda one, fault=fault: self._fail(one, fault), generation)  # type: ignore[misc]

    def _drain(self) -> None:
        """While the server is ending: end what waits at once, and what runs when its time is over."""
        until_s = self._drain_until_s
        if until_s is None:
            return
        is_late = self._now_s() >= until_s
        for generation in list(self._live.values()):
            if not generation.is_over and (is_late or generation.call is None):
                reason = f"{_SHUTTING_DOWN}; it ran into the drain timeout" if is_late else _SHUTTING_DOWN
                self._guarded(lambda one, reason=reason: self._fail(one, OverloadError(reason)), generation)  # type: ignore[misc]

    def _admit(self) -> None:
        while self._drain_until_s is None and (generation := self._admission.next()) is not None:
            self._guarded(self._begin, generation)

    def _begin(self, generation: Generation) -> None:
        """Give a request whose turn it is to the engine."""
        assert generation.prompt is not None
        if self._is_abandoned(generation):
            self._cancel(generation)
            return
        try:
            connection = self._open_connection()
            call = _Call(self, generation, connection)
            call.stream = connection.call(kserve.STREAM_INFER, generation.prompt.body, call)
        except OSError as error:
            self._fail(generation, OverloadError(f"no connection to the engine model: {error}"))
            return
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
            generation.fault = _engine_fault(update.error)
        is_first = not generation.updates and generation.writer is not None and not generation.writer.completion_tokens
        generation.updates.append(update)
        generation.times_ns = update.times_ns or generation.times_ns  # the end may come after they were answered
        self._line_up_answer(generation, is_urgent=is_first)

    def _on_end(self, generation: Generation, status: int, detail: str) -> None:
        if generation.is_over:
            return
        if status and generation.fault is None:
            detail = detail or f"the engine model ended the call with gRPC status {status}"
            generation.fault = OverloadError(detail) if status == _UNAVAILABLE else _engine_fault(detail)
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
                last = writer.last(times_ns=generation.told_times_ns())
                self._close(generation, "ok")
                generation.reply.send(last)
                generation.has_last_word = True
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
                generation.reply.send(writer.last(times_ns=generation.told_times_ns(), is_cancelled=True))
        generation.has_last_word = True

    def _fail(self, generation: Generation, error: Exception) -> None:
        self._close(generation, "invalid" if isinstance(error, RequestError) else "failed")
        with contextlib.suppress(ClientGoneError):
            generation.reply.fail(error)
        generation.has_last_word = True

    def _close(self, generation: Generation, outcome: str) -> None:
        """The client gets the last word now: leave the engine, the line and the accounts."""
        generation.is_over = True
        call = generation.call
        if isinstance(call, _Call) and not generation.has_ended:
            self._firmly(lambda: self._leave_engine(generation, call))
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
                order = _StopRequest(call.connection, call.stream)
                self._open_connection().call(kserve.STREAM_INFER, body, order)
                self._asked_to_stop.append((self._now_s() + _STOP_S, call.connection, call.stream))
                return
        call.cancel()

    def _reset_overdue(self) -> None:
        """Reset the calls whose engine does not stop."""
        while self._asked_to_stop and self._asked_to_stop[0][0] <= self._now_s():
            _, connection, stream = self._asked_to_stop.popleft()
            connection.cancel(stream)

    def _release(self, generation: Generation, outcome: str, times: EngineTimes | None) -> None:
        self._firmly(lambda: self.accounting.finish(generation.account, self._now_s(), outcome, times))
        self._firmly(lambda: self._admission.leave(generation.ticket))
        self._live.pop(generation.ticket, None)
        # The call knows the generation: left to the garbage collector, the circle would keep the response sender until
        # the interpreter ends, when Triton's memory is gone, and destroying it crashes there (seen with Triton 2.51).
        generation.call = None

    # The thread that looks for clients that have gone.

    def _sweep(self) -> None:
        self._persistently(self._sweep_once, "sweep")

    def _sweep_once(self) -> None:
        if self._stopping.wait(_SWEEP_PAUSE_S):
            return
        for generation in list(self._live.values()):
            if self._stopping.is_set():
                return
            if generation.is_over or self._now_s() - generation.account.arrived_s < _UNCHECKED_S:
                continue
            try:
                is_gone = generation.reply.is_cancelled()
            except BaseException as error:  # noqa: BLE001 - whatever it is, it concerns this request
                self._fail_soon(generation, error, "the server could not say whether the client is there")
                self._notify()
                continue
            if is_gone:
                self._inbox.append(("cancel", generation))
                self._notify()
            time.sleep(_CHECK_PAUSE_S)  # leave the processor to the tokens
