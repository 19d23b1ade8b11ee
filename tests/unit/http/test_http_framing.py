"""What is read as a request, and what is refused: whatever two readers could understand differently."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from trtbuild_http.errors import ApiError
from trtbuild_http.framing import Head, RequestReader
from trtbuild_http.limits import Limits

from tests.unit.http.kit import CHAT, Running, request

SMALL = Limits(max_header_bytes=400, max_headers=8, max_body_bytes=40)
HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHAT_HEAD = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n".encode()
CHUNKED = CHAT_HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

SMUGGLED = {
    "length-and-chunks": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks-and-length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two-lengths": HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "two-equal-lengths": HEAD + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "list-of-lengths": HEAD + b"Content-Length: 3, 3\r\n\r\nabc",
    "plus": HEAD + b"Content-Length: +3\r\n\r\nabc",
    "minus": HEAD + b"Content-Length: -3\r\n\r\nabc",
    "space-in-length": HEAD + b"Content-Length: 1 2\r\n\r\nabc",
    "space-after-length": HEAD + b"Content-Length: 3 \r\n\r\nabc",
    "tab-after-length": HEAD + b"Content-Length: 3\t\r\n\r\nabc",
    "leading-zeros": HEAD + b"Content-Length: 003\r\n\r\nabc",
    "hexadecimal-length": HEAD + b"Content-Length: 0x3\r\n\r\nabc",
    "underscore-in-length": HEAD + b"Content-Length: 1_0\r\n\r\nabc",
    "empty-length": HEAD + b"Content-Length:\r\n\r\nabc",
    "huge-length": HEAD + b"Content-Length: 99999999999999999999\r\n\r\nabc",
    "length-beyond-the-pattern": HEAD + b"Content-Length: 1000000000000000\r\n\r\nabc",
    "folded-header": HEAD + b"X: a\r\n b\r\n\r\n",
    "folded-first-header": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "folded-transfer-encoding": HEAD + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "bare-line-feed": HEAD + b"X: a\n\r\n",
    "bare-line-feeds": b"GET / HTTP/1.1\nHost: a\n\n",
    "bare-line-feed-before": b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "bare-line-feed-at-the-end": HEAD + b"X: a\r\n\n",
    "bare-carriage-return": HEAD + b"X: a\rY: b\r\n\r\n",
    "carriage-return-in-name": HEAD + b"X\r: a\r\n\r\n",
    "two-carriage-returns": HEAD + b"X: a\r\r\n\r\n",
    "nul-in-value": HEAD + b"X: a\0b\r\n\r\n",
    "nul-in-name": HEAD + b"X\0: a\r\n\r\n",
    "nul-in-target": b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
    "nul-first": b"\0GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "space-before-colon": HEAD + b"X : a\r\n\r\n",
    "tab-before-colon": HEAD + b"Content-Length\t: 3\r\n\r\nabc",
    "no-colon": HEAD + b"Content-Length 3\r\n\r\nabc",
    "no-name": HEAD + b": 3\r\n\r\n",
    "encoding-identity": HEAD + b"Transfer-Encoding: identity\r\n\r\n",
    "encoding-unknown": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "encoding-quoted": HEAD + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "encoding-list": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "encoding-list-reversed": HEAD + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "encoding-comma": HEAD + b"Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n",
    "encoding-comma-before": HEAD + b"Transfer-Encoding: , chunked\r\n\r\n0\r\n\r\n",
    "encoding-parameter": HEAD + b"Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
    "encoding-twice": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "encoding-then-another": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "encoding-vertical-tab": HEAD + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "encoding-no-break-space": HEAD + b"Transfer-Encoding: \xa0chunked\r\n\r\n0\r\n\r\n",
    "encoding-empty": HEAD + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n",
    "encoding-in-1.0": b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunk-extension": CHUNKED + b"3;a=b\r\nabc\r\n0\r\n\r\n",
    "chunk-extension-with-line-feed": CHUNKED + b"3;a\nabc\r\n0\r\n\r\n",
    "last-chunk-extension": CHUNKED + b"0;a\r\n\r\n",
    "trailer": CHUNKED + b"3\r\nabc\r\n0\r\nX: y\r\n\r\n",
    "trailing-length": CHUNKED + b"0\r\nContent-Length: 3\r\n\r\n",
    "negative-chunk": CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n",
    "positive-chunk": CHUNKED + b"+3\r\nabc\r\n0\r\n\r\n",
    "huge-chunk": CHUNKED + b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "overflowing-chunk": CHUNKED + b"100000003\r\nabc\r\n0\r\n\r\n",
    "prefixed-chunk": CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
    "spaced-chunk": CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n",
    "space-before-chunk": CHUNKED + b" 3\r\nabc\r\n0\r\n\r\n",
    "empty-chunk-size": CHUNKED + b"\r\nabc\r\n0\r\n\r\n",
    "chunk-size-line-feed": CHUNKED + b"3\nabc\r\n0\r\n\r\n",
    "chunk-size-two-carriage-returns": CHUNKED + b"3\r\r\nabc\r\n0\r\n\r\n",
    "chunk-data-line-feed": CHUNKED + b"3\r\nabc\n0\r\n\r\n",
    "chunk-too-long": CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n",
    "chunk-without-end": CHUNKED + b"3\r\nabc0\r\n\r\n",
    "last-chunk-line-feed": CHUNKED + b"0\r\n\n",
    "no-host": b"GET / HTTP/1.1\r\n\r\n",
    "two-hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "two-content-types": CHAT_HEAD + b"Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}",
    "version-1.2": b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "version-without-minor": b"GET / HTTP/1\r\nHost: a\r\n\r\n",
    "lower-case-method": b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
    "unknown-method": b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n",
    "space-in-target": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "high-byte-in-target": b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    "fragment-in-target": b"GET /#a HTTP/1.1\r\nHost: a\r\n\r\n",
    "user-in-target": b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "star-for-get": b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    "half-a-character-in-path": b"GET /%ff HTTP/1.1\r\nHost: a\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "http2-preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("data", SMUGGLED.values(), ids=SMUGGLED)
def test_what_is_ambiguous_is_refused_and_the_connection_closed(shared: Running, data: bytes) -> None:
    answer = shared.raw(data + b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.status == 400
    assert answer.headers["connection"] == "close"
    assert answer.json()["error"]["type"] == "invalid_request_error"


TAKEN = {
    "counted": (CHAT_HEAD + b"Content-Length: 7\r\n\r\n" + b'{"a":1}', 200),
    "chunks": (CHAT_HEAD + b"Transfer-Encoding: Chunked\r\n\r\n003\r\n{\"a\r\n4\r\n\":1}\r\n000\r\n\r\n", 200),
    "upper-case-chunk": (CHAT_HEAD + b"Transfer-Encoding: chunked\r\n\r\nA\r\n{\"a\":   1}\r\n0\r\n\r\n", 200),
    "blank-lines-before": (b"\r\n\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n", 200),
    "absolute-target": (b"GET http://somewhere:80/health?x=1 HTTP/1.1\r\nHost: a\r\n\r\n", 200),
    "absolute-target-without-path": (b"OPTIONS HTTPS://somewhere HTTP/1.1\r\nHost: a\r\n\r\n", 204),
    "escaped-path": (b"GET /%68ealth HTTP/1.1\r\nHost: a\r\n\r\n", 200),
    "query": (b"GET /health?/x/../y HTTP/1.1\r\nHost: a\r\n\r\n", 200),
    "star": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 204),
    "body-of-get": (b"GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 200),
    "upgrade": (b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 200),
    "upgrade-with-body": (
        CHAT_HEAD + b'Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 7\r\n\r\n{"a":1}', 200
    ),
    "unknown-transfer_encoding": (
        CHAT_HEAD + b'Transfer_Encoding: chunked\r\nContent-Length: 7\r\n\r\n{"a":1}', 200
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "status"), TAKEN.values(), ids=TAKEN)
def test_what_is_right_is_answered_and_the_connection_used_again(shared: Running, data: bytes, status: int) -> None:
    with shared.connect() as client:
        client.send(data + b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n")
        first, second = client.read(), client.read()
    assert first.status == status
    if b"POST" in data:
        assert first.json()["got"] == {"a": 1}
    assert second.json() == {"version": "1"}


def _events(data: bytes, cuts: list[int], limits: Limits = SMALL) -> list[object]:
    """Return what a reader makes of ``data`` that arrives in pieces; errors by status and message."""
    reader = RequestReader(limits)
    found: list[object] = []
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    for start, end in zip([0, *places], [*places, len(data)], strict=True):
        reader.feed(data[start:end])
        try:
            while (event := reader.next_event()) is not None:
                found.append(event)
        except ApiError as error:
            return [*found, (error.status, error.message)]
    return found


STREAMS = [
    *SMUGGLED.values(),
    *(data + b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n" for data, _ in TAKEN.values()),
    HEAD + b"X: " + b"y" * 400 + b"\r\n\r\n",
    HEAD + b"X: " + b"y" * 400 + b"\0\r\n\r\n",
    HEAD + b"X: 1\r\n" * 8 + b"\r\n",
    CHUNKED + b"28\r\n" + b"a" * 40 + b"\r\n1\r\n",
    CHUNKED + b"29\r\n" + b"a" * 41,
    HEAD + b"X:\r\nY: \r\nContent-Length: 0\r\n\r\n" + HEAD + b"\r\n",
]


@given(st.sampled_from(STREAMS), st.lists(st.integers(0, 600), max_size=6))
@example(STREAMS[0], list(range(600)))
def test_answers_do_not_depend_on_how_the_bytes_are_cut(data: bytes, cuts: list[int]) -> None:
    assert _events(data, cuts) == _events(data, [])


@pytest.mark.parametrize("data", STREAMS, ids=range(len(STREAMS)))
def test_one_byte_at_a_time_is_read_as_at_once(data: bytes) -> None:
    events = _events(data, list(range(len(data))))
    assert events == _events(data, [])
    assert events


@given(st.lists(st.binary(min_size=1, max_size=12), max_size=3), st.lists(st.integers(0, 600), max_size=6))
def test_chunks_are_joined(parts: list[bytes], cuts: list[int]) -> None:
    data = CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    head, body = _events(data, cuts)
    assert isinstance(head, Head)
    assert head.length is None
    assert body == b"".join(parts)


def _error(data: bytes, limits: Limits = SMALL) -> tuple[int, str]:
    event = _events(data, [], limits)[-1]
    assert isinstance(event, tuple)
    return event


def test_headers_are_bounded_in_bytes_and_in_number() -> None:
    assert _error(HEAD + b"X: " + b"y" * 400) == (431, "the request's headers are longer than 400 bytes")
    assert _error(HEAD + b"X: 1\r\n" * 8 + b"\r\n") == (431, "the request has 9 headers, expected at most 8")
    assert _error(b"GET /" + b"a" * 500)[0] == 431


def test_bodies_are_bounded_and_so_are_their_chunks() -> None:
    assert _error(CHUNKED + b"29\r\n")[0] == 413
    assert _error(CHUNKED + b"28\r\n" + b"a" * 40 + b"\r\n1\r\n")[0] == 413
    many = CHUNKED + b"1\r\na\r\n" * 70_000
    assert _error(many, Limits())[0] == 413


def test_equal_headers_are_joined_and_values_trimmed() -> None:
    head, _ = _events(b"GET / HTTP/1.1\r\nHost:  a \t\r\nX-Y: 1\r\nx-y: 2\r\nContent-Length: 0\r\n\r\n", [])
    assert isinstance(head, Head)
    assert head.headers == {"host": "a", "x-y": "1, 2", "content-length": "0"}


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ("GET /\r\n", 505),
        ("GET / HTTP/2.0\r\n", 505),
        ("GET / HTTP/0.9\r\n", 505),
        ("GET / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n", 417),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n", 405),
    ],
)
def test_other_versions_expectations_and_tunnels_are_refused(shared: Running, lines: str, status: int) -> None:
    assert shared.raw(f"{lines}\r\n".encode()).status == status


def test_the_answers_of_a_whole_connection_do_not_depend_on_the_cuts(shared: Running) -> None:
    data = b"".join(
        [
            request("POST", CHAT, b'{"a": 1}', x_request_id="1"),
            request("POST", CHAT, b'{"events": 3}', x_request_id="2"),
            request("GET", "/nothing", x_request_id="3"),
            request("POST", CHAT, b"[]", x_request_id="4"),
            request("HEAD", "/health", x_request_id="5"),
            request("PUT", "/health", x_request_id="6"),
            CHUNKED + b"3;x\r\n",
        ]
    )
    expected = [200, 200, 404, 400, 200, 405, 400]
    for size in (1, 2, 3, 7, 50, 1000, len(data)):
        with shared.connect() as client:
            for at in range(0, len(data), size):
                client.send(data[at : at + size])
            answers = [client.read(is_head=number == 4) for number in range(7)]
            assert client.is_closed()
        assert [answer.status for answer in answers] == expected
        assert [answer.headers["x-request-id"] for answer in answers[:6]] == ["1", "2", "3", "4", "5", "6"]
        assert [json.loads(event)["n"] for event in answers[1].events()[:-1]] == [0, 1, 2]
