"""How much one client may send, keep waiting or leave unread before it is refused or cut."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of a server; sizes in bytes, times in seconds.

    Attributes:
        max_header_bytes: Of the request line and all headers of a request.
        max_headers: Headers of a request.
        max_body_bytes: Of one request's body.
        max_bodies_bytes: What all connections together may have sent and not yet got an answer to.
        max_pipelined_bytes: Of requests that wait behind a running one; then no more is read from the connection.
        max_unread_bytes: Of a stream that its client does not read; then the client is cut.
        max_connections: At once; for the next one, the one that has asked for nothing longest is closed.
        header_time_s: From the first byte of a request to the end of its headers.
        body_time_s: From there to the end of its body.
        idle_time_s: How long a connection may stay open between requests.
        unread_time_s: How long a client may read nothing of what waits for it.
        linger_time_s: How long input is thrown away after a refusal, so that the client can read the answer.
        sweep_s: How often these times are looked at, for all connections at once.
    """

    max_header_bytes: int = 32 << 10
    max_headers: int = 100
    max_body_bytes: int = 8 << 20
    max_bodies_bytes: int = 256 << 20
    max_pipelined_bytes: int = 64 << 10
    max_unread_bytes: int = 1 << 20
    max_connections: int = 4096
    header_time_s: float = 10.0
    body_time_s: float = 60.0
    idle_time_s: float = 75.0
    unread_time_s: float = 60.0
    linger_time_s: float = 2.0
    sweep_s: float = 1.0
