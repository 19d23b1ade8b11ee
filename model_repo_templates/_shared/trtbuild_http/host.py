"""What a connection needs of the server that it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio

    from trtbuild_http.connection import Connection
    from trtbuild_http.errors import ApiError
    from trtbuild_http.exchange import Exchange, Form, HttpRequest
    from trtbuild_http.framing import Head
    from trtbuild_http.limits import Limits


class Host(Protocol):
    """The server as its connections see it."""

    limits: Limits
    loop: asyncio.AbstractEventLoop
    held_bytes: int
    """Of requests, over all connections."""
    waiting: dict[Connection, None]
    """Connections without a running request, the longest first; one of them is closed where there are too many."""

    def add(self, connection: Connection) -> bool:
        """Take a connection in; False if there are too many."""

    def remove(self, connection: Connection) -> None:
        """Forget a connection."""

    def screen(self, head: Head, *, is_internal: bool) -> ApiError | None:
        """Return why a request is refused before its body is read."""

    def prepare(self, request: HttpRequest, form: Form) -> None:
        """Add the headers that every answer to this request has."""

    def handle(self, exchange: Exchange, *, is_internal: bool) -> None:
        """Answer a request, now or later. Never raises."""

    def post(self, connection: Connection) -> None:
        """Have :meth:`Connection.flush` called soon. Thread-safe."""
