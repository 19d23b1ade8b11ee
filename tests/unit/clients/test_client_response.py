"""One HTTP/1.1 response, however its bytes are cut, and whatever they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtclient.errors import RequestFailure
from trtclient.response import MAX_HEAD_BYTES, ResponseParser

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
        parser = ResponseParser(got.extend)
        for at in range(0, len(raw), step):
            parser.feed(raw[at : at + step])
        assert bytes(got) == b"hello, wide world"
        assert parser.head is not None
        assert parser.head.status == status
        assert parser.is_complete is not needs_eof
        assert parser.feed_eof()


@pytest.mark.parametrize("end", range(1, len(CHUNKED) - 2))
def test_a_cut_off_answer_is_not_complete(end: int) -> None:
    parser = ResponseParser(lambda data: None)
    parser.feed(CHUNKED[:end])
    if not CHUNKED[:end].endswith(b"0\r\n"):
        assert not parser.feed_eof()


def test_what_came_at_once_is_handed_over_at_once() -> None:
    parts: list[bytes] = []
    ResponseParser(parts.append).feed(CHUNKED)
    assert parts == [b"hello, wide world"]


@pytest.mark.parametrize(
    "raw", [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 x\r\n\r\n", CHUNKED.replace(b"5\r\n", b"zz\r\n"), b"a" * 70000]
)
def test_what_is_not_http_is_refused(raw: bytes) -> None:
    with pytest.raises(RequestFailure, match="expected|head") as caught:
        ResponseParser(lambda data: None).feed(raw)
    assert caught.value.kind == "protocol"


@given(st.binary(max_size=200), st.integers(0, len(CHUNKED)), st.integers(0, 40), st.lists(st.integers(1, 50)))
def test_whatever_comes_is_an_answer_or_a_failure(junk: bytes, at: int, dropped: int, cuts: list[int]) -> None:
    raw = CHUNKED[:at] + junk + CHUNKED[at + dropped :]
    parser, got, position = ResponseParser(bytearray().extend), 0, 0
    try:
        for cut in [*cuts, len(raw)]:
            parser.feed(raw[position : position + cut])
            position += cut
            got += 1
    except RequestFailure as failure:
        assert failure.kind == "protocol"
        assert len(failure.message) < 1000
        assert not parser.feed_eof()
        parser.feed(b"more")  # which changes nothing
    assert got <= len(cuts) + 1
    assert parser.feed_eof() == parser.is_complete


def test_a_head_of_the_allowed_size_is_read_and_a_larger_one_is_not() -> None:
    for size, is_read in ((MAX_HEAD_BYTES - 200, True), (MAX_HEAD_BYTES + 1, False)):
        parser = ResponseParser(lambda data: None)
        raw = b"HTTP/1.1 200 OK\r\nX: %b\r\nContent-Length: 0\r\n\r\n" % (b"v" * size)
        if is_read:
            parser.feed(raw)
            assert parser.is_complete
        else:
            with pytest.raises(RequestFailure, match="bytes of headers"):
                parser.feed(raw + b"HTTP/1.1")


def test_trailers_do_not_change_the_head() -> None:
    parser = ResponseParser(lambda data: None)
    parser.feed(
        b"HTTP/1.1 200 OK\r\nA: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: 2\r\nB: 3\r\n\r\nHTTP/1.1 500 No\r\n"
    )
    assert parser.is_complete
    assert parser.head is not None
    assert (parser.head.status, parser.head.headers) == (200, {"a": "1", "transfer-encoding": "chunked"})
