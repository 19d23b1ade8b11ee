"""A small HTTP/2 client for gRPC calls to the server this model runs in: one connection, one thread, many streams.

It decides framing, flow control and cancellation. It does not know what a message means.

Why not BLS or grpcio: see ``docs/front-model.md``. In short, BLS of Triton 2.51 cannot cancel and makes the engine's
own thread wait for this process at every token, and grpcio wakes a thread per message; here everything that has
arrived is read in one system call, so the cost per token falls as the load grows.

Source: RFC 9113 (frames, flow control), RFC 7541 (header compression), gRPC over HTTP2 (message prefix, trailers).
"""

from __future__ import annotations

import collections
import contextlib
import select
import socket
import struct
from dataclasses import dataclass, field
from typing import Protocol

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_ACK, _END_STREAM, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE = 1, 2, 4, 5
_CANCEL = 8
_MAX_WINDOW = 2**31 - 1
_OUR_FRAME_SIZE = 1 << 20
_OUR_SETTINGS = (
    (_HEADER_TABLE_SIZE, 0),
    (_ENABLE_PUSH, 0),
    (_INITIAL_WINDOW_SIZE, _MAX_WINDOW),
    (_MAX_FRAME_SIZE, _OUR_FRAME_SIZE),
)
_READ_BYTES = 1 << 18
_FRAME = struct.Struct(">BHBBI")
_STATUS_CANCELLED, _STATUS_UNKNOWN, _STATUS_UNAVAILABLE = 1, 2, 14


class StreamEvents(Protocol):
    """What the owner of a stream is told, always in the connection's thread."""

    def on_message(self, message: bytes) -> None:
        """One whole gRPC message arrived."""

    def on_end(self, status: int, detail: str) -> None:
        """The call is over; nothing follows. ``status`` is the gRPC status (0: OK)."""


@dataclass(slots=True)
class _Stream:
    events: StreamEvents
    window: int
    received: bytearray = field(default_factory=bytearray)
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))
    status: int = _STATUS_UNKNOWN
    detail: str = "the stream ended without a status"


def _frame(kind: int, flags: int, stream: int, payload: bytes | memoryview) -> bytes:
    size = len(payload)
    return _FRAME.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + bytes(payload)


def _integer(data: memoryview, at: int, bits: int) -> tuple[int, int]:
    """Return a header-compression integer and the position after it."""
    top = (1 << bits) - 1
    value = data[at] & top
    at += 1
    if value < top:
        return value, at
    shift = 0
    while True:
        octet = data[at]
        at += 1
        value += (octet & 0x7F) << shift
        shift += 7
        if not octet & 0x80:
            return value, at


def _string(data: memoryview, at: int) -> tuple[str, int]:
    """Return a header string; a Huffman-coded one as an empty text (nothing we need is ever coded)."""
    is_coded = data[at] & 0x80
    size, at = _integer(data, at, 7)
    return "" if is_coded else bytes(data[at : at + size]).decode("latin-1"), at + size


def read_headers(data: memoryview) -> dict[str, str]:
    """Return the literal headers of a block sent by a peer that was told to use no dynamic table."""
    headers: dict[str, str] = {}
    at = 0
    while at < len(data):
        first = data[at]
        if first & 0x80:  # indexed: only :status 200 and its like can be
            _, at = _integer(data, at, 7)
        elif first & 0xE0 == 0x20:  # a new table size
            _, at = _integer(data, at, 5)
        else:
            index, at = _integer(data, at, 6 if first & 0x40 else 4)
            name = ""
            if index == 0:
                name, at = _string(data, at)
            value, at = _string(data, at)
            headers[name] = value
    return headers


def _literal(name: str, value: str) -> bytes:
    out = b"\x00"
    for text in (name, value):
        raw = text.encode("latin-1")
        if len(raw) >= 127:
            raise ValueError(f"header too long: {name}")
        out += bytes((len(raw),)) + raw
    return out


class Connection:
    """One HTTP/2 connection. Every method belongs to one thread, except :meth:`wake`."""

    def __init__(self, host: str, port: int, *, timeout_s: float = 5.0) -> None:
        self._authority = f"{host}:{port}"
        self._socket = socket.create_connection((host, port), timeout=timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_out.setblocking(False)
        self._wake_in.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._poll.register(self._wake_out, select.POLLIN)
        self._polls_output = False
        self._streams: dict[int, _Stream] = {}
        self._blocked: collections.deque[int] = collections.deque()
        self._next_stream = 1
        self._input = bytearray()
        self._output = bytearray()
        self._header_block: tuple[int, int, bytearray] | None = None
        self._peer_window = 65535
        self._peer_stream_window = 65535
        self._peer_frame_size = 16384
        self._unacknowledged = 0
        self._failure = ""
        self.is_draining = False
        self._output += _PREFACE
        self._output += _frame(_SETTINGS, 0, 0, b"".join(struct.pack(">HI", *setting) for setting in _OUR_SETTINGS))
        self._output += _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _MAX_WINDOW - 65535))

    @property
    def has_calls(self) -> bool:
        """Whether calls are open."""
        return bool(self._streams)

    @property
    def failure(self) -> str:
        """Why the connection is of no use any more; empty while it is."""
        return self._failure

    def wake(self) -> None:
        """Make :meth:`step` return soon. Thread-safe."""
        with contextlib.suppress(BlockingIOError, OSError):
            self._wake_in.send(b"\0")

    def call(self, path: str, message: bytes, events: StreamEvents) -> int:
        """Start a call with one request message and return its stream; the answers go to ``events``.

        Raises:
            ConnectionError: The connection has failed.
        """
        if self._failure:
            raise ConnectionError(self._failure)
        number = self._next_stream
        self._next_stream += 2
        block = b"\x83\x86" + _literal(":path", path) + _literal(":authority", self._authority)
        block += _literal("te", "trailers") + _literal("content-type", "application/grpc")
        stream = _Stream(events=events, window=self._peer_stream_window)
        stream.unsent = memoryview(struct.pack(">BI", 0, len(message)) + message)
        self._streams[number] = stream
        self._output += _frame(_HEADERS, _END_HEADERS, number, block)
        self._send_body(number, stream)
        return number

    def cancel(self, number: int) -> None:
        """End a call from our side; its ``on_end`` is not called. Unknown streams are ignored."""
        if self._streams.pop(number, None) is not None and not self._failure:
            self._output += _frame(_RST_STREAM, 0, number, struct.pack(">I", _CANCEL))

    def step(self, timeout_s: float) -> None:
        """Send what is due, wait up to ``timeout_s`` for something to arrive, and hand out all of it."""
        self._flush()
        wants_output = bool(self._output)
        if wants_output != self._polls_output and not self._failure:
            self._poll.modify(self._socket, select.POLLIN | (select.POLLOUT if wants_output else 0))
            self._polls_output = wants_output
        for descriptor, _ in self._poll.poll(timeout_s * 1000):
            if descriptor == self._wake_out.fileno():
                with contextlib.suppress(BlockingIOError):
                    self._wake_out.recv(4096)
            else:
                self._receive()
        self._flush()

    def close(self) -> None:
        """Close the sockets and end every open call."""
        self._fail("the connection was closed")
        self._wake_in.close()
        self._wake_out.close()

    def _fail(self, reason: str) -> None:
        if self._failure:
            return
        self._failure = reason
        with contextlib.suppress(KeyError, ValueError, OSError):
            self._poll.unregister(self._socket)
        self._socket.close()
        self._output.clear()
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.events.on_end(_STATUS_UNAVAILABLE, reason)

    def _flush(self) -> None:
        if self._failure or not self._output:
            return
        try:
            sent = self._socket.send(self._output)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(f"could not send to the server's gRPC endpoint: {error}")
            return
        del self._output[:sent]

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(f"could not read from the server's gRPC endpoint: {error}")
            return
        if not data:
            self._fail("the server closed its gRPC connection")
            return
        buffer = self._input + data if self._input else data
        end = len(buffer)
        at = 0
        with memoryview(buffer) as view:
            while end - at >= 9:
                high, low, kind, flags, number = _FRAME.unpack_from(view, at)
                size = high << 16 | low
                if end - at - 9 < size:
                    break
                self._on_frame(kind, flags, number & _MAX_WINDOW, view[at + 9 : at + 9 + size])
                at += 9 + size
                if self._failure:
                    return
            self._input = bytearray(view[at:])

    def _on_frame(self, kind: int, flags: int, number: int, payload: memoryview) -> None:
        if kind == _DATA:
            self._on_data(flags, number, payload)
        elif kind in {_HEADERS, _CONTINUATION}:
            self._on_headers(kind, flags, number, payload)
        elif kind == _SETTINGS and not flags & _ACK:
            self._on_settings(payload)
        elif kind == _PING and not flags & _ACK:
            self._output += _frame(_PING, _ACK, 0, payload)
        elif kind == _WINDOW_UPDATE:
            self._on_window(number, struct.unpack(">I", payload)[0] & _MAX_WINDOW)
        elif kind == _RST_STREAM:
            code = struct.unpack(">I", payload)[0]
            status = _STATUS_CANCELLED if code == _CANCEL else _STATUS_UNAVAILABLE
            self._end(number, status, f"the server reset the stream (HTTP/2 error {code})")
        elif kind == _GOAWAY:
            self._on_goaway(struct.unpack_from(">I", payload)[0] & _MAX_WINDOW)

    def _on_goaway(self, last_stream: int) -> None:
        self.is_draining = True
        for number in [number for number in self._streams if number > last_stream]:
            self._end(number, _STATUS_UNAVAILABLE, "the server is closing the connection")

    def _on_data(self, flags: int, number: int, payload: memoryview) -> None:
        self._unacknowledged += len(payload)
        if self._unacknowledged > _MAX_WINDOW // 2:
            self._output += _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", self._unacknowledged))
            self._unacknowledged = 0
        stream = self._streams.get(number)
        if stream is None:  # cancelled by us while the data was on its way
            return
        if flags & _PADDED:
            payload = payload[1 : len(payload) - payload[0]]
        received = stream.received
        if not received and len(payload) >= 5 and len(payload) - 5 == int.from_bytes(payload[1:5], "big"):
            stream.events.on_message(bytes(payload[5:]))  # one frame, one message: the usual case
            payload = payload[:0]
        received += payload
        at = 0
        while len(received) - at >= 5:
            size = int.from_bytes(received[at + 1 : at + 5], "big")
            if len(received) - at - 5 < size:
                break
            message = bytes(received[at + 5 : at + 5 + size])
            at += 5 + size
            stream.events.on_message(message)
        del received[:at]
        if flags & _END_STREAM:
            self._end(number, stream.status, stream.detail)

    def _on_headers(self, kind: int, flags: int, number: int, payload: memoryview) -> None:
        if kind == _HEADERS:
            if flags & _PADDED:
                payload = payload[1 : len(payload) - payload[0]]
            if flags & _PRIORITY:
                payload = payload[5:]
            self._header_block = (number, flags, bytearray(payload))
        elif self._header_block is not None:
            self._header_block[2].extend(payload)
        if not flags & _END_HEADERS or self._header_block is None:
            return
        number, first_flags, block = self._header_block
        self._header_block = None
        stream = self._streams.get(number)
        if stream is None:
            return
        headers = read_headers(memoryview(block))
        if "grpc-status" in headers:
            stream.status = int(headers["grpc-status"] or _STATUS_UNKNOWN)
            stream.detail = headers.get("grpc-message", "")
        if first_flags & _END_STREAM:
            self._end(number, stream.status, stream.detail)

    def _end(self, number: int, status: int, detail: str) -> None:
        stream = self._streams.pop(number, None)
        if stream is None:
            return
        if stream.unsent:  # the server answered before it had read the whole request
            self._output += _frame(_RST_STREAM, 0, number, struct.pack(">I", _CANCEL))
        stream.events.on_end(status, detail)

    def _on_settings(self, payload: memoryview) -> None:
        for name, value in struct.iter_unpack(">HI", payload):
            if name == _INITIAL_WINDOW_SIZE:
                for stream in self._streams.values():
                    stream.window += value - self._peer_stream_window
                self._peer_stream_window = value
            elif name == _MAX_FRAME_SIZE:
                self._peer_frame_size = value
        self._output += _frame(_SETTINGS, _ACK, 0, b"")
        self._unblock()

    def _on_window(self, number: int, increment: int) -> None:
        if number == 0:
            self._peer_window += increment
        elif (stream := self._streams.get(number)) is not None:
            stream.window += increment
        self._unblock()

    def _unblock(self) -> None:
        waiting, self._blocked = self._blocked, collections.deque()
        for number in waiting:
            if (stream := self._streams.get(number)) is not None:
                self._send_body(number, stream)

    def _send_body(self, number: int, stream: _Stream) -> None:
        while stream.unsent:
            size = min(len(stream.unsent), stream.window, self._peer_window, self._peer_frame_size)
            if size <= 0:
                self._blocked.append(number)
                return
            part, stream.unsent = stream.unsent[:size], stream.unsent[size:]
            stream.window -= size
            self._peer_window -= size
            self._output += _frame(_DATA, 0 if stream.unsent else _END_STREAM, number, part)
