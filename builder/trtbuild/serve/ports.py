"""Choose the ports of a server, before anything is built or started for it."""

from __future__ import annotations

import random
import socket
from dataclasses import dataclass

from trtbuild.errors import LaunchError, SpecError
from trtbuild.spec import ServerSpec

_OPTIONS = ("http_port", "grpc_port", "metrics_port")

_CHOSEN = range(10_240, 32_768)
"""Ports that 0 stands for. The server binds its port seconds after it was chosen, and the system would choose one that
it may give to any outgoing connection meanwhile. Source: Linux, ip-sysctl, ip_local_port_range: 32768 to 60999."""

_TRIES = 64


@dataclass(frozen=True, kw_only=True)
class Ports:
    """The three ports of a server, all chosen."""

    http: int
    grpc: int
    metrics: int


def refuse_equal_ports(server: ServerSpec) -> None:
    """Refuse one port for two services: the server would say so below four hundred lines of its own usage.

    Raises:
        SpecError: Two ports are the same (0 is a different one each time).
    """
    seen: dict[int, str] = {}
    for name in _OPTIONS:
        port = getattr(server, name)
        flag = f"--{name.replace('_', '-')}"
        if port and port in seen:
            raise SpecError(f"{flag}: {port} is {seen[port]}, too", hint=f"pass another {flag} (0 chooses a free one)")
        seen[port] = flag


def choose_ports(spec: ServerSpec) -> Ports:
    """Return the ports asked for, with 0 replaced by a free one, after checking that they can be listened on.

    Raises:
        LaunchError: A port is taken.
    """
    chosen: list[int] = []
    held: list[socket.socket] = []
    try:
        for name in _OPTIONS:
            wanted = getattr(spec, name)
            sock = socket.socket(socket.AF_INET6 if ":" in spec.host else socket.AF_INET, socket.SOCK_STREAM)
            held.append(sock)
            try:
                if wanted:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    sock.bind((spec.host, wanted))
                else:
                    _bind_free(sock, spec.host)
            except OSError as error:
                raise LaunchError(
                    f"cannot listen on {spec.host}:{wanted} ({name}): {error.strerror}",
                    hint=f"stop what listens there, or pass another --{name.replace('_', '-')} (0 chooses a free one)",
                ) from None
            chosen.append(sock.getsockname()[1])
    finally:
        for sock in held:
            sock.close()
    return Ports(http=chosen[0], grpc=chosen[1], metrics=chosen[2])


def _bind_free(sock: socket.socket, host: str) -> None:
    """Bind an unused port; without SO_REUSEADDR, which shares a port with another that only bound it."""
    for port in random.sample(_CHOSEN, _TRIES):
        try:
            sock.bind((host, port))
        except OSError:
            continue
        return
    sock.bind((host, 0))
