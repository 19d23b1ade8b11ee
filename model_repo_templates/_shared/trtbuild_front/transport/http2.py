"""A small HTTP/2 client for gRPC calls to the server this model runs in: one connection, one thread, many streams.

It decides framing, flow control and cancellation. It does not know what a message means. A peer that breaks the
protocol, in whatever way, loses the connection: every open call ends with UNAVAILABLE, and nothing is raised.

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

from trtbuild_front.faults import ProtocolError
from trtbuild_front.transport.hpack import literal, read_headers, read_status

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PUSH_PROMISE, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = (
    0, 1, 3, 4, 5, 6, 7, 8, 9,
)  # fmt: skip
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
_FRAME_SIZES = range(1 << 14, 1 << 24)
_READ_BYTES = 1 << 18
_MOST_HEADER_BYTES = 1 << 16
_MOST_HEADER_FRAMES = 32
_MOST_MESSAGE_BYTES = 1 << 26
_MOST_BUFFERED_BYTES = 1 << 28
"""Of messages that have not arrived whole, over all calls."""
_MOST_ACKNOWLEDGEMENTS = 4096
"""Answers to settings and pings that the peer has not read: one that asks without reading would fill the memory."""
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


@dataclass(slots=True)
class _HeaderBlock:
    stream: int
    ends_stream: bool
    data: bytearray
    frames: int = 1


def _number(payload: memoryview, kind: str) -> int:
    """Return the one number that is the payload of some frames."""
    if len(payload) != 4:
        raise ProtocolError(f"a {kind} frame of {len(payload)} bytes, expected 4")
    return int.from_bytes(payload, "big")


def _unpad(flags: int, payload: memoryview) -> memoryview:
    if not flags & _PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ProtocolError("a frame whose padding is longer than the frame")
    return payload[1 : len(payload) - payload[0]]


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
        self._header_block: _HeaderBlock | None = None
        self._unread_acknowledgements = 0
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
        block = b"\x83\x86" + literal(":path", path) + literal(":authority", self._authority)
        block += literal("te", "trailers") + literal("content-type", "application/grpc")
        stream = _Stream(events=events, window=self._peer_stream_window)
        stream.unsent = memoryview(struct.pack(">BI", 0, len(message)) + message)
        self._streams[number] = stream
        if self._next_stream > _MAX_WINDOW - 2:
            self.is_draining = True  # no stream numbers are left
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
        if not self._output:
            self._unread_acknowledgements = 0

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
        try:
            with memoryview(buffer) as view:
                self._input = bytearray(view[self._on_bytes(view) :])
        except ProtocolError as error:
            self._fail(f"the server's gRPC endpoint broke the HTTP/2 protocol: {error}")

    def _on_bytes(self, view: memoryview) -> int:
        """Handle every whole frame; return how many bytes they are."""
        at, end = 0, len(view)
        while end - at >= 9 and not self._failure:
            high, low, kind, flags, number = _FRAME.unpack_from(view, at)
            size = high << 16 | low
            if size > _OUR_FRAME_SIZE:
                raise ProtocolError(f"a frame of {size} bytes, expected at most {_OUR_FRAME_SIZE}")
            if end - at - 9 < size:
                break
            self._on_frame(kind, flags, number & _MAX_WINDOW, view[at + 9 : at + 9 + size])
            at += 9 + size
        return at

    def _on_frame(self, kind: int, flags: int, number: int, payload: memoryview) -> None:
        block = self._header_block
        if block is not None and (kind != _CONTINUATION or number != block.stream):
            raise ProtocolError("another frame within a header block")
        if kind in {_DATA, _HEADERS, _CONTINUATION, _RST_STREAM} or (kind == _WINDOW_UPDATE and number):
            if number % 2 == 0 or number >= self._next_stream:
                raise ProtocolError(f"a frame for stream {number}, which was never opened")
        elif kind in {_SETTINGS, _PING, _GOAWAY} and number:
            raise ProtocolError(f"a frame of the connection on stream {number}")
        if kind == _DATA:
            self._on_data(flags, number, payload)
        elif kind in {_HEADERS, _CONTINUATION}:
            self._on_headers(kind, flags, number, payload)
        elif kind == _SETTINGS:
            self._on_settings(flags, payload)
        elif kind == _PING:
            self._on_ping(flags, payload)
        elif kind == _WINDOW_UPDATE:
            self._on_window(number, _number(payload, "WINDOW_UPDATE") & _MAX_WINDOW)
        elif kind == _RST_STREAM:
            code = _number(payload, "RST_STREAM")
            status = _STATUS_CANCELLED if code == _CANCEL else _STATUS_UNAVAILABLE
            self._end(number, status, f"the server reset the stream (HTTP/2 error {code})")
        elif kind == _GOAWAY:
            if len(payload) < 8:
                raise ProtocolError(f"a GOAWAY frame of {len(payload)} bytes, expected at least 8")
            self._on_goaway(int.from_bytes(payload[:4], "big") & _MAX_WINDOW)
        elif kind == _PUSH_PROMISE:
            raise ProtocolError("a pushed stream, which was refused")

    def _on_ping(self, flags: int, payload: memoryview) -> None:
        if len(payload) != 8:
            raise ProtocolError(f"a PING frame of {len(payload)} bytes, expected 8")
        if not flags & _ACK:
            self._acknowledge(_PING, payload)

    def _acknowledge(self, kind: int, payload: bytes | memoryview) -> None:
        self._unread_acknowledgements += 1
        if self._unread_acknowledgements > _MOST_ACKNOWLEDGEMENTS:
            raise ProtocolError("more questions than the server reads answers to")
        self._output += _frame(kind, _ACK, 0, payload)

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
        self._on_body(stream, _unpad(flags, payload))
        if flags & _END_STREAM:
            self._end(number, stream.status, stream.detail)

    def _on_body(self, stream: _Stream, payload: memoryview) -> None:
        """Hand out the whole messages that have arrived and keep the rest."""
        received = stream.received
        is_one = not received and len(payload) >= 5 and len(payload) - 5 == int.from_bytes(payload[1:5], "big")
        if is_one and not payload[0]:  # one frame, one message: the usual case
            stream.events.on_message(bytes(payload[5:]))
            return
        received += payload
        at = 0
        while len(received) - at >= 5:
            size = int.from_bytes(received[at + 1 : at + 5], "big")
            if received[at] or size > _MOST_MESSAGE_BYTES:
                raise ProtocolError(
                    f"a message of {size} bytes with flags {received[at]}, expected 0 flags and <= 64 MiB"
                )
            if len(received) - at - 5 < size:
                break
            message = bytes(received[at + 5 : at + 5 + size])
            at += 5 + size
            stream.events.on_message(message)
        del received[:at]
        if len(received) > _OUR_FRAME_SIZE and self._buffered() > _MOST_BUFFERED_BYTES:
            raise ProtocolError(f"more than {_MOST_BUFFERED_BYTES} bytes of unfinished messages")

    def _buffered(self) -> int:
        return sum(len(stream.received) for stream in self._streams.values())

    def _on_headers(self, kind: int, flags: int, number: int, payload: memoryview) -> None:
        block = self._header_block
        if kind == _HEADERS:
            payload = _unpad(flags, payload)
            if flags & _PRIORITY:
                if len(payload) < 5:
                    raise ProtocolError("a HEADERS frame without its priority")
                payload = payload[5:]
            block = self._header_block = _HeaderBlock(number, bool(flags & _END_STREAM), bytearray(payload))
        elif block is not None:
            block.data += payload
            block.frames += 1
        else:
            raise ProtocolError("a CONTINUATION frame without a header block")
        if len(block.data) > _MOST_HEADER_BYTES or block.frames > _MOST_HEADER_FRAMES:
            raise ProtocolError(
                f"a header block of more than {_MOST_HEADER_BYTES} bytes or {_MOST_HEADER_FRAMES} frames"
            )
        if not flags & _END_HEADERS:
            return
        self._header_block = None
        headers = read_headers(block.data)
        stream = self._streams.get(number)
        if stream is None:
            return
        stream.status, stream.detail = read_status(headers) or (stream.status, stream.detail)
        if block.ends_stream:
            self._end(number, stream.status, stream.detail)

    def _end(self, number: int, status: int, detail: str) -> None:
        stream = self._streams.pop(number, None)
        if stream is None:
            return
        if stream.unsent:  # the server answered before it had read the whole request
            self._output += _frame(_RST_STREAM, 0, number, struct.pack(">I", _CANCEL))
        stream.events.on_end(status, detail)

    def _on_settings(self, flags: int, payload: memoryview) -> None:
        if len(payload) % 6 or (flags & _ACK and payload):
            raise ProtocolError(f"a SETTINGS frame of {len(payload)} bytes")
        if flags & _ACK:
            return
        for name, value in struct.iter_unpack(">HI", payload):
            if name == _INITIAL_WINDOW_SIZE:
                if value > _MAX_WINDOW:
                    raise ProtocolError(f"an initial window of {value} bytes")
                for stream in self._streams.values():
                    stream.window = self._widened(stream.window, value - self._peer_stream_window)
                self._peer_stream_window = value
            elif name == _MAX_FRAME_SIZE:
                if value not in _FRAME_SIZES:
                    raise ProtocolError(f"a maximum frame size of {value} bytes")
                self._peer_frame_size = value
        self._acknowledge(_SETTINGS, b"")
        self._unblock()

    @staticmethod
    def _widened(window: int, increment: int) -> int:
        if window + increment > _MAX_WINDOW:
            raise ProtocolError("a window that grew past its limit")
        return window + increment

    def _on_window(self, number: int, increment: int) -> None:
        if not increment:
            raise ProtocolError("a WINDOW_UPDATE frame of 0 bytes more")
        if number == 0:
            self._peer_window = self._widened(self._peer_window, increment)
        elif (stream := self._streams.get(number)) is not None:
            stream.window = self._widened(stream.window, increment)
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
