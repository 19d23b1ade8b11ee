"""One client's connection: requests in, answers out in the same order, and what happens when either side is slow.

It decides when input is read, when a client is refused or cut, and when the connection is used again. What is answered
is decided by its :class:`trtbuild_http.host.Host`. All methods belong to the loop's thread, except ``post``.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from typing import cast

from trtbuild_http import sockets
from trtbuild_http.errors import ApiError
from trtbuild_http.exchange import Exchange, Form, HttpRequest
from trtbuild_http.framing import Head, RequestReader, body_too_large
from trtbuild_http.host import Host

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_MOST_REQUESTS_PER_TURN = 32
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_NEVER = float("inf")

_IDLE, _HEAD, _BODY, _RUNNING, _LINGERING, _CLOSED = range(6)


class Connection(asyncio.Protocol):
    """One connection.

    Attributes:
        is_internal: It comes from another model of this server, through the private directory.
    """

    def __init__(self, host: Host, *, is_internal: bool) -> None:
        self.is_internal = is_internal
        self._host = host
        self._reader = RequestReader(host.limits)
        self._state = _IDLE
        self._deadline = _NEVER
        self._head: Head | None = None
        self._exchange: Exchange | None = None
        self._body_bytes = 0
        self._counted_bytes = 0
        self._is_reading_paused = False
        self._is_writing_paused = False
        self._unread_bytes = 0
        self._unread_since = 0.0

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a request."""
        self._transport = cast(asyncio.Transport, transport)
        if not self.is_internal:
            sockets.notice_dead_peers(transport.get_extra_info("socket"), self._host.limits.unread_time_s)
        self._await_request()
        if not self._host.add(self):
            self._refuse(ApiError(503, "too many connections are open", retry_after_s=1, code="too_many_connections"))

    def data_received(self, data: bytes) -> None:
        """Read what has arrived."""
        if self._state >= _LINGERING:
            return
        self._reader.feed(data)
        self._advance()

    def eof_received(self) -> bool:
        """Close: a client that sends nothing more has most likely gone, and its answer is not computed to the end."""
        self._leave()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        del exc
        self._host.remove(self)
        self._leave()

    def pause_writing(self) -> None:
        """Answer no further request before the client has read more."""
        self._is_writing_paused = True

    def resume_writing(self) -> None:
        """Go on."""
        self._is_writing_paused = False
        if self._state < _RUNNING:
            self._advance()

    # What the host calls.

    def post(self) -> None:
        """Have the exchange's bytes written soon. Thread-safe."""
        self._host.post(self)

    def flush(self) -> None:
        """Write what the exchange holds."""
        if self._write_answer() and self._state < _RUNNING:
            self._advance()

    def sweep(self, now: float) -> None:
        """Do what is due: refuse a slow request, close an idle connection, cut a client that does not read."""
        unread = self._transport.get_write_buffer_size()
        if not unread or unread < self._unread_bytes or not self._unread_since:
            self._unread_since = now
        self._unread_bytes = unread
        if unread and now - self._unread_since > self._host.limits.unread_time_s:
            self.abort()
        elif now > self._deadline:
            self._deadline = _NEVER
            if self._state in {_HEAD, _BODY}:
                part = "headers" if self._state == _HEAD else "body"
                self._refuse(ApiError(408, f"the request's {part} did not arrive in time"))
            else:
                self.close()

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered."""
        return self._exchange is not None

    def end_keep_alive(self) -> None:
        """Close after the running answer."""
        if self._exchange is not None:
            self._exchange.form.keeps_alive = False

    def stop(self, error: ApiError) -> None:
        """End the running answer with ``error`` and close."""
        if self._exchange is not None:
            self.end_keep_alive()
            self._exchange.abandon(error)
            self._write_answer()
        if self._state < _LINGERING:
            self.close()

    def close(self) -> None:
        """Close once everything has been written."""
        self._leave()
        self._transport.close()

    def abort(self) -> None:
        """Close now; what has not been written, here or in the kernel's buffer, is thrown away."""
        self._leave()
        sockets.reset_on_close(self._transport.get_extra_info("socket"))
        self._transport.abort()

    # The states.

    def _await_request(self) -> None:
        if not self.is_internal:
            self._host.waiting[self] = None
        self._state = _IDLE
        self._deadline = self._host.loop.time() + self._host.limits.idle_time_s

    def _advance(self) -> None:
        """Take requests from what has been read, until one keeps running or more input is needed."""
        try:
            for _ in range(_MOST_REQUESTS_PER_TURN):
                if self._state >= _RUNNING or self._is_writing_paused or not self._take_event():
                    break
            else:
                self._host.loop.call_soon(self._advance)
        except ApiError as error:
            self._refuse(error)
        self._count_bytes()

    def _take_event(self) -> bool:
        """Handle the next head or body; return whether there was one."""
        event = self._reader.next_event()
        if event is None:
            if self._state == _IDLE and self._reader.held_bytes:
                self._state = _HEAD
                self._deadline = self._host.loop.time() + self._host.limits.header_time_s
            return False
        if isinstance(event, Head):
            self._on_head(event)
        else:
            self._on_body(event)
        return True

    def _on_head(self, head: Head) -> None:
        self._head = head
        error = self._host.screen(head, is_internal=self.is_internal)
        if error is None and head.length is not None and head.length > self._host.limits.max_body_bytes:
            error = body_too_large(self._host.limits.max_body_bytes)
        if error is not None and head.has_body:
            raise error  # without reading the body, and so without using the connection again
        if error is not None:
            self._reader.next_event()
            self._run(head, b"").fail(error)
            self._write_answer()
            return
        self._state = _BODY
        self._deadline = self._host.loop.time() + self._host.limits.body_time_s
        if head.expects_continue and head.has_body and not self._reader.held_bytes:
            self._transport.write(_CONTINUE)

    def _on_body(self, body: bytes) -> None:
        assert self._head is not None
        exchange = self._run(self._head, body)
        self._host.handle(exchange, is_internal=self.is_internal)
        self._write_answer()

    def _run(self, head: Head, body: bytes) -> Exchange:
        exchange = self._make_exchange(head, body)
        exchange.hold()  # what is answered at once is written at once
        self._head = None
        self._exchange = exchange
        self._body_bytes = len(body)
        self._state, self._deadline = _RUNNING, _NEVER
        self._host.waiting.pop(self, None)
        return exchange

    def _make_exchange(self, head: Head | None, body: bytes = b"") -> Exchange:
        """Return an exchange for a request, or for what could not be read as one."""
        if head is None:
            head = Head("", "", "", {}, False, False, 0)
        request_id = head.headers.get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = f"req-{secrets.token_hex(12)}"
        request = HttpRequest(head.method, head.path, head.query, head.headers, body, request_id)
        form = Form(head.is_http10, head.keeps_alive)
        self._host.prepare(request, form)
        return Exchange(request, self, form)

    def _write_answer(self) -> bool:
        """Write what the exchange holds; return whether it is over and the connection waits for the next request."""
        exchange = self._exchange
        if exchange is None:
            return False
        data, is_over = exchange.take()
        if data:
            self._transport.write(data)
        if not is_over:
            if self._transport.get_write_buffer_size() > self._host.limits.max_unread_bytes:
                self.abort()
            return False
        self._exchange = None
        self._body_bytes = 0
        self._count_bytes()
        if not exchange.form.keeps_alive:
            self.close()
            return False
        self._await_request()
        return True

    def _refuse(self, error: ApiError) -> None:
        """Answer a request that cannot be read to its end, and close in a way that lets the client read the answer.

        A socket that is closed with unread input makes the kernel reset the connection, and the answer may be lost.
        Source: RFC 9112, section 9.6.
        """
        exchange = self._make_exchange(self._head)
        exchange.form.keeps_alive = False
        exchange.hold()
        exchange.fail(error)
        self._transport.write(exchange.take()[0])
        self._state = _LINGERING
        self._host.waiting.pop(self, None)
        self._deadline = self._host.loop.time() + self._host.limits.linger_time_s
        self._reader = RequestReader(self._host.limits)
        self._count_bytes()
        self._resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def _leave(self) -> None:
        self._state, self._deadline = _CLOSED, _NEVER
        self._host.waiting.pop(self, None)
        exchange, self._exchange = self._exchange, None
        self._reader = RequestReader(self._host.limits)
        self._body_bytes = 0
        self._count_bytes()
        if exchange is not None:
            exchange.mark_gone()

    # Bounds of what is held.

    def _count_bytes(self) -> None:
        """Keep the sum over all connections; stop reading where too much waits or comes."""
        waiting = self._reader.held_bytes
        held = waiting + self._body_bytes
        self._host.held_bytes += held - self._counted_bytes
        self._counted_bytes = held
        limits = self._host.limits
        if self._state == _BODY and self._host.held_bytes > limits.max_bodies_bytes:
            self._refuse(
                ApiError(503, "too many bytes of requests are waiting", retry_after_s=1, code="too_many_bytes")
            )
        elif self._state in {_RUNNING, _IDLE, _HEAD} and waiting > limits.max_pipelined_bytes:
            if not self._is_reading_paused:
                self._is_reading_paused = True
                self._transport.pause_reading()
        else:
            self._resume_reading()

    def _resume_reading(self) -> None:
        if self._is_reading_paused:
            self._is_reading_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()
