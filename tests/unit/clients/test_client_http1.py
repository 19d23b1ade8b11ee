"""HTTP/1.1 and server-sent events, however their bytes are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtclient.errors import RequestFailure, SpecError, classify
from trtclient.http1 import AnswerParser, EventParser, Head, HttpClient, error_text, failure_of

CHUNKED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: Chunked\r\n\r\n"
    b"5\r\nhello\r\n1;x=y\r\n,\r\nB\r\n wide world\r\n0\r\n\r\n"
)
PLAIN = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 17\r\n\r\nhello, wide world"
UNTIL_CLOSED = b"HTTP/1.0 200 OK\r\n\r\nhello, wide world"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN


@pytest.mark.parametrize(
    ("raw", "status", "needs_eof"),
    [
        pytest.param(CHUNKED, 200, False, id="chunked"),
        pytest.param(PLAIN, 400, False, id="length"),
        pytest.param(UNTIL_CLOSED, 200, True, id="until-closed"),
        pytest.param(INTERIM, 400, False, id="interim"),
    ],
)
def test_an_answer_is_the_same_however_it_is_cut(raw: bytes, status: int, needs_eof: bool) -> None:
    for step in range(1, len(raw) + 1):
        got = bytearray()
        parser = AnswerParser(got.extend)
        for at in range(0, len(raw), step):
            parser.feed(raw[at : at + step])
        assert bytes(got) == b"hello, wide world"
        assert parser.head is not None
        assert parser.head.status == status
        assert parser.is_complete is not needs_eof
        assert parser.feed_eof()


@pytest.mark.parametrize("end", range(1, len(CHUNKED) - 2))
def test_a_cut_off_answer_is_not_complete(end: int) -> None:
    parser = AnswerParser(lambda data: None)
    parser.feed(CHUNKED[:end])
    if not CHUNKED[:end].endswith(b"0\r\n"):
        assert not parser.feed_eof()


def test_what_came_at_once_is_handed_over_at_once() -> None:
    parts: list[bytes] = []
    AnswerParser(parts.append).feed(CHUNKED)
    assert parts == [b"hello, wide world"]


@pytest.mark.parametrize(
    "raw", [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 x\r\n\r\n", CHUNKED.replace(b"5\r\n", b"zz\r\n"), b"a" * 70000]
)
def test_what_is_not_http_is_refused(raw: bytes) -> None:
    with pytest.raises(RequestFailure, match="expected|head") as caught:
        AnswerParser(lambda data: None).feed(raw)
    assert caught.value.kind == "protocol"


@given(st.lists(st.integers(1, 7), max_size=60))
def test_events_are_the_same_however_they_are_cut(cuts: list[int]) -> None:
    body = b'data: {"a": 1}\n\n: comment\nevent: x\ndata:two\r\ndata: lines\r\n\r\n\ndata: last\n\nrest'
    parser, events, at = EventParser(), [], 0
    for cut in [*cuts, len(body)]:
        events += parser.feed(body[at : at + cut])
        at += cut
    assert events == [b'{"a": 1}', b"two\nlines", b"last"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        pytest.param(b'{"error":"no"}', "no", id="triton"),
        pytest.param(b'data: {"error":"no"}', "no", id="triton-stream"),
        pytest.param(b'{"error":{"message":"no","code":4}}', "no", id="openai"),
        pytest.param(b"<h1>no</h1>\n", "<h1>no</h1>", id="text"),
        pytest.param(b"\xff", "�", id="bytes"),
    ],
)
def test_the_servers_words(body: bytes, text: str) -> None:
    assert error_text(body) == text


def test_a_server_may_ask_to_wait() -> None:
    failure = failure_of(Head(status=503, headers={"retry-after": "7"}), b"")
    assert (failure.kind, failure.retry_after_s, failure.message) == ("overloaded", 7.0, "HTTP 503: no explanation")
    assert failure_of(Head(status=503, headers={"retry-after": "Wed, 21 Oct"}), b"").retry_after_s is None


@pytest.mark.parametrize(
    ("message", "status", "kind"),
    [
        pytest.param("UNAVAILABLE: the queue is full (8 requests are waiting)", 400, "overloaded", id="front-model"),
        pytest.param("Exceeds maximum queue size", 0, "overloaded", id="triton-queue"),
        pytest.param("anything", 429, "overloaded", id="429"),
        pytest.param("anything", 503, "overloaded", id="503"),
        pytest.param("Request for unknown model: 'x' is not found", 404, "not_found", id="model"),
        pytest.param("Request for unknown model: 'x' is not found", 0, "not_found", id="model-grpc"),
        pytest.param("temperature: expected a number >= 0, got -1", 400, "invalid", id="front-refusal"),
        pytest.param("temperature: expected a number >= 0, got -1", 0, "invalid", id="front-refusal-grpc"),
        pytest.param("upstream timed out", 504, "timeout", id="gateway"),
        pytest.param("the engine failed", 500, "server", id="500"),
        pytest.param("the engine failed", 0, "server", id="engine-grpc"),
    ],
)
def test_failures_have_a_kind(message: str, status: int, kind: str) -> None:
    assert classify(message, status) == kind


def test_what_is_worth_repeating() -> None:
    kinds = ("overloaded", "connect", "disconnected", "timeout", "invalid", "not_found", "server", "protocol")
    assert [kind for kind in kinds if RequestFailure(kind, "").is_retryable] == list(kinds[:4])
    assert all(RequestFailure(kind, "").hint for kind in kinds)


@pytest.mark.parametrize("url", ["ftp://x", "http://", "grpc://x:1"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(SpecError, match="http://"):
        HttpClient(url)
