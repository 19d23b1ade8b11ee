"""An endpoint with a model that answers as a test wants, and a client that sends bytes as they are."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtbuild_http.gateway import Endpoint, EndpointSettings, Exchange, Limits

CHAT = "/v1/chat/completions"
PATIENCE_S = 20.0
HOST = "127.0.0.1"


class Model:
    """Echoes what it gets; streams as many events as it is asked for."""

    def __init__(self, name: str = "chat", aliases: frozenset[str] = frozenset(), mark: str = "") -> None:
        self.name = name
        self.aliases = aliases
        self.mark = mark
        self.routes: dict[str, Callable[[Exchange, dict[str, Any]], None]] = {CHAT: self.answer}
        self.unready = ""
        self.stuck = ""
        self.exchanges: list[Exchange] = []
        self.gone: list[str] = []
        self.release = threading.Event()

    def describe(self) -> dict[str, Any]:
        return {"id": self.name, "object": "model", "mark": self.mark}

    def metrics(self) -> bytes:
        return f'# HELP tokens Tokens.\n# TYPE tokens counter\ntokens{{model="{self.name}"}} 1\n'.encode()

    def unready_reason(self) -> str:
        return self.unready

    def stuck_reason(self) -> str:
        return self.stuck

    def answer(self, exchange: Exchange, document: dict[str, Any]) -> None:
        self.exchanges.append(exchange)
        exchange.on_gone(lambda: self.gone.append(exchange.request.request_id))
        if "raise" in document:
            raise RuntimeError(document["raise"])
        if "events" in document:
            threading.Thread(target=self._stream, args=(exchange, document), daemon=True).start()
        elif not document.get("never"):
            exchange.respond(200, json.dumps({"from": self.name, "mark": self.mark, "got": document}).encode())

    def _stream(self, exchange: Exchange, document: Mapping[str, Any]) -> None:
        exchange.start_events()
        padding = "x" * document.get("padding", 0)
        for number in range(document["events"]):
            if exchange.is_gone:
                return
            exchange.send_event(json.dumps({"n": number, "pad": padding}).encode())
            if number == document.get("hold_after"):
                self.release.wait(PATIENCE_S)
            time.sleep(document.get("gap_s", 0))
        exchange.send_event(b"[DONE]")
        exchange.end_events()


@dataclass(frozen=True)
class Answer:
    """One answer as it was read."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[str]:
        assert self.headers["content-type"] == "text/event-stream"
        blocks = self.body.decode().split("\n\n")
        assert blocks.pop() == ""
        return [block.removeprefix("data: ") for block in blocks]


class Client:
    """A connection that sends bytes and reads answers; strict, since real clients are."""

    def __init__(self, address: tuple[str, int], timeout_s: float = PATIENCE_S) -> None:
        self.socket = socket.create_connection(address, timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unread = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self, *, is_head: bool = False) -> Answer:
        """Return the next answer; interim ones are skipped."""
        while True:
            lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
            match = re.fullmatch(r"HTTP/1\.1 (\d{3}) [A-Za-z -]+", lines[0])
            assert match, lines[0]
            status = int(match[1])
            headers = dict(line.split(": ", 1) for line in lines[1:-2])
            if status == 100:
                continue
            return Answer(status, headers, self._body(status, headers, is_head))

    def _body(self, status: int, headers: Mapping[str, str], is_head: bool) -> bytes:
        if is_head or status in {204, 304}:
            return b""
        if headers.get("transfer-encoding") == "chunked":
            assert "content-length" not in headers
            body = b""
            while size := int(self._until(b"\r\n"), 16):
                body += self._count(size)
                assert self._count(2) == b"\r\n"
            assert self._count(2) == b"\r\n"
            return body
        if "content-length" in headers:
            return self._count(int(headers["content-length"]))
        assert headers["connection"] == "close"
        return self.rest()

    def rest(self) -> bytes:
        """Return everything up to the end of the connection."""
        data, self._unread = self._unread, b""
        with contextlib.suppress(ConnectionResetError):
            while part := self.socket.recv(1 << 16):
                data += part
        return data

    def is_closed(self) -> bool:
        """Wait for the end of the connection; nothing more may come."""
        return self.rest() == b""

    def _until(self, end: bytes) -> bytes:
        while end not in self._unread:
            self._receive()
        head, _, self._unread = self._unread.partition(end)
        return head + end

    def _count(self, count: int) -> bytes:
        while len(self._unread) < count:
            self._receive()
        data, self._unread = self._unread[:count], self._unread[count:]
        return data

    def _receive(self) -> None:
        part = self.socket.recv(1 << 16)
        if not part:
            raise EOFError(f"the connection ended after {self._unread!r}")
        self._unread += part


class Running:
    """An endpoint that listens."""

    def __init__(
        self,
        *,
        directory: Path,
        model: Model | None = None,
        version: str = "1",
        limits: Limits | None = None,
        port: int = 0,
        is_awaited: bool = True,
        **settings: Any,
    ) -> None:
        directory.chmod(0o700)
        self.model = model or Model()
        self.log: list[str] = []
        given = EndpointSettings(host=HOST, port=port, runtime_dir=str(directory), **settings)
        self.endpoint = Endpoint(
            given, self.model, version, self.log.append, b'{"openapi": "3.1.0"}', model_version=version, limits=limits
        )
        self.endpoint.start()
        if is_awaited:
            wait_until(lambda: self.endpoint.address is not None)

    @property
    def address(self) -> tuple[str, int]:
        assert self.endpoint.address is not None
        return self.endpoint.address

    def connect(self) -> Client:
        return Client(self.address)

    def ask(self, path: str, document: Any = None, *, method: str = "", **headers: str) -> Answer:
        """Send one request on a connection of its own."""
        body = b"" if document is None else json.dumps(document).encode()
        with self.connect() as client:
            client.send(request(method or ("GET" if document is None else "POST"), path, body, **headers))
            return client.read(is_head=method == "HEAD")

    def raw(self, data: bytes) -> Answer:
        """Send bytes and read one answer, after which the connection must be closed."""
        with self.connect() as client:
            client.send(data)
            answer = client.read()
            assert client.is_closed()
            return answer


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """Return a request; underscores in names of headers become hyphens, and None leaves a header out."""
    given = {"host": "test"}
    if body or method == "POST":
        given |= {"content-type": "application/json", "content-length": str(len(body))}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items() if value is not None)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def post(document: Any, **headers: str) -> bytes:
    """Return a request to the chat path."""
    return request("POST", CHAT, json.dumps(document).encode(), **headers)


def wait_until(condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    """Wait for something that must happen soon."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)
