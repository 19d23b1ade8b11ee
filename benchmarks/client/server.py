"""A server that streams as Triton's generate endpoint does, for almost nothing: it must not be what is measured.

Prints its port. Each answer has TOKENS events, one every GAP_S seconds: ``server.py TOKENS GAP_S``.
"""

from __future__ import annotations

import asyncio
import sys

TOKENS, GAP_S = int(sys.argv[1]), float(sys.argv[2])
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(text: str) -> bytes:
    raw = f"data: {text}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(raw), raw)


NAME = '"model_name":"m","model_version":"1"'
PIECE = chunk('{"finish_reason":"",' + NAME + ',"text_output":" word"}')
LAST = chunk(f'{{"completion_tokens":{TOKENS},"finish_reason":"length",{NAME},"prompt_tokens":9,"text_output":"."}}')


class Answer(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.left, self.is_kept = transport, 0, False

    def data_received(self, data: bytes) -> None:
        if self.left == 0 and b"\r\n\r\n" in data:
            self.is_kept = b"Connection: close" not in data
            self.left = TOKENS
            self.transport.write(HEAD)
            self.step()

    def step(self) -> None:
        if self.transport.is_closing():
            return
        self.left -= 1
        if self.left:
            self.transport.write(PIECE)
            asyncio.get_running_loop().call_later(GAP_S, self.step)
            return
        self.transport.write(LAST + b"0\r\n\r\n")
        if not self.is_kept:
            self.transport.close()


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Answer, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
