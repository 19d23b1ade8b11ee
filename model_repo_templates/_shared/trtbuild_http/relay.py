"""A request that another model of this server answers: sent to its socket, and its answer passed on as it comes."""

from __future__ import annotations

import asyncio
import errno
import urllib.parse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

from trtbuild_http.errors import ApiError
from trtbuild_http.optional import httptools

if TYPE_CHECKING:
    from trtbuild_http.exchange import Exchange

_ASK_TIME_S = 2.0
_MOST_ANSWER_BYTES = 64 << 20
_OF_ONE_CONNECTION = frozenset(
    {"connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)
_NOT_ASKED = _OF_ONE_CONNECTION | frozenset(
    {"authorization", "cookie", "expect", "host", "origin", "proxy-authorization", "x-request-id"}
)
"""Headers of a request that concern the owner of the port only."""
_NOT_ANSWERED = _OF_ONE_CONNECTION | {"content-type", "date", "x-content-type-options", "x-request-id"}
"""Headers of an answer that the owner of the port writes itself."""


class _Receiver(Protocol):
    """Takes an answer apart."""

    def on_head(self, status: int, headers: Mapping[str, str]) -> None: ...

    def on_part(self, data: bytes) -> None: ...

    def on_end(self) -> None: ...

    def on_lost(self) -> None: ...


class _Client(asyncio.Protocol):
    """One request on a connection of its own."""

    def __init__(self, request: bytes, receiver: _Receiver) -> None:
        self._request = request
        self._receiver: _Receiver | None = receiver
        self._parser: Any = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.on_lost()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._receiver is not None:
            self._receiver.on_head(self._parser.get_status_code(), self._headers)

    def on_body(self, data: bytes) -> None:
        if self._receiver is not None:
            self._receiver.on_part(data)

    def on_message_complete(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.on_end()
        self.transport.close()


class _Whole:
    """Collects an answer."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._status = 0
        self._body = bytearray()

    def on_head(self, status: int, headers: Mapping[str, str]) -> None:
        del headers
        self._status = status

    def on_part(self, data: bytes) -> None:
        if len(self._body) + len(data) <= _MOST_ANSWER_BYTES:
            self._body += data

    def on_end(self) -> None:
        if not self.answer.done():
            self.answer.set_result((self._status, bytes(self._body)))

    def on_lost(self) -> None:
        if not self.answer.done():
            self.answer.set_exception(ConnectionResetError(errno.ECONNRESET, "the model ended before it had answered"))


async def ask(socket_path: str, path: str) -> tuple[int, bytes]:
    """Return status and body of a sibling's answer to a GET request.

    Raises:
        OSError: Nobody listens, the sibling ended, or it does not answer in time.
    """
    request = f"GET {path} HTTP/1.1\r\nhost: model\r\nconnection: close\r\n\r\n".encode()
    receiver = _Whole()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_unix_connection(lambda: _Client(request, receiver), socket_path)
    try:
        await asyncio.wait({receiver.answer}, timeout=_ASK_TIME_S)
        if not receiver.answer.done():  # not wait_for, whose error is another class in Python 3.10
            raise TimeoutError(errno.ETIMEDOUT, f"no answer to {path} within {_ASK_TIME_S:g} s")
        return receiver.answer.result()
    finally:
        receiver.answer.cancel()
        transport.abort()


class _Passed:
    """Passes an answer on to a client."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._status = 0
        self._headers: dict[str, str] = {}
        self._content_type = "application/json"
        self._is_stream = False
        self._held = bytearray()

    def on_head(self, status: int, headers: Mapping[str, str]) -> None:
        self._status = status
        self._content_type = headers.get("content-type", self._content_type)
        self._headers = {name: value for name, value in headers.items() if name not in _NOT_ANSWERED}
        self._is_stream = self._content_type.startswith("text/event-stream")
        if self._is_stream:
            self._exchange.start_events()

    def on_part(self, data: bytes) -> None:
        self._held += data
        if self._is_stream:
            # Whole events only: what an ending model leaves half written must not precede the error.
            end = self._held.rfind(b"\n\n") + 2
            if end > 1:
                self._exchange.send_formatted(bytes(self._held[:end]))
                del self._held[:end]
        elif len(self._held) > _MOST_ANSWER_BYTES:
            self._exchange.fail(ApiError(500, "the model's answer is too long to be passed on"))

    def on_end(self) -> None:
        if self._is_stream:
            self._exchange.end_events()
        else:
            self._exchange.respond(self._status, bytes(self._held), self._content_type, self._headers)

    def on_lost(self) -> None:
        self._exchange.fail(
            ApiError(
                503,
                "the process that serves this model ended before it had answered; it is started again, retry",
                code="model_process_ended",
                retry_after_s=2,
            )
        )


async def relay(exchange: Exchange, socket_path: str) -> None:
    """Have a sibling answer; returns once it has the request.

    Raises:
        OSError: Nobody listens there; the exchange is as it was.
    """
    request = exchange.request
    lines = [f"{request.method} {urllib.parse.quote(request.path)} HTTP/1.1", "host: model"]
    lines += [f"{name}: {value}" for name, value in request.headers.items() if name not in _NOT_ASKED]
    lines += [f"x-request-id: {request.request_id}", f"content-length: {len(request.body)}", "connection: close"]
    data = "\r\n".join([*lines, "", ""]).encode("latin-1") + request.body
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_unix_connection(lambda: _Client(data, _Passed(exchange)), socket_path)
    exchange.on_gone(transport.abort)
