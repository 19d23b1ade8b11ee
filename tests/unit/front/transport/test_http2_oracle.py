"""Our HTTP/2 client in conversation with h2, the reference implementation of HTTP/2 in Python, as the server.

The server is bytes only: what h2 answers goes through a socket pair, and h2 checks every byte that we send. Messages of
random sizes, windows of random sizes, interleaved streams, padding and pings; what is delivered has to be equal.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from trtbuild_front.faults import ProtocolError
from trtbuild_front.transport import huffman
from trtbuild_front.transport.connection import Connection

h2_config = pytest.importorskip("h2.config")
h2_connection = pytest.importorskip("h2.connection")
h2_events = pytest.importorskip("h2.events")
h2_settings = pytest.importorskip("h2.settings")

SIZES = (0, 1, 5, 100, 4_000, 16_384, 70_000, 300_000)
DEADLINE_S = 30.0
MOST_TURNS = 20_000


def prefixed(message: bytes) -> bytes:
    """Return a gRPC message as it is on the wire."""
    return struct.pack(">BI", 0, len(message)) + message


@dataclass
class Events:
    """What our client receives of one call."""

    messages: list[bytes] = field(default_factory=list)
    end: tuple[int, str] | None = None

    def on_message(self, message: bytes) -> None:
        self.messages.append(message)

    def on_end(self, status: int, detail: str) -> None:
        assert self.end is None, "ended twice"
        self.end = (status, detail)


@dataclass
class Answer:
    """What the server still has to send on a stream."""

    body: bytes
    status: int
    detail: str


class Server:
    """An h2 server that answers each call as it was told, in parts of random sizes."""

    def __init__(self, connection: socket.socket, chance: random.Random, window: int) -> None:
        self._socket, self._chance = connection, chance
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = h2_config.H2Configuration(client_side=False, header_encoding="utf-8")
        self.h2 = h2_connection.H2Connection(config=config)
        self.h2.local_settings = h2_settings.Settings(
            client=False, initial_values={h2_settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
        )
        self.h2.initiate_connection()
        self.requests: dict[int, bytearray] = {}
        self.complete: list[int] = []
        self.was_reset: list[int] = []
        self.headers: dict[int, dict[str, str]] = {}
        self.answers: dict[int, Answer] = {}
        self.unsent = bytearray()

    def turn(self) -> None:
        """Read what has arrived, send a part of what is due."""
        try:
            data = self._socket.recv(1 << 16)
        except BlockingIOError:
            data = b""
        for event in self.h2.receive_data(data) if data else ():
            self._take(event)
        if self._chance.random() < 0.02:
            self.h2.ping(self._chance.randbytes(8))
        for stream in self._chance.sample(sorted(self.answers), len(self.answers)):
            self._send_some(stream)
        self.unsent += self.h2.data_to_send()
        if self.unsent:
            with_some = self.unsent[: self._chance.randint(1, len(self.unsent))]  # cut anywhere, also within a frame
            with contextlib.suppress(BlockingIOError):
                del self.unsent[: self._socket.send(with_some)]

    def _take(self, event: object) -> None:
        if isinstance(event, h2_events.RequestReceived):
            self.requests[event.stream_id] = bytearray()
            self.headers[event.stream_id] = dict(event.headers)
        elif isinstance(event, h2_events.DataReceived):
            self.requests[event.stream_id] += event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2_events.StreamEnded):
            self.complete.append(event.stream_id)
        elif isinstance(event, h2_events.StreamReset):
            self.was_reset.append(event.stream_id)
            self.answers.pop(event.stream_id, None)

    def answer(self, stream: int, messages: list[bytes], status: int, detail: str) -> None:
        self.h2.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
        self.answers[stream] = Answer(b"".join(map(prefixed, messages)), status, detail)

    def _send_some(self, stream: int) -> None:
        answer = self.answers[stream]
        room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size - 256)
        size = min(self._chance.choice((1, 100, 5_000, 40_000)), room, len(answer.body))
        if size:
            padding = self._chance.choice((None, None, self._chance.randint(0, 200)))
            part, answer.body = answer.body[:size], answer.body[size:]
            self.h2.send_data(stream, part, pad_length=padding)
        if not answer.body:
            trailers = [("grpc-status", str(answer.status)), ("grpc-message", answer.detail)]
            self.h2.send_headers(stream, trailers, end_stream=True)
            del self.answers[stream]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def meet(listener: socket.socket) -> tuple[Connection, socket.socket]:
    accepted: list[socket.socket] = []
    thread = threading.Thread(target=lambda: accepted.append(listener.accept()[0]))
    thread.start()
    client = Connection("127.0.0.1", listener.getsockname()[1])
    thread.join(DEADLINE_S)
    return client, accepted[0]


@pytest.mark.parametrize("seed", range(12))
def test_what_is_sent_is_what_arrives_in_both_directions(listener: socket.socket, seed: int) -> None:
    chance = random.Random(seed)
    client, theirs = meet(listener)
    server = Server(theirs, chance, window=chance.choice((1, 100, 65_535, 1 << 20)) if seed % 3 else 65_535)
    most = max(SIZES) if server.h2.local_settings.initial_window_size >= 65_535 else 400
    sizes = [size for size in SIZES if size <= most]
    events: dict[int, Events] = {}
    sent: dict[int, bytes] = {}
    expected: dict[int, tuple[list[bytes], int, str]] = {}
    wanted = chance.randint(3, 12)
    for _ in range(200):  # both know the other's windows: h2 takes no data that was sent before
        client.step(0)
        server.turn()
    for _ in range(MOST_TURNS):
        if len(sent) < wanted and chance.random() < 0.3:
            received, body = Events(), chance.randbytes(chance.choice(sizes))
            stream = client.call("/a.Service/Method", body, received)
            events[stream], sent[stream] = received, body
        client.step(0)
        server.turn()
        while server.complete:
            stream = server.complete.pop()
            messages = [chance.randbytes(chance.choice(SIZES)) for _ in range(chance.randint(0, 6))]
            expected[stream] = messages, *chance.choice(((0, ""), (13, "broken"), (14, "try again")))
            server.answer(stream, *expected[stream])
        if len(sent) == wanted and all(received.end for received in events.values()):
            break
    assert not client.failure
    assert sent.keys() == expected.keys() and len(sent) == wanted
    for stream, body in sent.items():
        assert server.requests[stream] == prefixed(body)
        assert server.headers[stream][":path"] == "/a.Service/Method"
        assert server.headers[stream]["content-type"] == "application/grpc"
        messages, status, detail = expected[stream]
        assert events[stream].messages == messages
        assert events[stream].end == (status, detail)
    client.close()
    theirs.close()


@pytest.mark.parametrize("seed", range(4))
def test_cancelled_calls_end_for_the_server_and_disturb_no_other(listener: socket.socket, seed: int) -> None:
    chance = random.Random(seed)
    client, theirs = meet(listener)
    server = Server(theirs, chance, window=65_535)
    events = [Events() for _ in range(10)]
    streams = [client.call("/a.Service/Method", chance.randbytes(50), received) for received in events]
    cancelled: set[int] = set()
    message = chance.randbytes(20_000)
    for _ in range(MOST_TURNS):
        client.step(0)
        server.turn()
        while server.complete:
            server.answer(server.complete.pop(), [message] * 4, 0, "")
        for stream, received in zip(streams, events, strict=True):
            if stream % 4 == 1 and received.messages and received.end is None and stream not in cancelled:
                client.cancel(stream)
                cancelled.add(stream)
        done = all(received.end or stream in cancelled for stream, received in zip(streams, events, strict=True))
        if done and not server.answers:
            break
    assert cancelled and set(server.was_reset) <= cancelled
    for stream, received in zip(streams, events, strict=True):
        if stream in cancelled:
            assert received.end is None and received.messages == [message] * len(received.messages)
        else:
            assert received.messages == [message] * 4 and received.end == (0, "")
    assert not client.failure and not client.has_calls
    client.close()
    theirs.close()


def test_a_goaway_of_the_server_ends_what_it_did_not_take(listener: socket.socket) -> None:
    client, theirs = meet(listener)
    server = Server(theirs, random.Random(1), window=65_535)
    first, late = Events(), Events()
    taken = client.call("/a.Service/Method", b"first", first)
    while not server.complete:
        client.step(0)
        server.turn()
    client.call("/a.Service/Method", b"late", late)
    server.h2.close_connection(last_stream_id=taken)
    theirs.setblocking(True)
    theirs.sendall(server.unsent + server.h2.data_to_send())
    while late.end is None:
        client.step(1)
    assert late.end[0] == 14 and client.is_draining
    assert first.end is None, "a call that the server has taken goes on"
    client.close()
    assert first.end is not None and first.end[0] == 14
    theirs.close()


def test_coded_strings_are_read_as_hpack_writes_them() -> None:
    chance = random.Random(5)
    coder = pytest.importorskip("hpack.huffman").HuffmanEncoder(
        pytest.importorskip("hpack.huffman_constants").REQUEST_CODES,
        pytest.importorskip("hpack.huffman_constants").REQUEST_CODES_LENGTH,
    )
    for text in [bytes([octet]) for octet in range(256)] + [chance.randbytes(size) for size in range(200)]:
        assert huffman.decode(coder.encode(text)) == text


@pytest.mark.parametrize("coded", ["00", "fe", "ffff", "ffffffff", "1fffff"])
def test_coded_strings_that_end_within_a_symbol_are_refused(coded: str) -> None:
    with pytest.raises(ProtocolError):
        huffman.decode(bytes.fromhex(coded))
