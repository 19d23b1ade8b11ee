#!/usr/bin/env python3
"""Send mangled HTTP requests to the endpoint and stop at the first that it does not answer as it should.

    python -m tools.fuzz_http --count 100000 --seed 1

Wrong is: a status of the 500s other than 503 and 505, an answer that is not HTTP, a connection that stays open after
the client has sent everything, a line in the endpoint's log, or a process that does not answer the next request.
"""

from __future__ import annotations

import argparse
import errno
import random
import re
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "model_repo_templates" / "_shared"))

from trtbuild_http.gateway import Endpoint, EndpointSettings, Exchange

_PATH = "/v1/chat/completions"
_HEAD = f"POST {_PATH} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n".encode()
_CORPUS = (
    b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://a/v1/models?x=%20 HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, x\r\n\r\n",
    b"HEAD / HTTP/1.0\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\nOrigin: https://a\r\nAccess-Control-Request-Method: POST\r\n\r\n",
    _HEAD + b'Content-Length: 15\r\n\r\n{"model": "m" }',
    _HEAD + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
    _HEAD + b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"a":\r\n00a\r\n"\\ud83d"   \r\n1\r\n}\r\n0\r\n\r\n',
    _HEAD + b'Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 7\r\n\r\n{"a":1}',
    _HEAD + b"Authorization: Bearer k\r\nX-Request-Id: 1\r\nCookie: a=b; c=d\r\nContent-Length: 2\r\n\r\n[]",
)
_PIECES = (
    *(b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\0", b" ", b"\t", b":", b";", b",", b"%", b"%00", b"\xff", b"\x7f"),
    *(b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    *(b"ffffffff\r\n", b"HTTP/9.9", b"Host: b\r\n", b"Connection: close\r\n", b"chunked", b"identity", b"A" * 5000),
    *(b'{"a":' * 50, b"NaN", b'"\\ud800"', b"\xc3\x28", b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"),
)
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_CLOSED = {errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN}
"""A request was refused and its connection closed while more of it was sent."""
_PATIENCE_S = 10.0


class Model:
    """Answers at once."""

    name = "m"
    aliases: frozenset[str] = frozenset()

    @property
    def routes(self) -> Mapping[str, Callable[[Exchange, dict[str, Any]], None]]:
        """One path."""
        return {_PATH: lambda exchange, _: exchange.respond(200, b"{}")}

    def describe(self) -> dict[str, Any]:
        """Return as little as possible."""
        return {"id": self.name}

    def metrics(self) -> bytes:
        """Return one series."""
        return b"a 1\n"

    def unready_reason(self) -> str:
        """Return that it is ready."""
        return ""

    def stuck_reason(self) -> str:
        """Return that it works."""
        return ""


def mangle(chance: random.Random) -> bytes:
    """Return one or two requests with some bytes changed, removed, repeated or put in."""
    data = bytearray(chance.choice(_CORPUS))
    if chance.random() < 0.3:
        data += chance.choice(_CORPUS)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.choice((1, 1, 2, 8, 40)))
        match chance.randrange(6):
            case 0:
                data[at:end] = chance.randbytes(end - at)
            case 1:
                del data[at:end]
            case 2:
                data[at:at] = data[at:end]
            case 3:
                data[at:at] = chance.choice(_PIECES)
            case 4:
                data[at:end] = chance.choice(_PIECES)
            case _ if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
    return bytes(data)


def send(address: tuple[str, int], data: bytes, cuts: int, chance: random.Random) -> bytes:
    """Send ``data`` in a few pieces, say that nothing follows, and return everything up to the end.

    Raises:
        TimeoutError: The server keeps the connection open.
    """
    received = b""
    with socket.create_connection(address, timeout=_PATIENCE_S) as client:
        places = sorted(chance.randrange(len(data) + 1) for _ in range(cuts))
        try:
            for start, end in zip([0, *places], [*places, len(data)], strict=True):
                client.sendall(data[start:end])
            client.shutdown(socket.SHUT_WR)
            while part := client.recv(1 << 16):
                received += part
        except OSError as error:
            if error.errno not in _CLOSED:
                raise
    return received


def fault_of(received: bytes) -> str:
    """Return what is wrong with an answer; empty if nothing is."""
    if not received:
        return ""
    match = _STATUS.match(received)
    if match is None:
        return "the answer is not HTTP"
    status = int(match[1])
    return f"status {status}" if status >= 500 and status not in {503, 505} else ""


def fuzz(count: int, seed: int) -> Counter[str]:
    """Send ``count`` mangled requests; return how many got which status.

    Raises:
        RuntimeError: One was not answered as it should; says which.
    """
    chance = random.Random(seed)
    log: list[str] = []
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as directory:
        settings = EndpointSettings(host="127.0.0.1", port=0, runtime_dir=directory)
        endpoint = Endpoint(settings, Model(), "1", log.append, b"{}")
        endpoint.start()
        try:
            while endpoint.address is None:
                time.sleep(0.01)
            log.clear()
            for number in range(count):
                data = mangle(chance)
                try:
                    received = send(endpoint.address, data, chance.choice((0, 0, 1, 3)), chance)
                    fault = fault_of(received)
                except OSError as error:
                    received, fault = b"", repr(error)
                if log or fault:
                    raise RuntimeError(
                        f"request {number} of seed {seed}: {fault} {log}: {data[:999]!r} -> {received[:500]!r}"
                    )
                seen[received[9:12].decode() or "none"] += 1
            if b"200 OK" not in send(endpoint.address, _CORPUS[0], 0, chance):
                raise RuntimeError("a good request is not answered after all these")
        finally:
            endpoint.stop()
    return seen


def main() -> int:
    """Fuzz as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    seen = fuzz(options.count, options.seed)
    print(f"{options.count} mangled requests in {time.monotonic() - began:.0f} s: 0 crashes, 0 hangs")
    print(", ".join(f"{status}: {number}" for status, number in sorted(seen.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
