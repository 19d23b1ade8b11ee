"""A peer that breaks HTTP/2 in every way: nothing is raised, every call ends exactly once, memory stays bounded."""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trtbuild_front.faults import ProtocolError
from trtbuild_front.transport.hpack import read_headers, read_status

from tests.unit.front.transport.test_http2 import (
    ANSWER,
    CONTINUATION,
    DATA,
    GOAWAY,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    TRAILERS,
    WINDOW_UPDATE,
    Peer,
    frame,
    literal,
    message,
)

PRIORITY, PUSH_PROMISE = 2, 5
CALLS = 3
UNAVAILABLE = 14


class Counted:
    """Counts what happens to a call."""

    def __init__(self) -> None:
        self.messages = 0
        self.ends: list[tuple[int, str]] = []

    def on_message(self, payload: bytes) -> None:
        assert not self.ends
        self.messages += 1

    def on_end(self, status: int, detail: str) -> None:
        self.ends.append((status, detail))


def play(data: bytes) -> tuple[Peer, list[Counted]]:
    """Open three calls, let the peer send ``data`` and hang up."""
    peer = Peer()
    calls = [Counted() for _ in range(CALLS)]
    for call in calls:
        peer.connection.call("/x", b"hello", call)
    peer.connection.step(0)
    peer.socket.setblocking(False)
    with memoryview(data) as rest:
        at = 0
        while at < len(rest) and not peer.connection.failure:
            with contextlib.suppress(BlockingIOError):
                at += peer.socket.send(rest[at : at + 65536])
            with contextlib.suppress(BlockingIOError):
                peer.socket.recv(1 << 20)
            peer.connection.step(0.01)
    return peer, calls


def assert_ended_once(data: bytes) -> list[Counted]:
    peer, calls = play(data)
    peer.close()
    assert [len(call.ends) for call in calls] == [1] * CALLS
    return calls


def pack(value: int) -> bytes:
    return struct.pack(">I", value)


KINDS = st.one_of(st.integers(0, 12), st.integers(0, 255))
STREAMS = st.one_of(st.sampled_from([0, 1, 2, 3, 5, 7, 2**31 - 1]), st.integers(0, 2**32 - 1))
PAYLOADS = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"", pack(0), pack(2**31 - 1), message(b"abc"), TRAILERS, literal("grpc-status", "x")]),
)
FRAMES = st.lists(st.builds(frame, KINDS, st.integers(0, 255), STREAMS, PAYLOADS), max_size=12)


@given(frames=FRAMES)
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_frames(frames: list[bytes]) -> None:
    assert_ended_once(b"".join(frames))


def mutations(count: int) -> Iterator[bytes]:
    rng = random.Random(20240901)
    for _ in range(count):
        data = bytearray(ANSWER + frame(DATA, 0, 3, message(b"x" * 30)) + frame(HEADERS, 0x5, 3, TRAILERS))
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(len(data))
            action = rng.randrange(4)
            if action == 0:
                data[at] = rng.randrange(256)
            elif action == 1:
                data[at] ^= 1 << rng.randrange(8)
            elif action == 2:
                del data[at : at + rng.randrange(1, 12)]
            else:
                data[at:at] = rng.randbytes(rng.randrange(1, 12))
        yield bytes(data)


def test_mutated_conversations() -> None:
    outcomes = {status for data in mutations(1500) for call in assert_ended_once(data) for status, _ in call.ends}
    assert {0, UNAVAILABLE} <= outcomes


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(frame(WINDOW_UPDATE, 0, 0, b"\0\0"), id="window-of-2-bytes"),
        pytest.param(frame(WINDOW_UPDATE, 0, 0, pack(0)), id="window-by-0"),
        pytest.param(frame(WINDOW_UPDATE, 0, 0, pack(2**31 - 1)) * 2, id="connection-window-overflow"),
        pytest.param(frame(WINDOW_UPDATE, 0, 1, pack(2**31 - 1)) * 2, id="stream-window-overflow"),
        pytest.param(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 2**31)), id="initial-window-too-large"),
        pytest.param(frame(SETTINGS, 0, 0, struct.pack(">HI", 5, 100)), id="frame-size-too-small"),
        pytest.param(frame(SETTINGS, 0, 0, b"12345"), id="settings-of-5-bytes"),
        pytest.param(frame(SETTINGS, 1, 0, b"123456"), id="settings-acknowledged-with-a-payload"),
        pytest.param(frame(SETTINGS, 0, 1), id="settings-on-a-stream"),
        pytest.param(frame(PING, 0, 0, b"1"), id="ping-of-1-byte"),
        pytest.param(frame(PING, 0, 1, b"12345678"), id="ping-on-a-stream"),
        pytest.param(frame(GOAWAY, 0, 0, b"1234"), id="goaway-of-4-bytes"),
        pytest.param(frame(RST_STREAM, 0, 1, b""), id="reset-without-a-code"),
        pytest.param(frame(RST_STREAM, 0, 0, pack(8)), id="reset-of-the-connection"),
        pytest.param(frame(DATA, 0, 0, message(b"a")), id="data-of-the-connection"),
        pytest.param(frame(DATA, 0, 2, message(b"a")), id="data-on-an-even-stream"),
        pytest.param(frame(DATA, 0, 99, message(b"a")), id="data-on-an-unopened-stream"),
        pytest.param(frame(DATA, 0x8, 1, b""), id="padding-without-a-length"),
        pytest.param(frame(DATA, 0x8, 1, b"\x05abc"), id="padding-longer-than-data"),
        pytest.param(frame(HEADERS, 0xC, 1, b"\xff"), id="padding-longer-than-headers"),
        pytest.param(frame(HEADERS, 0x24, 1, b"abc"), id="priority-cut"),
        pytest.param(frame(HEADERS, 0x4, 1, b"\x00\x7f"), id="string-cut"),
        pytest.param(frame(HEADERS, 0x4, 1, b"\x00\x7f\xff\xff\xff\xff\xff\xff\xff"), id="length-absurd"),
        pytest.param(frame(HEADERS, 0x4, 1, b"\xbe"), id="dynamic-entry"),
        pytest.param(frame(HEADERS, 0x4, 1, b"\x80"), id="entry-0"),
        pytest.param(frame(HEADERS, 0x4, 1, b"\x3f\xe1\x1f"), id="table-size"),
        pytest.param(frame(HEADERS, 0x5, 1, literal("grpc-status", "many")), id="status-is-no-number"),
        pytest.param(frame(HEADERS, 0x5, 1, literal("grpc-status", "")), id="status-is-empty"),
        pytest.param(frame(HEADERS, 0, 1, b"") + frame(DATA, 0, 1, b""), id="data-within-headers"),
        pytest.param(frame(HEADERS, 0, 1, b"") + frame(CONTINUATION, 0, 3, b""), id="continued-on-another-stream"),
        pytest.param(frame(CONTINUATION, 0x4, 1, b""), id="continuation-of-nothing"),
        pytest.param(frame(HEADERS, 0, 1) + frame(CONTINUATION, 0, 1) * 100, id="empty-continuations"),
        pytest.param(frame(HEADERS, 0, 1) + frame(CONTINUATION, 0, 1, b"\0" * 60000) * 3, id="huge-header-block"),
        pytest.param(frame(PUSH_PROMISE, 0x4, 1, pack(2)), id="push"),
        pytest.param(struct.pack(">I", 2**24 - 1)[1:] + bytes((DATA, 0)) + pack(1), id="frame-too-large"),
        pytest.param(frame(DATA, 0, 1, b"\0" + pack(2**32 - 1)), id="message-too-large"),
        pytest.param(frame(DATA, 0, 1, b"\1" + pack(1) + b"x"), id="message-compressed"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 2, id="not-http2"),
    ],
)
def test_each_fault_ends_every_call_with_unavailable(data: bytes) -> None:
    peer, calls = play(data)
    assert "broke the HTTP/2 protocol" in peer.connection.failure
    assert [call.ends for call in calls] == [[(UNAVAILABLE, peer.connection.failure)]] * CALLS
    with pytest.raises(ConnectionError):
        peer.connection.call("/x", b"", Counted())
    peer.close()


@pytest.mark.parametrize("question", [frame(PING, 0, 0, b"12345678"), frame(SETTINGS, 0, 0)], ids=["ping", "settings"])
def test_a_peer_that_asks_and_never_reads_loses_the_connection(question: bytes) -> None:
    peer = Peer()
    call = Counted()
    peer.connection.call("/x", b"", call)
    peer.socket.settimeout(0.2)
    for _ in range(2000):
        if peer.connection.failure:
            break
        with contextlib.suppress(TimeoutError):
            peer.socket.send(question * 2000)
        peer.connection.step(0)
    assert "more questions" in peer.connection.failure
    assert len(call.ends) == 1
    peer.close()


def test_unfinished_messages_are_bounded_together() -> None:
    part = b"\0" + pack(60 << 20)
    body = bytes(1 << 20)
    for limit in (4 << 20, 100 << 20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("trtbuild_front.transport.connection._MOST_BUFFERED_BYTES", limit)
            data = b"".join(frame(DATA, 0, n, part) + frame(DATA, 0, n, body) * 3 for n in (1, 3))
            peer, calls = play(data)
            assert bool(peer.connection.failure) is (limit < 6 << 20)
            peer.close()
            assert [len(call.ends) for call in calls] == [1] * CALLS


@pytest.mark.parametrize("data", [frame(PRIORITY, 0, 1, b"12345"), frame(200, 255, 77, b"?"), frame(SETTINGS, 1, 0)])
def test_what_the_protocol_allows_is_ignored(data: bytes) -> None:
    peer, calls = play(data)
    assert not peer.connection.failure
    peer.close()
    assert [len(call.ends) for call in calls] == [1] * CALLS


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("no such model", "no such model"),
        ("50%25 of caf%C3%A9%0Adone", "50% of café\ndone"),
        ("100%", "100%"),
        ("%zz %FF", "%zz \N{REPLACEMENT CHARACTER}"),
    ],
)
def test_the_message_of_a_status_is_percent_encoded(sent: str, expected: str) -> None:
    headers = read_headers(literal("grpc-status", "13") + literal("grpc-message", sent))
    assert read_status(headers) == (13, expected)


@given(block=st.binary(max_size=60))
@settings(max_examples=1000, deadline=None)
def test_any_header_block_is_read_or_refused(block: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        read_status(read_headers(block))
