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

from trtbuild_front.faults import ProtocolError
from trtbuild_front.transport.frames import (
    ACK,
    CANCEL,
    CONTINUATION,
    DATA,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    FRAME,
    FRAME_SIZES,
    GOAWAY,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_FRAME_SIZE,
    MAX_WINDOW,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    HeaderBlock,
    pack_frame,
    pack_number,
    pack_settings,
    read_number,
    unpad,
)
from trtbuild_front.transport.hpack import literal, read_headers, read_status
from trtbuild_front.transport.stream import STATUS_CANCELLED, STATUS_UNAVAILABLE, Stream, StreamEvents

OUR_FRAME_SIZE = 1 << 20
_OUR_SETTINGS = (
    (HEADER_TABLE_SIZE, 0),
    (ENABLE_PUSH, 0),
    (INITIAL_WINDOW_SIZE, MAX_WINDOW),
    (MAX_FRAME_SIZE, OUR_FRAME_SIZE),
)
_READ_BYTES = 1 << 18
_MOST_HEADER_BYTES = 1 << 16
_MOST_HEADER_FRAMES = 32
_MOST_BUFFERED_BYTES = 1 << 28
"""Of messages that have not arrived whole, over all calls."""
_MOST_ACKNOWLEDGEMENTS = 4096
"""Answers to settings and pings that the peer has not read: one that asks without reading would fill the memory."""


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
        self._streams: dict[int, Stream] = {}
        self._blocked: collections.deque[int] = collections.deque()
        self._next_stream = 1
        self._input = bytearray()
        self._output = bytearray()
        self._header_block: HeaderBlock | None = None
        self._unread_acknowledgements = 0
        self._peer_window = 65535
        self._peer_stream_window = 65535
        self._peer_frame_size = 16384
        self._unacknowledged = 0
        self._failure = ""
        self.is_draining = False
        self._output += PREFACE
        self._output += pack_settings(*_OUR_SETTINGS)
        self._output += pack_number(WINDOW_UPDATE, 0, MAX_WINDOW - 65535)

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
        stream = Stream(events=events, window=self._peer_stream_window)
        stream.unsent = memoryview(struct.pack(">BI", 0, len(message)) + message)
        self._streams[number] = stream
        if self._next_stream > MAX_WINDOW - 2:
            self.is_draining = True  # no stream numbers are left
        self._output += pack_frame(HEADERS, END_HEADERS, number, block)
        self._send_body(number, stream)
        return number

    def cancel(self, number: int) -> None:
        """End a call from our side; its ``on_end`` is not called. Unknown streams are ignored."""
        if self._streams.pop(number, None) is not None and not self._failure:
            self._output += pack_number(RST_STREAM, number, CANCEL)

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
            stream.events.on_end(STATUS_UNAVAILABLE, reason)

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
            high, low, kind, flags, number = FRAME.unpack_from(view, at)
            size = high << 16 | low
            if size > OUR_FRAME_SIZE:
                raise ProtocolError(f"a frame of {size} bytes, expected at most {OUR_FRAME_SIZE}")
            if end - at - 9 < size:
                break
            self._on_frame(kind, flags, number & MAX_WINDOW, view[at + 9 : at + 9 + size])
            at += 9 + size
        return at

    def _on_frame(self, kind: int, flags: int, number: int, payload: memoryview) -> None:
        block = self._header_block
        if block is not None and (kind != CONTINUATION or number != block.stream):
            raise ProtocolError("another frame within a header block")
        if kind in {DATA, HEADERS, CONTINUATION, RST_STREAM} or (kind == WINDOW_UPDATE and number):
            if number % 2 == 0 or number >= self._next_stream:
                raise ProtocolError(f"a frame for stream {number}, which was never opened")
        elif kind in {SETTINGS, PING, GOAWAY} and number:
            raise ProtocolError(f"a frame of the connection on stream {number}")
        if kind == DATA:
            self._on_data(flags, number, payload)
        elif kind in {HEADERS, CONTINUATION}:
            self._on_headers(kind, flags, number, payload)
        elif kind == SETTINGS:
            self._on_settings(flags, payload)
        elif kind == PING:
            self._on_ping(flags, payload)
        elif kind == WINDOW_UPDATE:
            self._on_window(number, read_number(payload, "WINDOW_UPDATE") & MAX_WINDOW)
        elif kind == RST_STREAM:
            code = read_number(payload, "RST_STREAM")
            status = STATUS_CANCELLED if code == CANCEL else STATUS_UNAVAILABLE
            self._end(number, status, f"the server reset the stream (HTTP/2 error {code})")
        elif kind == GOAWAY:
            if len(payload) < 8:
                raise ProtocolError(f"a GOAWAY frame of {len(payload)} bytes, expected at least 8")
            self._on_goaway(int.from_bytes(payload[:4], "big") & MAX_WINDOW)
        elif kind == PUSH_PROMISE:
            raise ProtocolError("a pushed stream, which was refused")

    def _on_ping(self, flags: int, payload: memoryview) -> None:
        if len(payload) != 8:
            raise ProtocolError(f"a PING frame of {len(payload)} bytes, expected 8")
        if not flags & ACK:
            self._acknowledge(PING, payload)

    def _acknowledge(self, kind: int, payload: bytes | memoryview) -> None:
        self._unread_acknowledgements += 1
        if self._unread_acknowledgements > _MOST_ACKNOWLEDGEMENTS:
            raise ProtocolError("more questions than the server reads answers to")
        self._output += pack_frame(kind, ACK, 0, payload)

    def _on_goaway(self, last_stream: int) -> None:
        self.is_draining = True
        for number in [number for number in self._streams if number > last_stream]:
            self._end(number, STATUS_UNAVAILABLE, "the server is closing the connection")

    def _on_data(self, flags: int, number: int, payload: memoryview) -> None:
        self._unacknowledged += len(payload)
        if self._unacknowledged > MAX_WINDOW // 2:
            self._output += pack_number(WINDOW_UPDATE, 0, self._unacknowledged)
            self._unacknowledged = 0
        stream = self._streams.get(number)
        if stream is None:  # cancelled by us while the data was on its way
            return
        stream.take(unpad(flags, payload))
        if len(stream.received) > OUR_FRAME_SIZE and self._buffered() > _MOST_BUFFERED_BYTES:
            raise ProtocolError(f"more than {_MOST_BUFFERED_BYTES} bytes of unfinished messages")
        if flags & END_STREAM:
            self._end(number, stream.status, stream.detail)

    def _buffered(self) -> int:
        return sum(len(stream.received) for stream in self._streams.values())

    def _on_headers(self, kind: int, flags: int, number: int, payload: memoryview) -> None:
        block = self._header_block
        if kind == HEADERS:
            payload = unpad(flags, payload)
            if flags & PRIORITY:
                if len(payload) < 5:
                    raise ProtocolError("a HEADERS frame without its priority")
                payload = payload[5:]
            block = self._header_block = HeaderBlock(number, bool(flags & END_STREAM), bytearray(payload))
        elif block is not None:
            block.data += payload
            block.frames += 1
        else:
            raise ProtocolError("a CONTINUATION frame without a header block")
        if len(block.data) > _MOST_HEADER_BYTES or block.frames > _MOST_HEADER_FRAMES:
            raise ProtocolError(
                f"a header block of more than {_MOST_HEADER_BYTES} bytes or {_MOST_HEADER_FRAMES} frames"
            )
        if not flags & END_HEADERS:
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
            self._output += pack_number(RST_STREAM, number, CANCEL)
        stream.events.on_end(status, detail)

    def _on_settings(self, flags: int, payload: memoryview) -> None:
        if len(payload) % 6 or (flags & ACK and payload):
            raise ProtocolError(f"a SETTINGS frame of {len(payload)} bytes")
        if flags & ACK:
            return
        for name, value in struct.iter_unpack(">HI", payload):
            if name == INITIAL_WINDOW_SIZE:
                if value > MAX_WINDOW:
                    raise ProtocolError(f"an initial window of {value} bytes")
                for stream in self._streams.values():
                    stream.window = self._widened(stream.window, value - self._peer_stream_window)
                self._peer_stream_window = value
            elif name == MAX_FRAME_SIZE:
                if value not in FRAME_SIZES:
                    raise ProtocolError(f"a maximum frame size of {value} bytes")
                self._peer_frame_size = value
        self._acknowledge(SETTINGS, b"")
        self._unblock()

    @staticmethod
    def _widened(window: int, increment: int) -> int:
        if window + increment > MAX_WINDOW:
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

    def _send_body(self, number: int, stream: Stream) -> None:
        while stream.unsent:
            size = min(len(stream.unsent), stream.window, self._peer_window, self._peer_frame_size)
            if size <= 0:
                self._blocked.append(number)
                return
            part, stream.unsent = stream.unsent[:size], stream.unsent[size:]
            stream.window -= size
            self._peer_window -= size
            self._output += pack_frame(DATA, 0 if stream.unsent else END_STREAM, number, part)
