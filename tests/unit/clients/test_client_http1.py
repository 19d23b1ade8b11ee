"""The HTTP client: which URLs it takes, what failures say, and servers that break HTTP in every way."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from trtbuild.errors import SpecError
from trtclient import http1
from trtclient.errors import RequestFailure, classify
from trtclient.http1 import HttpClient, error_text, failure_of
from trtclient.response import Head


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
def test_the_server_s_messages_are_passed_on(body: bytes, text: str) -> None:
    assert error_text(body) == text


def test_a_server_may_ask_to_wait() -> None:
    failure = failure_of(Head(status=503, headers={"retry-after": "7"}), b"")
    assert (failure.kind, failure.retry_after_s, failure.message) == ("overloaded", 7.0, "HTTP 503: no explanation")
    for odd in ("Wed, 21 Oct", "\u00b2", ""):
        assert failure_of(Head(status=503, headers={"retry-after": odd}), b"").retry_after_s is None


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


def test_without_httptools_the_command_to_type_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httptools", None)
    with pytest.raises(SpecError, match="httptools") as caught:
        HttpClient("http://127.0.0.1:1")
    assert caught.value.hint == "pip install 'trtbuild[clients]'"


@asynccontextmanager
async def _serving(parts: list[bytes]) -> AsyncIterator[str]:
    """Serve ``parts`` to every connection, each in a write of its own, and close."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)
        except ConnectionError:
            pass  # the client had enough
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def _ask(parts: list[bytes], on_body: Callable[[Head, float, bytes], None]) -> Head | RequestFailure:
    async with _serving(parts) as url:
        client = HttpClient(url)
        try:
            async with asyncio.timeout(30):
                return await client.request("/", on_body)
        except RequestFailure as failure:
            return failure
        finally:
            await client.close()


STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
    + b"X-Long: " + b"v" * 300 + b"\r\n\r\n"
    + b"".join(b"%x\r\ndata: {\"text_output\":\"%d\"}\n\n\r\n" % (len(b"%d" % n) + 25, n) for n in range(20))
    + b"0\r\n\r\n"
)  # fmt: skip


def _mangled(seed: int) -> list[bytes]:
    """Return STREAM with bytes changed, dropped, doubled or cut off, in random pieces."""
    dice = random.Random(seed)
    raw = bytearray(STREAM)
    for _ in range(dice.randint(1, 4)):
        at, what = dice.randrange(len(raw)), dice.randrange(5)
        if what == 0:
            raw[at] = dice.randrange(256)
        elif what == 1:
            del raw[at : at + dice.randint(1, 40)]
        elif what == 2:
            raw[at:at] = raw[at : at + dice.randint(1, 400)]
        elif what == 3:
            raw[at:at] = dice.randbytes(dice.randint(1, 20))
        else:
            del raw[at + 1 :]
    cuts = sorted(dice.sample(range(len(raw)), min(len(raw), dice.randint(0, 6))))
    return [bytes(raw[a:b]) for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True) if b > a]


def test_a_mangled_answer_never_hangs_and_never_crashes() -> None:
    """Whatever is broken, a request ends with its head or with a failure that has a kind, and nothing is left over."""
    from trtclient.apis.generate import GenerateApi
    from trtclient.generation import Generation

    ended: dict[str, int] = {}

    async def main() -> None:
        loop = asyncio.get_running_loop()
        unexpected: list[object] = []
        loop.set_exception_handler(lambda _, context: unexpected.append(context))
        for seed in range(400):
            async with _serving(_mangled(seed)) as url:
                api = GenerateApi(url, "m")
                try:
                    async with asyncio.timeout(30):
                        await api.generate(Generation(text="x", stream=True), lambda piece: None)
                    how = "whole"
                except RequestFailure as failure:
                    assert failure.message
                    how = failure.kind
                finally:
                    await api.close()
                ended[how] = ended.get(how, 0) + 1
        assert not unexpected

    asyncio.run(main())
    assert {"whole", "protocol", "disconnected"} <= set(ended)
    assert sum(ended.values()) == 400


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        pytest.param([b"HTTP/1.1 200 OK\r\n", *[b"X: " + b"v" * 8000 + b"\r\n"] * 2000], "headers", id="many-headers"),
        pytest.param([b"HTTP/1.1 200 OK\r\nX: ", *[b"v" * 8000] * 2000], "headers", id="one-header"),
        pytest.param([b"HTTP/1.1 100 Continue\r\n\r\n" * 100] * 2000, "headers", id="interim-answers"),
        pytest.param(
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", *[b"X: " + b"v" * 8000 + b"\r\n"] * 2000],
            "headers", id="trailers",
        ),
        pytest.param(
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", *[b"v" * 8000] * 2000],
            "headers", id="chunk-extension",
        ),
        pytest.param([b"HTTP/1.1 200 OK\r\n\r\n", *[b"v" * 60000] * 2000], "the response is over", id="body"),
        pytest.param([b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n", *[b"v" * 60000] * 2000],
                     "the response is over", id="long-body"),
        pytest.param([b"HTTP/1.1 500 No\r\n\r\n", *[b"v" * 60000] * 2000], "the response is over", id="error"),
        pytest.param([b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nabc"],
                     "switches protocols", id="upgrade"),
        pytest.param([b"RTSP/1.0 200 OK\r\n\r\n"], "another protocol", id="rtsp"),
        pytest.param([b"HTTP/2.0 200 OK\r\n\r\n"], "another protocol", id="http2"),
        pytest.param([b"\x16\x03\x01\x00"], "another protocol", id="tls"),
    ],
)  # fmt: skip
def test_what_goes_on_without_end_or_is_no_http_is_refused(
    parts: list[bytes], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http1, "MAX_BODY_BYTES", 1 << 20)
    failure = asyncio.run(_ask(parts, lambda head, at_s, data: None))
    assert isinstance(failure, RequestFailure)
    assert (failure.kind, words in failure.message) == ("protocol", True), failure.message


def test_a_stream_is_bounded_by_its_events_and_not_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "MAX_BODY_BYTES", 1 << 16)
    seen = 0

    def count(head: Head, at_s: float, data: bytes) -> None:
        nonlocal seen
        seen += len(data)

    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    found = asyncio.run(_ask([head, *[b"data: " + b"v" * 1000 + b"\n\n"] * 200], count))
    assert isinstance(found, Head)
    assert seen == 200 * 1008


@pytest.mark.parametrize(
    "raw",
    [b"[" * 100_000, b"1" * 5000, b"\xff\xfe{}", b'{"a":' * 50_000, b"null"],
    ids=["nested", "int", "utf16", "objects", "null"],
)
def test_an_event_that_is_no_json_object_is_a_failure_of_the_protocol(raw: bytes) -> None:
    from trtclient.apis.generate import parse_object

    with pytest.raises(RequestFailure) as caught:
        parse_object(raw)
    assert caught.value.kind == "protocol"
    assert json.dumps(caught.value.message)
