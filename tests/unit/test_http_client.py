"""The bounded HTTP client against servers that answer well, badly, slowly and without end."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import pytest

from trtbuild import http_client
from trtbuild.http_client import BadStatusError, get, post_json

Parts = Iterable[bytes | float]
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Return a function that starts a server: each connection gets the next script of bytes and pauses in seconds."""
    started: list[tuple[socket.socket, threading.Thread]] = []
    done = threading.Event()

    def start(*scripts: Parts) -> str:
        listener = socket.create_server(("127.0.0.1", 0))

        def run() -> None:
            for script in scripts:
                with contextlib.suppress(OSError):
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(65536)
                        for part in script:
                            if done.is_set():
                                return
                            if isinstance(part, bytes):
                                connection.sendall(part)
                            else:
                                done.wait(part)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        started.append((listener, thread))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    done.set()
    for listener, thread in started:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([OK + b"Content-Length: 5\r\n\r\nhel", 0.01, b"lo"], id="length"),
        pytest.param([OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"], id="chunked"),
        pytest.param([OK + b"\r\nhello"], id="until-closed"),
    ],
)
def test_a_whole_answer(parts: Parts, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert get(serve(parts), timeout_s=30) == b"hello"


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        pytest.param([OK + b"Content-Length: 50\r\n\r\nhel"], "47 bytes early", id="short"),
        pytest.param([OK + b"Transfer-Encoding: chunked\r\n\r\n9\r\nhel"], "no HTTP response", id="short-chunk"),
        pytest.param([OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"], "no HTTP response", id="no-chunk"),
        pytest.param([b"SSH-2.0-OpenSSH\r\n"], "no HTTP response", id="no-http"),
        pytest.param([b""], "closed connection without response", id="nothing"),
        pytest.param([OK + b"X: " + b"v" * 70_000 + b"\r\n\r\n"], "no HTTP response", id="long-header"),
        pytest.param([OK + b"X: v\r\n" * 200 + b"\r\n"], "no HTTP response", id="many-headers"),
        pytest.param([OK + b"Content-Length: 5000\r\n\r\n" + b"v" * 5000], "over 1000 bytes", id="large"),
        pytest.param([OK + b"\r\n", *[b"v" * 100] * 50], "over 1000 bytes", id="large-without-length"),
    ],
)
def test_what_is_no_whole_answer_is_an_os_error(
    parts: Parts, words: str, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_client, "MAX_BODY_BYTES", 1000)
    with pytest.raises(OSError, match=words):
        get(serve(parts), timeout_s=30)


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([60.0], id="silent"),
        pytest.param([b"H", 0.1, b"T", *[0.1] * 600], id="head-in-drops"),
        pytest.param([OK, *[b"X: v\r\n", 0.1] * 600], id="headers-in-drops"),
        pytest.param([OK + b"\r\n", *[b"v", 0.1] * 600], id="body-in-drops"),
        pytest.param([OK + b"Content-Length: 9999\r\n\r\n", *[b"v", 0.1] * 600], id="long-body-in-drops"),
    ],
)
def test_drops_do_not_extend_the_time_limit(parts: Parts, serve: Callable[..., str]) -> None:
    """The scripts go on for a minute; without a limit on the whole, each drop would begin the time-out again."""
    url, started = serve(parts), time.monotonic()
    with pytest.raises(TimeoutError):
        get(url, timeout_s=0.5)
    assert time.monotonic() - started < 30


def test_a_stream_comes_in_pieces_and_may_be_limited_in_all(serve: Callable[..., str]) -> None:
    script = [OK + b"Transfer-Encoding: chunked\r\n\r\n", *[b"1\r\nv\r\n", 0.1] * 600]
    pieces = post_json(serve(script), b"{}", timeout_s=30)
    assert next(pieces) == b"v"
    assert next(pieces) == b"v"
    pieces.close()  # type: ignore[attr-defined]
    with pytest.raises(TimeoutError, match=r"no whole response in 0\.5 s"):
        list(post_json(serve(script), b"{}", timeout_s=30, total_s=0.5))


def test_another_status_has_its_number_and_the_beginning_of_its_body(serve: Callable[..., str]) -> None:
    script = [b"HTTP/1.1 400 Bad Request\r\nContent-Length: 99999999\r\n\r\n" + b"v" * 100_000]
    with pytest.raises(BadStatusError, match="HTTP 400 Bad Request") as caught:
        get(serve(script), timeout_s=30)
    assert (caught.value.status, caught.value.body) == (400, b"v" * http_client.MAX_ERROR_BYTES)


def test_a_get_follows_a_few_redirects(serve: Callable[..., str]) -> None:
    there = serve([OK + b"Content-Length: 2\r\n\r\nhi"])
    away = f"HTTP/1.1 302 Found\r\nLocation: {there}/x\r\nContent-Length: 0\r\n\r\n".encode()
    assert get(serve([away]), timeout_s=30) == b"hi"
    circle = [b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n"]
    with pytest.raises(BadStatusError, match="302"):
        get(serve(*[circle] * 10), timeout_s=30)
    with pytest.raises(OSError, match="expected an http:// or https:// URL"):
        get(serve([b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n"]), timeout_s=30)


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "127.0.0.1:9", "http://", "http://h:port", "http://[::1", "ftp://h/x", "http://" + "a" * 80,
     "http://127.0.0.1:9/a b", "http://127.0.0.1:9/\r\nX: y"],
)  # fmt: skip
def test_what_is_no_url_is_an_os_error(url: str) -> None:
    with pytest.raises(OSError):
        get(url, timeout_s=5)


def test_a_refused_connection_is_distinguished_from_no_answer() -> None:
    with pytest.raises(ConnectionRefusedError):
        get("http://127.0.0.1:9", timeout_s=5)


def test_a_probe_imports_no_pool_and_no_proxy_code() -> None:
    import subprocess
    import sys

    code = "import sys, trtbuild.serve.health; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert "trtbuild.http_client" in loaded
    assert not loaded & {"urllib3", "urllib.request", "requests", "asyncio"}
