"""The calls to the engine model: one connection at a time, a call per request, and how a call is given up.

It decides when a connection is opened, replaced and closed, and what is done with an engine that does not stop. It does
not know what the engine says: a call passes that on.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from trtbuild_front.engine import EngineContract, read_update, stop_message
from trtbuild_front.transport import kserve
from trtbuild_front.transport.connection import Connection
from trtbuild_front.transport.stream import StreamEvents

_STOP_S = 10.0
"""How long an engine that was asked to stop a request may take before the call is reset."""
_DRAINING_WAIT_S = 0.02
"""Longest wait on the current connection while older ones have calls."""


class EngineCall(StreamEvents, Protocol):
    """A request in the engine.

    Attributes:
        connection: Where it was sent.
        stream: Its number there.
    """

    connection: Connection
    stream: int


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


class EngineCalls:
    """The connections to the engine. Every method belongs to the serving thread, except :meth:`wake`."""

    def __init__(self, contract: EngineContract, connect: Callable[[], Connection], now_s: Callable[[], float]) -> None:
        self._contract, self._connect, self._now_s = contract, connect, now_s
        self._connection: Connection | None = None
        self._draining: list[Connection] = []
        self._asked_to_stop: deque[tuple[float, Connection, int]] = deque()
        self._wake = threading.Event()

    def wake(self) -> None:
        """Let :meth:`exchange` return soon. Thread-safe."""
        self._wake.set()
        connection = self._connection
        if connection is not None:
            connection.wake()

    def connection(self) -> Connection:
        """Return a connection that takes calls.

        Raises:
            OSError: None can be opened.
        """
        current = self._connection
        if current is not None and not current.failure and not current.is_draining:
            return current
        if current is not None and not current.failure:
            self._draining.append(current)
        self._connection = None
        self._connection = self._connect()
        return self._connection

    def exchange(self, timeout_s: float) -> None:
        """Send what is due and hand out what has arrived; wait up to ``timeout_s`` for something."""
        self._reset_overdue()
        for connection in [*self._draining]:
            connection.step(0)
            timeout_s = min(timeout_s, _DRAINING_WAIT_S)
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

    def give_up(self, call: EngineCall, request_id: str, *, may_ask: bool) -> None:
        """End a call whose rest is not wanted: ask the engine to stop, or reset the call where that is not possible.

        A call that is reset just when its last answer is being written is never forgotten by the server, which then
        takes its whole exit timeout to stop. Seen with Triton 2.51: in nearly every run of 300 stop strings.
        """
        body = stop_message(self._contract, request_id)
        if body and may_ask:
            with contextlib.suppress(OSError):
                order = _StopRequest(call.connection, call.stream)
                self.connection().call(kserve.STREAM_INFER, body, order)
                self._asked_to_stop.append((self._now_s() + _STOP_S, call.connection, call.stream))
                return
        call.connection.cancel(call.stream)

    def _reset_overdue(self) -> None:
        """Reset the calls whose engine does not stop."""
        while self._asked_to_stop and self._asked_to_stop[0][0] <= self._now_s():
            _, connection, stream = self._asked_to_stop.popleft()
            connection.cancel(stream)

    def lose_connection(self) -> None:
        """Close the connection; what runs on it ends with a retryable error."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def close_draining(self) -> None:
        """Close the connections that were replaced."""
        while self._draining:
            self._draining.pop().close()
