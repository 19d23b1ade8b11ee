"""A small HTTP server with scripted answers, for what a real model server cannot be made to do on demand."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass
class Ask:
    """One request, and how to answer it."""

    number: int
    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def start(self) -> None:
        self.writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        await self.writer.drain()

    async def event(self, values: dict[str, Any] | str) -> None:
        data = values if isinstance(values, str) else json.dumps(values)
        raw = f"data: {data}\n\n".encode()
        self.writer.write(b"%x\r\n%s\r\n" % (len(raw), raw))
        await self.writer.drain()

    async def end(self) -> None:
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    async def stream(self, *texts: str) -> None:
        """Answer as the front model does."""
        await self.start()
        for text in texts:
            await self.event({"text_output": text, "finish_reason": ""})
        counts = {"prompt_tokens": 3, "completion_tokens": len(texts)}
        await self.event({"text_output": "", "finish_reason": "length", **counts})
        await self.end()

    async def reply(self, status: int, values: dict[str, Any], headers: str = "") -> None:
        raw = json.dumps(values).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n{headers}\r\n"
        self.writer.write(head.encode() + raw)
        await self.writer.drain()

    async def gone(self) -> None:
        """Return when the client has closed the connection."""
        while await self.reader.read(1024):
            pass


@dataclass
class StandIn:
    """The server, in a thread of its own: ``with StandIn(answer) as server: server.url``."""

    answer: Callable[[Ask], Awaitable[None]]
    asks: list[Ask] = field(default_factory=list)
    open: int = 0
    peak: int = 0
    cancelled: int = 0
    url: str = ""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(30)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _run(self, started: threading.Event) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._main(started))

    async def _main(self, started: threading.Event) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=4096)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.set()
        await self._stop.wait()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        ask = Ask(len(self.asks), head[0].split()[1], json.loads(raw or b"{}"), headers, reader, writer)
        self.asks.append(ask)
        self.open += 1
        self.peak = max(self.peak, self.open)
        try:
            await self.answer(ask)
        except ConnectionError:
            self.cancelled += 1
        finally:
            self.open -= 1
            writer.close()
