"""Clients that send or read slowly, or leave: they are refused or cut, and nobody else notices."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable

import pytest
from trtbuild_http.gateway import Limits

from tests.unit.http.kit import CHAT, Client, Running, post, request, wait_until

QUICK = Limits(header_time_s=0.3, body_time_s=0.5, idle_time_s=0.4, unread_time_s=1.0, linger_time_s=0.3, sweep_s=0.05)


@pytest.fixture(autouse=True)
def _loops(any_loop: None) -> None:
    """Both event loops buffer, pause and close in code of their own."""


@pytest.mark.parametrize("begun", [b"G", b"GET /health HTTP/1.1\r\nHost: a\r\n", b"\r\n\r"])
def test_slow_headers_are_refused(start: Callable[..., Running], begun: bytes) -> None:
    running = start(limits=QUICK)
    with running.connect() as client:
        client.send(begun)
        _drip(client, b"X-A: 1\r\n" if begun[:1] == b"G" and len(begun) > 1 else b"")
        answer = client.read()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert "headers" in answer.json()["error"]["message"]
        assert client.is_closed()


def test_a_slow_body_is_refused(start: Callable[..., Running]) -> None:
    running = start(limits=QUICK)
    for head in (
        request("POST", CHAT, b"", content_length="1000"),
        request("POST", CHAT, b"", transfer_encoding="chunked", content_length=None),  # type: ignore[arg-type]
    ):
        with running.connect() as client:
            client.send(head)
            _drip(client, b"1\r\nx\r\n")
            answer = client.read()
            assert answer.status == 408
            assert "body" in answer.json()["error"]["message"]
            assert client.is_closed()


def _drip(client: Client, piece: bytes) -> None:
    """Keep sending while the server waits; it must not be impressed by that."""

    def send() -> None:
        for _ in range(40):
            try:
                client.send(piece)
            except OSError:
                return
            time.sleep(0.05)

    if piece:
        threading.Thread(target=send, daemon=True).start()


def test_idle_connections_are_closed_without_an_answer(start: Callable[..., Running]) -> None:
    running = start(limits=QUICK)
    with running.connect() as never_used, running.connect() as used:
        used.send(request("GET", "/health"))
        assert used.read().status == 200
        assert never_used.is_closed()
        assert used.is_closed()


def test_a_running_request_has_no_time_limit(start: Callable[..., Running]) -> None:
    running = start(limits=QUICK)
    with running.connect() as client:
        client.send(post({"events": 4, "gap_s": 0.6}))
        assert len(client.read().events()) == 5


def test_a_client_that_does_not_read_is_cut_and_others_keep_their_pace(start: Callable[..., Running]) -> None:
    running = start(limits=Limits(max_unread_bytes=200_000))
    with running.connect() as slow, running.connect() as quick:
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.send(post({"events": 1_000_000, "padding": 10_000}, x_request_id="slow"))
        quick.send(post({"events": 50, "gap_s": 0.01}, x_request_id="quick"))
        assert len(quick.read().events()) == 51
        wait_until(lambda: running.model.gone == ["slow"])
        cut = running.model.exchanges[0] if running.model.exchanges[0].is_gone else running.model.exchanges[1]
        assert cut.request.request_id == "slow"
        assert len(slow.rest()) < 20 << 20  # what was on its way, and not the 10 GB that were asked for


def test_a_client_that_never_reads_a_whole_answer_is_cut(start: Callable[..., Running]) -> None:
    running = start(limits=QUICK)
    running.model.routes[CHAT] = lambda exchange, document: exchange.respond(200, b"x" * (30 << 20))
    with running.connect() as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.send(post({}))
        assert running.endpoint._server is not None
        server = running.endpoint._server
        wait_until(lambda: len(server._connections) == 1)
        wait_until(lambda: not server._connections)


def test_a_slow_reader_of_a_whole_answer_gets_all_of_it(start: Callable[..., Running]) -> None:
    running = start()
    running.model.routes[CHAT] = lambda exchange, document: exchange.respond(200, b"x" * (3 << 20))
    with running.connect() as client:
        client.send(post({}) * 3)
        for _ in range(3):
            time.sleep(0.2)
            assert len(client.read().body) == 3 << 20


@pytest.mark.parametrize("way", ["close", "reset", "half-close"])
@pytest.mark.parametrize("document", [{"events": 100_000, "gap_s": 0.001}, {"never": True}], ids=["stream", "waiting"])
def test_a_client_that_leaves_is_noticed(start: Callable[..., Running], way: str, document: dict[str, object]) -> None:
    running = start()
    client = running.connect()
    client.send(post(document, x_request_id="7"))
    wait_until(lambda: len(running.model.exchanges) == 1)
    if way == "reset":
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if way == "half-close":
        client.socket.shutdown(socket.SHUT_WR)
    else:
        client.socket.close()
    wait_until(lambda: running.model.gone == ["7"])
    assert running.model.exchanges[0].is_gone
    client.socket.close()


def test_a_client_that_leaves_after_its_answer_cancels_nothing(start: Callable[..., Running]) -> None:
    running = start()
    assert running.ask(CHAT, {"events": 1}).events()
    assert running.ask(CHAT, {}).status == 200
    assert running.endpoint._server is not None
    server = running.endpoint._server
    wait_until(lambda: not server._connections)
    assert running.model.gone == []


def test_many_streams_at_once_are_whole(start: Callable[..., Running]) -> None:
    running = start()
    clients = [running.connect() for _ in range(64)]
    for number, client in enumerate(clients):
        client.send(post({"events": 20 + number, "gap_s": 0.001}))
    for number, client in enumerate(clients):
        events = client.read().events()
        assert [json.loads(event)["n"] for event in events[:-1]] == list(range(20 + number))
        assert events[-1] == "[DONE]"
        client.socket.close()
