"""Which of a server's model processes has the TCP port: the one that holds a lock, which its end gives free.

The kernel frees the lock however the process ends, so nothing is left to clean up; the next one binds the port.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from trtbuild_http import sockets

_POLL_S = 0.1
"""How often a process that does not have the port asks for it."""
_QUIET_S = 1.0
"""An ended owner's socket may close a moment after its lock is free; only what lasts longer is worth a line."""
_REPEAT_S = 60.0

Serve = Callable[[socket.socket], Awaitable[asyncio.AbstractServer]]


class PortOwner:
    """Waits for the lock, then binds the port and keeps it. Belongs to the loop's thread."""

    def __init__(self, host: str, port: int, directory: str, serve: Serve, log: Callable[[str], None]) -> None:
        self._host, self._port = host, port
        self._lock_path = Path(directory) / "owner.lock"
        self._serve = serve
        self._log = log
        self._lock = -1
        self._servers: list[asyncio.AbstractServer] = []
        self._reported: tuple[str, float] = ("", 0.0)
        self.address: tuple[str, int] | None = None
        """What is bound; None while it is not."""

    async def run(self) -> None:
        """Return when the port is bound."""
        loop = asyncio.get_running_loop()
        since = 0.0
        while True:
            if self._lock >= 0 or self._take_lock():
                since = since or loop.time()
                try:
                    await self._bind()
                    return
                except OSError as error:
                    if loop.time() - since > _QUIET_S:
                        self._report(error, loop.time())
            await asyncio.sleep(_POLL_S)

    def release(self) -> None:
        """Close the port, then free the lock, so that another process may bind at once."""
        for server in self._servers:
            server.close()
        self._servers = []
        self.address = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _take_lock(self) -> bool:
        try:
            file = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self._report(error, asyncio.get_running_loop().time())
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            return False
        self._lock = file
        return True

    async def _bind(self) -> None:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        made: list[socket.socket] = []
        try:
            for family, kind, protocol, _, address in dict.fromkeys(found):
                made.append(sockets.listen(family, kind, protocol, address))
        except OSError:
            for each in made:
                each.close()
            raise
        for each in made:
            self._servers.append(await self._serve(each))
        name = made[0].getsockname()
        self.address = name[0], name[1]
        self._log(f"listening at http://{_printable(self._host)}:{name[1]}")

    def _report(self, error: OSError, now: float) -> None:
        text, reported_at = self._reported
        if str(error) == text and now - reported_at < _REPEAT_S:
            return
        self._reported = str(error), now
        where = f"{_printable(self._host)}:{self._port}"
        if error.errno == errno.EADDRINUSE:
            self._log(
                f"port {where} is taken by another process, so this server's OpenAI endpoint cannot be reached; it is "
                f"tried again all the time. End the other process, or pass another --openai-port"
            )
        else:
            self._log(
                f"{where} cannot be bound, and is tried again all the time: {error}. "
                f"Check --openai-host and --openai-port"
            )


def _printable(host: str) -> str:
    return f"[{host}]" if ":" in host else host
