"""The thread that all connections of a process live in: its event loop, what wakes it, and its clock."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import resource
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from trtbuild_http.connection import Connection
from trtbuild_http.errors import ApiError
from trtbuild_http.exchange import Exchange, Form, HttpRequest
from trtbuild_http.framing import Head
from trtbuild_http.limits import Limits
from trtbuild_http.optional import uvloop

_OTHER_FILES = 256
"""File descriptors that this process needs for other things than connections."""
_STOP_S = 2.0
_LOOK_S = 0.02


class Application(Protocol):
    """Decides what is answered; see :class:`trtbuild_http.host.Host`."""

    def screen(self, head: Head, *, is_internal: bool) -> ApiError | None:
        """Return why a request is refused before its body is read."""

    def prepare(self, request: HttpRequest, form: Form) -> None:
        """Add the headers that every answer to this request has."""

    def handle(self, exchange: Exchange, *, is_internal: bool) -> None:
        """Answer a request, now or later. Never raises."""


class Server:
    """Serves connections in a thread of its own."""

    def __init__(self, limits: Limits, application: Application, log: Callable[[str], None]) -> None:
        self.limits = limits
        self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop() if uvloop else asyncio.new_event_loop()
        self.held_bytes = 0
        self.waiting: dict[Connection, None] = {}
        self.screen = application.screen
        self.prepare = application.prepare
        self.handle = application.handle
        self._log = log
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most_connections = min(limits.max_connections, max(files - _OTHER_FILES, files // 2))
        self._connections: set[Connection] = set()
        self._external = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._unflushed: collections.deque[Connection] = collections.deque()
        self._is_woken = False
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def call(self, function: Callable[[], None]) -> None:
        """Have ``function`` called in the loop's thread. Thread-safe; nothing happens once the server has stopped."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(function)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` in the loop. For the loop's thread."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    async def listen(self, listening: Any, *, is_internal: bool) -> asyncio.AbstractServer:
        """Serve what connects to a listening socket."""

        def make() -> Connection:
            return Connection(self, is_internal=is_internal)

        if is_internal:
            return await self.loop.create_unix_server(make, sock=listening)
        return await self.loop.create_server(make, sock=listening)

    def end_keep_alive(self) -> None:
        """Close each busy connection after its running answer. For the loop's thread."""
        for connection in self._connections:
            connection.end_keep_alive()

    def stop(self, last: Callable[[], None], grace_s: float) -> None:
        """Call ``last`` in the loop's thread, let what runs finish, end the rest, and wait for the thread."""
        if not self._thread.is_alive():
            return
        asyncio.run_coroutine_threadsafe(self._end(last, grace_s), self.loop)
        self._thread.join(grace_s + 2 * _STOP_S)

    # What connections call.

    def add(self, connection: Connection) -> bool:
        """Take a connection in; False if there are too many."""
        self._connections.add(connection)
        if connection.is_internal:
            return True
        self._external += 1
        if self._external > self._most_connections:
            longest = next(iter(self.waiting))
            if longest is connection:
                return False  # all others are being answered
            longest.close()
        return True

    def remove(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        self.waiting.pop(connection, None)
        self._external -= not connection.is_internal

    def post(self, connection: Connection) -> None:
        """Have a connection's bytes written soon, with those of all others that come meanwhile. Thread-safe."""
        self._unflushed.append(connection)
        if not self._is_woken:
            self._is_woken = True
            self.call(self._flush)

    def _flush(self) -> None:
        self._is_woken = False  # before the queue is emptied: what comes after that wakes the loop again
        while self._unflushed:
            self._unflushed.popleft().flush()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.set_exception_handler(self._on_fault)
        self.loop.call_later(self.limits.sweep_s, self._sweep)
        try:
            self.loop.run_forever()
        finally:
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()

    def _sweep(self) -> None:
        self.loop.call_later(self.limits.sweep_s, self._sweep)
        now = self.loop.time()
        for connection in tuple(self._connections):
            connection.sweep(now)

    def _on_fault(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Note what a connection raised; the loop has closed it."""
        self._log(f"a connection failed, please report this: {context.get('exception') or context['message']!r}")

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log(f"a task of the endpoint failed, please report this: {error!r}")

    async def _end(self, last: Callable[[], None], grace_s: float) -> None:
        try:
            last()
            self.end_keep_alive()
            end = self.loop.time() + grace_s
            while self.loop.time() < end and any(each.is_busy for each in self._connections):
                await asyncio.sleep(_LOOK_S)
            error = ApiError(503, "the server is stopping", code="stopping", retry_after_s=5)
            for connection in tuple(self._connections):
                try:
                    connection.stop(error)
                except Exception as fault:  # noqa: BLE001 - a model's callback fails; the others are ended all the same
                    self._log(f"a request could not be ended in order, please report this: {fault!r}")
            for task in tuple(self._tasks):
                task.cancel()
            end = self.loop.time() + _STOP_S
            while self._connections and self.loop.time() < end:
                await asyncio.sleep(_LOOK_S)
            for connection in tuple(self._connections):
                connection.abort()
            await asyncio.sleep(0)
        finally:
            self.loop.stop()
