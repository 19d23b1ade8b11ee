"""One request and the way back to its client, from any thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from trtbuild_http.errors import ApiError

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_ALWAYS = b"x-content-type-options: nosniff\r\n"
_EVENT_HEADERS = b"content-type: text/event-stream\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\n"
"""The last one keeps nginx, and ingresses made of it, from collecting events. Source: nginx, ngx_http_proxy_module."""

_WITHOUT_BODY = frozenset({204, 304})
_WAITING, _EVENTS, _OVER = range(3)


@dataclass(frozen=True)
class HttpRequest:
    """A request as it was read.

    Attributes:
        method: In capitals.
        path: Decoded, without the query.
        query: As sent, without the question mark.
        headers: By lower-case name.
        body: Whole.
        request_id: The client's ``x-request-id``, or a new one.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    request_id: str


@dataclass
class Form:
    """What the connection decides about the form of an answer.

    Attributes:
        is_http10: The client understands no chunks.
        keeps_alive: The connection is used again after this answer.
        extra: More header lines, such as those of CORS.
    """

    is_http10: bool = False
    keeps_alive: bool = True
    extra: bytes = b""


class Channel(Protocol):
    """Where answers go."""

    def post(self) -> None:
        """Have what the exchange holds written soon. Thread-safe."""


class _Date:
    """The Date header, formatted once a second."""

    second = 0
    line = b""

    def now(self) -> bytes:
        second = int(time.time())
        if second != self.second:
            self.line = f"date: {formatdate(second, usegmt=True)}\r\n".encode()
            self.second = second
        return self.line


_date = _Date()


class Exchange:
    """One request and its answer: either :meth:`respond`, or events, or :meth:`fail`.

    Every method may be called from any thread and none blocks. Whatever is sent after the end, or to a client that is
    gone, is dropped.
    """

    def __init__(self, request: HttpRequest, channel: Channel, form: Form | None = None) -> None:
        self.request = request
        self.form = form or Form()
        self._channel = channel
        self._lock = threading.Lock()
        self._phase = _WAITING
        self._is_gone = False
        self._is_posted = False
        self._is_whole = False
        self._head = b""
        self._events: list[bytes] = []
        self._gone_callbacks: list[Callable[[], None]] = []

    @property
    def is_gone(self) -> bool:
        """Whether nobody waits any more: the client has closed, was cut as it reads too slowly, or the server stops."""
        return self._is_gone

    @property
    def is_over(self) -> bool:
        """Whether the answer is complete, or nobody is there to get it."""
        return self._phase == _OVER

    def respond(
        self,
        status: int,
        body: bytes,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answer with a whole body."""
        with self._lock:
            if self._phase == _WAITING:
                self._respond(status, body, content_type, headers or {})

    def fail(self, error: ApiError) -> None:
        """Answer with an error: status and error object, or within a stream an event that holds it, then the end."""
        with self._lock:
            if self._phase == _WAITING:
                self._respond(error.status, error.body(), "application/json", error.headers)
            elif self._phase == _EVENTS:
                self._events += (b"data: ", error.body(), b"\n\n")
                self._phase = _OVER
                self._post()

    def abandon(self, error: ApiError) -> None:
        """Fail, and tell whoever works on the answer that nobody waits for it any more."""
        with self._lock:
            callbacks, self._gone_callbacks = self._gone_callbacks, []
            was_over = self._phase == _OVER
        self.fail(error)
        if not was_over:
            self._is_gone = True
            for callback in callbacks:
                callback()

    def start_events(self) -> None:
        """Begin a stream of server-sent events."""
        with self._lock:
            if self._phase != _WAITING:
                return
            self._phase = _EVENTS
            if self.form.is_http10:
                self.form.keeps_alive = False  # only the end of the connection can end the stream
            self._head = self._make_head(200, _EVENT_HEADERS)
            if not self.form.is_http10:
                self._head += b"transfer-encoding: chunked\r\n"
            self._head += b"\r\n"
            self._post()

    def send_event(self, data: bytes) -> None:
        """Send one event; ``data`` is one line."""
        with self._lock:
            if self._phase == _EVENTS:
                self._events += (b"data: ", data, b"\n\n")
                if not self._is_posted:
                    self._post()

    def send_formatted(self, events: bytes) -> None:
        """Send events that are formatted already, each with the empty line at its end."""
        with self._lock:
            if self._phase == _EVENTS:
                self._events.append(events)
                self._post()

    def end_events(self) -> None:
        """End the stream."""
        with self._lock:
            if self._phase == _EVENTS:
                self._phase = _OVER
                self._post()

    def on_gone(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once if the client goes before the answer is complete; at once if it has gone."""
        with self._lock:
            if not self._is_gone:
                self._gone_callbacks.append(callback)
                return
        callback()

    def hold(self) -> None:
        """Keep the channel from being woken until :meth:`take`: its own thread looks at once anyway."""
        self._is_posted = True

    def take(self) -> tuple[bytes, bool]:
        """Return the bytes to write now, and whether they are the last."""
        with self._lock:
            self._is_posted = False
            is_over = self._phase == _OVER
            if is_over:
                self._gone_callbacks = []
            head, self._head = self._head, b""
            events, self._events = self._events, []
            if self._is_whole:
                return head, is_over
            body = b"".join(events)
            if self.form.is_http10:
                return head + body, is_over
            if body:
                body = b"%x\r\n%b\r\n" % (len(body), body)
            if is_over:
                body += b"0\r\n\r\n"
            return head + body, is_over

    def mark_gone(self) -> None:
        """Note that the client has gone; whoever asked learns of it unless the answer was complete. For the channel."""
        with self._lock:
            self._is_gone = True
            callbacks = [] if self._phase == _OVER else self._gone_callbacks
            self._phase = _OVER
            self._gone_callbacks = []
            self._head = b""
            self._events = []
        for callback in callbacks:
            callback()

    def _post(self) -> None:
        if not self._is_posted:
            self._is_posted = True
            self._channel.post()

    def _respond(self, status: int, body: bytes, content_type: str, headers: Mapping[str, str]) -> None:
        lines = b""
        if status not in _WITHOUT_BODY:
            lines = f"content-type: {content_type}\r\ncontent-length: {len(body)}\r\n".encode()
        for name, value in headers.items():
            if "\r" in value or "\n" in value:
                raise ValueError(f"header {name} would be split by {value!r}")
            lines += f"{name}: {value}\r\n".encode("latin-1", "replace")
        has_body = self.request.method != "HEAD" and status not in _WITHOUT_BODY
        self._head = self._make_head(status, lines) + b"\r\n" + (body if has_body else b"")
        self._is_whole = True
        self._phase = _OVER
        self._post()

    def _make_head(self, status: int, lines: bytes) -> bytes:
        form = self.form
        if not form.keeps_alive:
            lines += b"connection: close\r\n"
        elif form.is_http10:
            lines += b"connection: keep-alive\r\n"
        status_line = _STATUS_LINES.get(status) or f"HTTP/1.1 {status} Unknown\r\n".encode()
        identity = f"x-request-id: {self.request.request_id}\r\n".encode("latin-1")
        return status_line + _date.now() + lines + identity + _ALWAYS + form.extra
