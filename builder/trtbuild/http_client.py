"""One HTTP request, one bounded response: what probes and readings of this machine and of Prometheus need.

Never through a proxy, never on and on: every read, the whole exchange and its size have a limit. Every way to fail is
an ``OSError``. Downloads, which need proxies, ranges and pools, have their own client in ``fetch``.

The standard library's ``http.client``, and not urllib3 as for downloads: a pod's probes are processes that start every
few seconds, and importing it costs 44 ms of processor time, urllib.request 53 ms, urllib3 97 ms (Python alone: 11 ms).
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator, Mapping
from urllib.parse import urljoin, urlsplit

MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
MAX_REDIRECTS = 3
_PIECE_BYTES = 64 * 1024
_MOVED = {301, 302, 303, 307, 308}


class BadStatusError(OSError):
    """The server answered with another status than 200.

    Attributes:
        status: Its number.
        body: The beginning of what it said.
        location: Where it points to, or nothing.
    """

    def __init__(self, status: int, reason: str, body: bytes, location: str = "") -> None:
        super().__init__(f"HTTP {status} {reason}".rstrip())
        self.status = status
        self.body = body
        self.location = location


def get(url: str, *, timeout_s: float) -> bytes:
    """Return the body of the response to a GET of ``url``, within ``timeout_s`` in all.

    Raises:
        BadStatusError: The response is no 200, after at most :data:`MAX_REDIRECTS` redirects.
        OSError: There is no response, or none that is HTTP, in time and within :data:`MAX_BODY_BYTES`.
    """
    for _ in range(MAX_REDIRECTS):
        try:
            return b"".join(_exchange("GET", url, timeout_s=timeout_s, total_s=timeout_s, limit=MAX_BODY_BYTES))
        except BadStatusError as error:
            if error.status not in _MOVED or not error.location:
                raise
            url = urljoin(url, error.location)
    return b"".join(_exchange("GET", url, timeout_s=timeout_s, total_s=timeout_s, limit=MAX_BODY_BYTES))


def post_json(url: str, body: bytes, *, timeout_s: float, total_s: float | None = None) -> Iterator[bytes]:
    """Send a JSON document and yield the pieces of the response's body as they come.

    Args:
        url: Where to.
        body: The document.
        timeout_s: Longest wait for the next piece.
        total_s: Longest time for all of it, or None for a stream that may go on.

    Raises:
        BadStatusError: The response is no 200.
        OSError: There is no response, or none that is HTTP, in time.
    """
    headers = {"Content-Type": "application/json"}
    yield from _exchange("POST", url, body=body, headers=headers, timeout_s=timeout_s, total_s=total_s)


def _exchange(
    method: str,
    url: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float,
    total_s: float | None,
    limit: int | None = None,
) -> Iterator[bytes]:
    """Yield the pieces of a 200's body; whatever goes wrong is an ``OSError``."""
    connection, target = _connection(url, timeout_s)
    is_late = threading.Event()
    try:
        connection.connect()
        with _deadline(connection.sock, total_s, is_late):
            connection.request(method, target, body=body, headers={"Connection": "close", **(headers or {})})
            with connection.getresponse() as response:
                if response.status != http.HTTPStatus.OK:
                    said, location = response.read(MAX_ERROR_BYTES), response.headers.get("Location", "")
                    raise BadStatusError(response.status, response.reason, said, location)
                yield from _body(response, limit)
            if is_late.is_set():
                raise ConnectionError("the connection was cut")
    except (OSError, http.client.HTTPException, ValueError) as error:
        if is_late.is_set():
            raise TimeoutError(f"no whole response in {total_s:g} s") from error
        if isinstance(error, OSError):
            raise
        raise ConnectionError(f"no HTTP response: {type(error).__name__}: {error}") from error
    finally:
        connection.close()


def _body(response: http.client.HTTPResponse, limit: int | None) -> Iterator[bytes]:
    size = 0
    while piece := response.read1(_PIECE_BYTES):
        size += len(piece)
        if limit is not None and size > limit:
            raise OSError(f"the response is over {limit} bytes")
        yield piece
    if response.length:  # read1 takes an early end for the end; None: the length was not said
        raise ConnectionError(f"the response ended {response.length} bytes early")


def _connection(url: str, timeout_s: float) -> tuple[http.client.HTTPConnection, str]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConnectionError(f"expected an http:// or https:// URL, got {url!r}: {error}") from error
    if parts.scheme not in {"http", "https"} or not host:
        raise ConnectionError(f"expected an http:// or https:// URL, got {url!r}")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(host, port, timeout=timeout_s), f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"


@contextlib.contextmanager
def _deadline(connected: socket.socket, total_s: float | None, is_late: threading.Event) -> Iterator[None]:
    """Cut the connection after ``total_s``: a time-out of the socket begins again with every byte."""

    def cut() -> None:
        is_late.set()
        with contextlib.suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)

    if total_s is None:
        yield
        return
    timer = threading.Timer(total_s, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
