"""The same streams through a general HTTP client: ``peers.py aiohttp URL STREAMS SECONDS`` prints the tokens it read.

As ``trtclient load`` does it: a connection per request, the arrival of every token stamped, each event's JSON parsed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import AsyncIterator

BODY = {"stream": True, "text_input": "hello"}


async def aiohttp_lines(url: str) -> AsyncIterator[AsyncIterator[bytes]]:
    import aiohttp

    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        while True:
            async with session.post(url, json=BODY) as answer:
                assert answer.status == 200
                yield answer.content


async def httpx_lines(url: str) -> AsyncIterator[AsyncIterator[bytes]]:
    import httpx

    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(limits=limits, timeout=60) as session:
        while True:
            async with session.stream("POST", url, json=BODY) as answer:
                assert answer.status_code == 200
                yield (line.encode() async for line in answer.aiter_lines())


async def main(name: str, url: str, streams: int, seconds: float) -> int:
    """Return the tokens that ``streams`` users read, each sending its next request when the last one has ended."""
    clients = {"aiohttp": aiohttp_lines, "httpx": httpx_lines}
    ends = time.monotonic() + seconds
    tokens = itertools.count()

    async def user() -> None:
        async for lines in clients[name](url):
            arrivals = []
            async for line in lines:
                if line.startswith(b"data:"):
                    arrivals.append(time.monotonic())
                    assert "text_output" in json.loads(line[5:])
                    next(tokens)
            if time.monotonic() >= ends:
                return

    await asyncio.gather(*(user() for _ in range(streams)))
    return next(tokens)


if __name__ == "__main__":
    print(asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))))
