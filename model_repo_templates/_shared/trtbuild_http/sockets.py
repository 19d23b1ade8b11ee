"""Options of TCP sockets that decide when the kernel gives a connection up, and who may bind a port."""

from __future__ import annotations

import contextlib
import socket
import struct

_RESET = struct.pack("ii", 1, 0)
"""Close by a reset. Source: socket(7), SO_LINGER."""


def listen(family: int, kind: int, protocol: int, address: tuple[object, ...]) -> socket.socket:
    """Return a listening TCP socket; ``::`` means IPv4 too where the kernel can."""
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            with contextlib.suppress(OSError):
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address[0] == "::" else 1)
        made.bind(address)
        made.listen(1024)
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made


def notice_dead_peers(connected: socket.socket, after_s: float) -> None:
    """Have the kernel end a connection whose peer is gone without a word, waiting for it or writing to it.

    Source: tcp(7).
    """
    with contextlib.suppress(OSError):  # of a peer that has gone already
        for level, option, value in (
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
            (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(after_s * 1000)),
        ):
            connected.setsockopt(level, option, value)


def reset_on_close(connected: socket.socket) -> None:
    """Have the kernel throw away what the peer has not read when the socket is closed."""
    with contextlib.suppress(OSError):
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
