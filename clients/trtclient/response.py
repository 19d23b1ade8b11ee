"""One HTTP/1.1 response, read from its bytes as they come and bounded. It decides nothing about connections."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtbuild.errors import SpecError
from trtclient.errors import RequestFailure

if TYPE_CHECKING:
    from httptools import HttpResponseParser

MAX_HEAD_BYTES = 64 * 1024
START_BYTES = 80
HTTP1 = b"HTTP/1."

OnBody = Callable[[bytes], None]


@dataclass(frozen=True, kw_only=True)
class Head:
    """Status and headers of a response; header names in lower case."""

    status: int
    headers: Mapping[str, str]


class ResponseParser:
    """Turns the bytes of one response into its head and its body, as they come.

    ``httptools`` (llhttp) reads the protocol. What it does not bound is bounded here: bytes that bring no body (heads,
    interim responses, chunk extensions, trailers).
    """

    def __init__(self, on_body: OnBody) -> None:
        self.head: Head | None = None
        self.is_complete = False
        self._on_body = on_body
        self._parser: HttpResponseParser | None = _response_parser(self)
        self._start = b""  # of the response, to show where it is no HTTP
        self._headers: dict[str, str] = {}
        self._header_bytes = 0
        self._bodiless_bytes = 0
        self._parts: list[bytes] = []
        self._is_until_closed = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes; one call of ``on_body`` hands over all the body in them.

        Raises:
            RequestFailure: They are not HTTP/1.1, or go on and on without a body.
        """
        if self._parser is None:
            return
        if len(self._start) < START_BYTES:
            self._start += data[:START_BYTES]
        reason = "" if HTTP1.startswith(self._start[: len(HTTP1)]) else "another protocol"
        if not reason:
            reason = _feed(self._parser, data)
        if self.is_complete:  # what follows is of no interest: the connection ends here
            self._parser, reason = None, ""  # it holds this object, and this object it
        self._bodiless_bytes = 0 if self._parts else self._bodiless_bytes + len(data)
        if self._parts and self.head is not None:
            body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._parts.clear()
            self._on_body(body)
        if self._header_bytes > MAX_HEAD_BYTES or (self._bodiless_bytes > MAX_HEAD_BYTES and not self.is_complete):
            reason = f"over {MAX_HEAD_BYTES} bytes of headers"
        if reason:
            self._parser = None
            seen = "" if self.head else f", got {self._start[:START_BYTES]!r}"
            raise RequestFailure("protocol", f"expected an HTTP/1.1 response{seen}: {reason}")

    def feed_eof(self) -> bool:
        """Say that the connection was closed; return whether that completes the response."""
        if self._parser is not None and self.head is not None and self._is_until_closed:
            self.is_complete = True
        self._parser = None
        return self.is_complete

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header or a trailer (called by httptools, as the next three)."""
        if self.is_complete:
            return
        self._header_bytes += len(name) + len(value)
        if self.head is None and self._header_bytes <= MAX_HEAD_BYTES:
            self._headers[name.decode("latin-1").lower()] = value.decode("latin-1").strip()

    def on_headers_complete(self) -> None:
        """Make the head; that of an interim response, such as 100 Continue, is dropped: the real one follows."""
        headers, self._headers = self._headers, {}
        if self.head is not None or self._parser is None:
            return
        status = self._parser.get_status_code()
        if not 100 <= status < 200:
            self.head = Head(status=status, headers=headers)
            is_chunked = "chunked" in headers.get("transfer-encoding", "").lower()
            self._is_until_closed = not is_chunked and "content-length" not in headers

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body until all that came at once is read."""
        if not self.is_complete:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        """Note the end of the response; that of an interim one is not it."""
        self.is_complete = self.is_complete or self.head is not None


def _response_parser(protocol: ResponseParser) -> HttpResponseParser:
    import httptools

    return httptools.HttpResponseParser(protocol)


def _feed(parser: HttpResponseParser, data: bytes) -> str:
    """Let llhttp read ``data``; return why it cannot, or nothing."""
    import httptools

    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        return "it switches protocols"
    except httptools.HttpParserError as error:
        return str(error)
    return ""


def require_httptools() -> None:
    """Make sure that responses can be parsed.

    Raises:
        SpecError: ``httptools`` is not installed.
    """
    try:
        import httptools  # noqa: F401
    except ImportError as error:
        raise SpecError(f"HTTP needs httptools: {error}", hint="pip install 'trtbuild[clients]'") from error
