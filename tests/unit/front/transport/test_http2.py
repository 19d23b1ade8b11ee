"""The HTTP/2 client against a server that is played frame by frame."""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trtbuild_front.transport.connection import Connection
from trtbuild_front.transport.hpack import read_headers

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def message(payload: bytes) -> bytes:
    return struct.pack(">BI", 0, len(payload)) + payload


def literal(name: str, value: str) -> bytes:
    return b"\x00" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()


TRAILERS = literal("grpc-status", "0")


class Events:
    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.end: tuple[int, str] | None = None

    def on_message(self, payload: bytes) -> None:
        assert self.end is None
        self.messages.append(payload)

    def on_end(self, status: int, detail: str) -> None:
        assert self.end is None
        self.end = (status, detail)


class Peer:
    """The server's side of one connection."""

    def __init__(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.connection = Connection("127.0.0.1", listener.getsockname()[1])
        self.socket, _ = listener.accept()
        listener.close()
        self.socket.settimeout(10)
        self._read = b""
        self.connection.step(0)
        assert self._take(len(PREFACE)) == PREFACE

    def _take(self, size: int) -> bytes:
        while len(self._read) < size:
            self.connection.step(0)
            self._read += self.socket.recv(65536)
        taken, self._read = self._read[:size], self._read[size:]
        return taken

    def frames(self, kind: int, count: int = 1) -> list[tuple[int, int, bytes]]:
        """Read until ``count`` frames of a kind came; return flags, stream and payload of these."""
        found = []
        while len(found) < count:
            head = self._take(9)
            size = int.from_bytes(head[:3], "big")
            payload = self._take(size)
            if head[3] == kind:
                found.append((head[4], int.from_bytes(head[5:], "big"), payload))
        return found

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)
        self.connection.step(5)

    def close(self) -> None:
        self.connection.close()
        self.socket.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


def test_a_call_is_a_grpc_request(peer: Peer) -> None:
    stream = peer.connection.call("/a.B/C", b"hello", Events())
    [(flags, number, block)] = peer.frames(HEADERS)
    assert (flags & 0x5, number) == (0x4, stream)
    headers = read_headers(memoryview(block))
    assert headers[":path"] == "/a.B/C"
    assert headers["te"] == "trailers"
    assert headers["content-type"] == "application/grpc"
    assert peer.frames(DATA) == [(0x1, stream, message(b"hello"))]


ANSWER = (
    frame(SETTINGS, 0, 0)
    + frame(HEADERS, 0x4, 1, b"\x20\x88" + literal("content-type", "application/grpc"))
    + frame(DATA, 0, 1, message(b"one")[:6])
    + frame(PING, 0, 0, b"12345678")
    + frame(DATA, 0, 1, message(b"one")[6:] + message(b"two") + message(b"")[:3])
    + frame(DATA, 0x8, 1, b"\x02" + message(b"")[3:] + message(b"x" * 300) + b"\0\0")  # padded
    + frame(HEADERS, 0x1, 1, TRAILERS[:5])
    + frame(CONTINUATION, 0x4, 1, TRAILERS[5:])
)


@given(cuts=st.lists(st.integers(1, len(ANSWER) - 1), max_size=12))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_frames_may_arrive_in_any_parts(cuts: list[int]) -> None:
    peer = Peer()
    events = Events()
    peer.connection.call("/x", b"", events)
    edges = sorted({0, *cuts, len(ANSWER)})
    for start, end in itertools.pairwise(edges):
        peer.send(ANSWER[start:end])
    assert events.messages == [b"one", b"two", b"", b"x" * 300]
    assert events.end == (0, "")
    assert (0x1, 0, b"12345678") in peer.frames(PING)
    assert not peer.connection.has_calls
    peer.close()


def test_streams_do_not_mix(peer: Peer) -> None:
    first, second = Events(), Events()
    one, two = peer.connection.call("/x", b"", first), peer.connection.call("/x", b"", second)
    peer.send(frame(DATA, 0, two, message(b"b")) + frame(DATA, 0, one, message(b"a")))
    peer.send(frame(HEADERS, 0x5, two, literal("grpc-status", "5") + literal("grpc-message", "no such model")))
    assert (first.messages, first.end) == ([b"a"], None)
    assert (second.messages, second.end) == ([b"b"], (5, "no such model"))


def test_a_cancelled_call_is_reset_without_a_callback(peer: Peer) -> None:
    events = Events()
    stream = peer.connection.call("/x", b"", events)
    peer.connection.cancel(stream)
    peer.connection.cancel(stream)
    assert peer.frames(RST_STREAM) == [(0, stream, struct.pack(">I", 8))]
    peer.send(frame(DATA, 0, stream, message(b"late")) + frame(HEADERS, 0x5, stream, TRAILERS))
    assert (events.messages, events.end) == ([], None)


def test_a_large_request_waits_for_the_window(peer: Peer) -> None:
    body = bytes(range(256)) * 800
    stream = peer.connection.call("/x", body, Events())
    got = b"".join(payload for _, _, payload in peer.frames(DATA, 4))
    assert len(got) == 65535  # the window of a new connection
    peer.send(frame(SETTINGS, 0, 0, struct.pack(">HIHI", 4, 100_000, 5, 20_000)))  # each stream may have more
    peer.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1_000_000)))
    part = [payload for _, _, payload in peer.frames(DATA, 2)]
    assert [len(payload) for payload in part] == [20_000, 100_000 - 65535 - 20_000]
    peer.send(frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", 1_000_000)))
    flags = 0
    while not flags & 0x1:
        [(flags, _, payload)] = peer.frames(DATA)
        part.append(payload)
    assert got + b"".join(part) == message(body)


def test_an_early_end_resets_what_is_unsent(peer: Peer) -> None:
    events = Events()
    stream = peer.connection.call("/x", b"x" * 200_000, events)
    peer.frames(DATA, 4)
    peer.send(frame(HEADERS, 0x5, stream, literal("grpc-status", "8")))
    assert events.end is not None and events.end[0] == 8
    assert peer.frames(RST_STREAM)[0][1] == stream
    peer.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1_000_000)))
    assert not peer.connection.failure


@pytest.mark.parametrize(
    ("data", "status", "detail"),
    [
        pytest.param(frame(RST_STREAM, 0, 1, struct.pack(">I", 8)), 1, "reset the stream", id="cancelled-by-peer"),
        pytest.param(frame(RST_STREAM, 0, 1, struct.pack(">I", 7)), 14, "reset the stream", id="refused"),
        pytest.param(frame(DATA, 0x1, 1), 2, "without a status", id="end-without-trailers"),
        pytest.param(frame(GOAWAY, 0, 0, struct.pack(">II", 0, 0)), 14, "closing the connection", id="goaway"),
    ],
)
def test_other_ends(peer: Peer, data: bytes, status: int, detail: str) -> None:
    events = Events()
    peer.connection.call("/x", b"", events)
    peer.send(data)
    assert events.end is not None and events.end[0] == status and detail in events.end[1]


def test_goaway_lets_the_older_calls_finish(peer: Peer) -> None:
    events = Events()
    stream = peer.connection.call("/x", b"", events)
    peer.send(frame(GOAWAY, 0, 0, struct.pack(">II", 2**31 - 1, 0)))
    assert peer.connection.is_draining and events.end is None
    peer.send(frame(DATA, 0, stream, message(b"a")) + frame(HEADERS, 0x5, stream, TRAILERS))
    assert (events.messages, events.end) == ([b"a"], (0, ""))


def test_a_lost_connection_ends_every_call(peer: Peer) -> None:
    events = [Events(), Events()]
    for each in events:
        peer.connection.call("/x", b"", each)
    peer.socket.close()
    peer.connection.step(5)
    peer.connection.step(0)
    assert [each.end is not None and each.end[0] for each in events] == [14, 14]
    with pytest.raises(ConnectionError):
        peer.connection.call("/x", b"", Events())


def test_a_wake_ends_the_wait(peer: Peer) -> None:
    peer.connection.wake()
    peer.connection.step(60)  # would time the test out
    assert not peer.connection.failure
