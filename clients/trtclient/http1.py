"""HTTP/1.1 for responses that trickle: one connection per request, the arrival time of every byte, nothing else.

Why not a general client: a load generator must not be what is slow. Bytes are stamped and parsed where they arrive, in
the event loop's reader callback; a task is woken once per request, not once per token. docs/clients.md has the figures.

Why a connection per request: a kept connection sticks to the pod it first met, so that pods which an autoscaler adds
would never see the load; and closing the connection is how a request is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import ssl
import urllib.parse
from collections.abc import Callable, Mapping

from trtbuild.errors import SpecError
from trtclient.errors import RequestFailure, classify
from trtclient.response import Head, ResponseParser, require_httptools

MAX_BODY_BYTES = 64 * 1024 * 1024
"""Of a response that is no stream: it is kept until it is whole."""
CONNECT_TIMEOUT_S = 20.0
RESOLVE_EVERY_S = 15.0
LINGER_S = 1.0


class _Exchange(asyncio.Protocol):
    """One request and its response on a connection of their own."""

    def __init__(
        self, message: bytes, on_body: Callable[[Head, float, bytes], None], open_exchanges: set[_Exchange]
    ) -> None:
        loop = asyncio.get_running_loop()
        self.done: asyncio.Future[Head] = loop.create_future()
        self._open = open_exchanges
        self._lingering: asyncio.TimerHandle | None = None
        self._now = loop.time
        self._message = message
        self._on_body = on_body
        self._parser = ResponseParser(self._body)
        self._at_s = 0.0
        self._body_bytes = 0
        self._transport: asyncio.Transport | None = None

    def abort(self) -> None:
        """Drop the connection now; the server takes that as a cancellation."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._open.add(self)
        transport.write(self._message)

    def data_received(self, data: bytes) -> None:
        self._at_s = self._now()
        try:
            self._parser.feed(data)
        except RequestFailure as failure:
            self._end(failure)
        except ValueError as error:  # a stream of events that is none
            self._end(RequestFailure("protocol", str(error)))
        else:
            if self._parser.is_complete:
                self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)
        if self._lingering is not None:
            self._lingering.cancel()
        if self._parser.feed_eof():
            self._end(None)
        else:
            why = f": {exc}" if exc else ""
            self._end(RequestFailure("disconnected", f"the connection closed before its response ended{why}"))

    def _body(self, body: bytes) -> None:
        head = self._parser.head
        assert head is not None
        self._body_bytes += len(body)
        if self._body_bytes > MAX_BODY_BYTES and not is_event_stream(head):
            raise RequestFailure("protocol", f"the response is over {MAX_BODY_BYTES} bytes")
        self._on_body(head, self._at_s, body)

    def _end(self, failure: RequestFailure | None) -> None:
        if not self.done.done():
            if failure:
                self.done.set_exception(failure)
            else:
                assert self._parser.head is not None
                self.done.set_result(self._parser.head)
                # The side that closes first keeps the port for a minute: let that be the server, which was asked to.
                self._lingering = asyncio.get_running_loop().call_later(LINGER_S, self.abort)
                return
        self.abort()


class HttpClient:
    """Sends requests to one base URL, in turn to every address its name stands for."""

    def __init__(self, url: str, *, headers: Mapping[str, str] | None = None, ca_file: str | None = None) -> None:
        """Check the URL and prepare TLS; nothing is sent.

        Raises:
            SpecError: The URL is not ``http://`` or ``https://`` with a host, or ``httptools`` is not installed.
        """
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise SpecError(
                f"expected an http:// or https:// URL, got {url!r}", hint="for example http://127.0.0.1:8000"
            )
        require_httptools()
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._path = parts.path.rstrip("/")
        self._tls = ssl.create_default_context(cafile=ca_file) if parts.scheme == "https" else None
        extra = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        self._fixed = f"Host: {parts.netloc.rpartition('@')[2]}\r\nConnection: close\r\n{extra}"
        self._addresses: list[str] = []
        self._resolved_s = 0.0
        self._open: set[_Exchange] = set()
        self._turn = itertools.count()

    async def request(
        self,
        path: str,
        on_body: Callable[[Head, float, bytes], None],
        *,
        body: bytes | None = None,
    ) -> Head:
        """Send ``GET`` or, with a ``body`` of JSON, ``POST``; hand over the response's body as it comes.

        ``on_body(head, at_s, data)`` gets the loop's time at which ``data`` arrived. Cancelling closes the connection.

        Raises:
            RequestFailure: No whole response came; or ``on_body`` raised it.
        """
        method = "GET" if body is None else "POST"
        typed = "" if body is None else f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        head = f"{method} {self._path}{path} HTTP/1.1\r\n{self._fixed}{typed}\r\n"
        exchange = _Exchange(head.encode("latin-1") + (body or b""), on_body, self._open)
        try:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await self._connect(exchange)
            except TimeoutError:
                message = f"{self._host}:{self._port} did not accept the connection in {CONNECT_TIMEOUT_S:g} s"
                raise RequestFailure("connect", message) from None
            return await exchange.done
        except BaseException:
            exchange.done.cancel()  # or an unread exception is reported when the connection drops
            exchange.abort()
            raise

    async def close(self) -> None:
        """Drop the connections that the server has not closed yet."""
        for exchange in tuple(self._open):
            exchange.abort()
        await asyncio.sleep(0)  # lets the transports close their sockets

    async def _connect(self, exchange: _Exchange) -> None:
        """Connect to the next address; to another one where nothing listens there (``localhost`` has two)."""
        loop = asyncio.get_running_loop()
        last: OSError | None = None
        for address in await self._next_addresses():
            try:
                await loop.create_connection(
                    lambda: exchange,
                    address,
                    self._port,
                    ssl=self._tls,
                    server_hostname=self._host if self._tls else None,
                )
            except OSError as error:
                last = error
                if len(self._addresses) > 1 and address in self._addresses:
                    self._addresses.remove(address)  # until the name is looked up again
            else:
                return
        assert last is not None
        raise RequestFailure("connect", f"{self._host}:{self._port}: {_reason(last)}") from last

    async def _next_addresses(self) -> list[str]:
        """Return the host's addresses, the next in turn first: a headless Service has one per pod, and they change."""
        loop = asyncio.get_running_loop()
        if not self._addresses or loop.time() - self._resolved_s > RESOLVE_EVERY_S:
            try:
                found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            except OSError as error:
                raise RequestFailure("connect", f"{self._host}: {_reason(error)}") from error
            self._resolved_s = loop.time()
            self._addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        first = next(self._turn) % len(self._addresses)
        return self._addresses[first:] + self._addresses[:first]


def is_event_stream(head: Head) -> bool:
    """Return whether a response is a stream of events, and no error."""
    return head.status == 200 and head.headers.get("content-type", "").startswith("text/event-stream")


def _reason(error: OSError) -> str:
    """Return the system's words for an error; asyncio's own name the address again."""
    return (os.strerror(error.errno) if error.errno and error.errno > 0 else "") or str(error) or type(error).__name__


def failure_of(head: Head, body: bytes) -> RequestFailure:
    """Return the failure for a response with an error status, in the server's words."""
    after = head.headers.get("retry-after", "")
    text = error_text(body) or "no explanation"
    return RequestFailure(
        classify(text, head.status),
        f"HTTP {head.status}: {text}",
        retry_after_s=float(after) if after.isdecimal() else None,
    )


def error_text(body: bytes) -> str:
    """Return what an error body says: Triton's ``{"error": "..."}``, also as an event, OpenAI's, or plain text."""
    text = body.decode("utf-8", "replace").strip()
    with contextlib.suppress(ValueError):
        values = json.loads(text.removeprefix("data:"))
        found = values.get("error") if isinstance(values, dict) else None
        if isinstance(found, dict):
            found = found.get("message")
        if found:
            return str(found)[:500]
    return text[:500]
