"""Bytes of a connection to requests: where a head ends, what it says, and where its body ends. No input or output.

httptools (llhttp, in its strict mode) reads each head. Bodies are counted here: the library hides chunk extensions, and
takes the body of a request that offers an upgrade for something else. What two readers could understand differently
is refused, since a proxy in front of this server may be the other reader.

Source: RFC 9112, sections 2.2, 3.2, 5.1, 6.1-6.3, 7.1, 11.2.
"""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass
from typing import Any

from trtbuild_http.errors import ApiError
from trtbuild_http.limits import Limits
from trtbuild_http.optional import httptools

_HEAD_END = b"\r\n\r\n"
_LONGEST_SIZE_LINE = 10
_MOST_CHUNKS = 1 << 16
"""Of one body; each costs time, however small it is."""
_LENGTH = re.compile(r"0|[1-9][0-9]{0,14}")
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,8}")
_CHUNK_SIZE_BEGUN = re.compile(rb"|[0-9A-Fa-f]{1,8}\r?")
_ABSOLUTE = re.compile(r"https?://[^/?#@]+(?=[/?]|$)", re.IGNORECASE)
_ONLY_ONCE = frozenset({"host", "content-length", "transfer-encoding", "content-type", "authorization", "expect"})


@dataclass(frozen=True)
class Head:
    """What the head of a request says.

    Attributes:
        method: In capitals.
        path: Decoded, without the query.
        query: As sent, without the question mark.
        headers: By lower-case name.
        is_http10: Whether the client speaks HTTP/1.0 and understands no chunks.
        keeps_alive: Whether it wants to use the connection again.
        length: Bytes of the body, None when it comes in chunks.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    is_http10: bool
    keeps_alive: bool
    length: int | None

    @property
    def has_body(self) -> bool:
        """Whether bytes follow the head."""
        return self.length != 0

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for permission to send its body."""
        return not self.is_http10 and "expect" in self.headers


class _HeadEvents:
    """Collects what httptools calls back with."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.is_complete = False

    def on_url(self, part: bytes) -> None:
        self.url += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.is_complete = True


class RequestReader:
    """Reads the requests of one connection, one after the other: a :class:`Head`, then the bytes of its body.

    The answers do not depend on how the bytes are cut into pieces. After an error the reader is of no use.
    """

    __slots__ = ("_body", "_chunk_size", "_chunks", "_events", "_fed", "_head", "_input", "_limits", "_parser")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._input = bytearray()
        self._body = bytearray()
        self._head: Head | None = None
        self._parser: Any = None
        self._events: _HeadEvents | None = None
        self._fed = 0
        self._chunks = 0
        self._chunk_size = -1  # none has been read

    @property
    def held_bytes(self) -> int:
        """Bytes that were fed and not yet returned."""
        return len(self._input) + len(self._body)

    def feed(self, data: bytes) -> None:
        """Take what has arrived."""
        self._input += data

    def next_event(self) -> Head | bytes | None:
        """Return the next head, the body that belongs to the last one, or None until more has arrived.

        Raises:
            ApiError: The client's bytes are wrong or too many; the connection is of no use any more.
        """
        if self._head is None:
            self._head = self._read_head()
            return self._head
        length = self._head.length
        body = self._read_chunks() if length is None else self._read_counted(length)
        if body is not None:
            self._head = None
        return body

    def _read_head(self) -> Head | None:
        data, most = self._input, self._limits.max_header_bytes
        if self._events is None:
            if not self._begins():
                return None
            self._events = _HeadEvents()
            self._parser = httptools.HttpRequestParser(self._events)
        end = data.find(_HEAD_END, max(0, self._fed - 3))
        upto = len(data) if end < 0 else end + len(_HEAD_END)
        self._parse(bytes(data[self._fed : min(upto, most)]))
        self._fed = upto
        if upto > most:
            raise ApiError(431, f"the request's headers are longer than {most} bytes")
        if end < 0:
            return None
        if not self._events.is_complete:
            raise ApiError(400, "the request's head is malformed")
        head = _head_of(self._parser, self._events, self._limits)
        del data[:upto]
        self._parser = self._events = None
        self._fed = 0
        return head

    def _begins(self) -> bool:
        """Skip the empty lines that some clients send; return whether a request begins."""
        data = self._input
        while data.startswith(b"\r\n"):
            del data[:2]
        if not data or data == b"\r":
            return False
        if not 0x41 <= data[0] <= 0x5A:
            raise ApiError(400, "this is no HTTP request: it must begin with a method in capital letters")
        return True

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # nothing is upgraded: the request is answered as if it had not asked
        except httptools.HttpParserError as error:
            raise ApiError(400, f"the request is malformed: {error}") from None

    def _read_counted(self, length: int) -> bytes | None:
        if len(self._input) < length:
            return None
        body = bytes(self._input[:length])
        del self._input[:length]
        return body

    def _read_chunks(self) -> bytes | None:
        data = self._input
        while True:
            if self._chunk_size < 0 and not self._read_chunk_size():
                return None
            size = self._chunk_size
            line_end = bytes(data[size : size + 2])
            if not b"\r\n".startswith(line_end):
                raise ApiError(400, "a chunk of the body must end with CRLF, and no trailers may follow the last one")
            if len(line_end) < 2:
                return None
            self._body += data[:size]
            del data[: size + 2]
            self._chunk_size = -1
            if not size:
                body = bytes(self._body)
                self._body = bytearray()
                self._chunks = 0
                return body

    def _read_chunk_size(self) -> bool:
        data = self._input
        end = data.find(b"\r\n", 0, _LONGEST_SIZE_LINE)
        line = bytes(data[: end if end >= 0 else _LONGEST_SIZE_LINE])
        if not (_CHUNK_SIZE if end >= 0 else _CHUNK_SIZE_BEGUN).fullmatch(line):
            raise ApiError(400, "a chunk's size must be 1 to 8 hexadecimal digits and CRLF; extensions are not taken")
        if end < 0:
            return False
        size = int(line, 16)
        self._chunks += 1
        most = self._limits.max_body_bytes
        if len(self._body) + size > most or self._chunks > _MOST_CHUNKS:
            raise body_too_large(most)
        del data[: end + 2]
        self._chunk_size = size
        return True


def body_too_large(most: int) -> ApiError:
    """Return the refusal of a body that is longer than ``most`` bytes."""
    return ApiError(413, f"the request's body is too large: at most {most} bytes (and {_MOST_CHUNKS} chunks) are taken")


def _head_of(parser: Any, events: _HeadEvents, limits: Limits) -> Head:
    """Return what the parser has read, or refuse what it lets pass and this server does not."""
    version = parser.get_http_version()
    if version not in {"1.0", "1.1"}:
        raise ApiError(505, f"HTTP/{version} is not spoken here; use HTTP/1.1")
    headers = _headers_of(events.headers, limits.max_headers)
    is_http10 = version == "1.0"
    if "host" not in headers and not is_http10:
        raise ApiError(400, "the request has no Host header")
    if headers.get("expect", "100-continue").lower() != "100-continue":
        raise ApiError(417, "the only expectation that is met is 100-continue")
    wishes = {token.strip(" \t") for token in headers.get("connection", "").lower().split(",")}
    method = parser.get_method().decode("latin-1")
    path, query = _split_target(method, events.url)
    return Head(
        method=method,
        path=path,
        query=query,
        headers=headers,
        is_http10=is_http10,
        keeps_alive="close" not in wishes and (not is_http10 or "keep-alive" in wishes),
        length=_length_of(headers, is_http10),
    )


def _headers_of(pairs: list[tuple[bytes, bytes]], most: int) -> dict[str, str]:
    if len(pairs) > most:
        raise ApiError(431, f"the request has {len(pairs)} headers, expected at most {most}")
    headers: dict[str, str] = {}
    for raw_name, raw_value in pairs:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        if name not in headers:
            headers[name] = value if name == "content-length" else value.strip(" \t")
        elif name in _ONLY_ONCE:
            raise ApiError(400, f"the request has more than one {name} header")
        else:
            headers[name] += ", " + value.strip(" \t")
    return headers


def _length_of(headers: dict[str, str], is_http10: bool) -> int | None:
    """Return how long the body is, None for one in chunks."""
    encoding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if encoding is not None:
        if length is not None or is_http10 or encoding.lower() != "chunked":
            raise ApiError(400, "the request's Transfer-Encoding must be chunked, alone, and in HTTP/1.1")
        return None
    if length is None:
        return 0
    if not _LENGTH.fullmatch(length):
        raise ApiError(400, "the request's Content-Length must be decimal digits without sign, space or leading zeros")
    return int(length)


def _split_target(method: str, url: bytes) -> tuple[str, str]:
    """Return path and query of a request target: ``/path?query``, ``http://host/path?query``, or ``*`` for OPTIONS."""
    target = url.decode("latin-1")
    if method == "CONNECT":
        raise ApiError(405, "this server is no proxy", headers={"allow": "GET, HEAD, POST, OPTIONS"})
    if target == "*" and method == "OPTIONS":
        return "*", ""
    if match := _ABSOLUTE.match(target):
        target = target[match.end() :]
        if not target.startswith("/"):
            target = "/" + target
    path, _, query = target.partition("?")
    if not path.startswith("/") or "#" in target:
        raise ApiError(400, "the request's target must be a path, or a URL without a fragment")
    if "%" in path:
        try:
            path = urllib.parse.unquote(path, errors="strict")
        except UnicodeDecodeError:
            raise ApiError(400, "the request's path is not UTF-8") from None
    return path, query
