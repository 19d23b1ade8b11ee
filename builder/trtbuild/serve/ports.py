"""Choose the ports of a server, before anything is built or started for it."""

from __future__ import annotations

import contextlib
import random
import socket
from dataclasses import dataclass

from trtbuild.errors import LaunchError, SpecError
from trtbuild.spec import ServerSpec

_OPTIONS = ("http_port", "grpc_port", "metrics_port", "openai_port")

OPENAI_PORT = 8080
"""The OpenAI port where none is asked for."""

_CHOSEN = range(10_240, 32_768)
"""Ports that 0 stands for. The server binds its port seconds after it was chosen, and the system would choose one that
it may give to any outgoing connection meanwhile. Source: Linux, ip-sysctl, ip_local_port_range: 32768 to 60999."""

_TRIES = 64


@dataclass(frozen=True, kw_only=True)
class Ports:
    """The ports of a server, all chosen.

    Attributes:
        http: Triton's HTTP port.
        grpc: Triton's gRPC port.
        metrics: Triton's metrics port.
        openai: The front models' OpenAI port; None: off.
    """

    http: int
    grpc: int
    metrics: int
    openai: int | None = None


def is_openai_on(spec: ServerSpec) -> bool:
    """Return whether a server has an OpenAI port."""
    return spec.openai_port != 0


def asked_ports(spec: ServerSpec) -> Ports:
    """Return the ports that were asked for, 0 where one is to be chosen."""
    openai = spec.openai_port
    if openai is None:  # who lets Triton's port be chosen wants no fixed ones
        openai = OPENAI_PORT if spec.http_port else 0
    elif not openai:
        openai = None
    return Ports(http=spec.http_port, grpc=spec.grpc_port, metrics=spec.metrics_port, openai=openai)


def refuse_equal_ports(server: ServerSpec) -> None:
    """Refuse one port for two services, before anything is built: the server says so below pages of its own usage.

    Raises:
        SpecError: Two ports are the same (0 is a different one each time).
    """
    seen: dict[int, str] = {}
    asked = asked_ports(server)
    for name, port in zip(_OPTIONS, (asked.http, asked.grpc, asked.metrics, asked.openai or 0), strict=True):
        flag = f"--{name.replace('_', '-')}"
        if port and port in seen:
            raise SpecError(f"{flag}: {port} is {seen[port]}, too", hint=f"pass another {flag} ({_zero(name)})")
        seen[port] = flag


def choose_ports(spec: ServerSpec) -> Ports:
    """Return the ports asked for, with 0 replaced by a free one, after checking that they can be listened on.

    Raises:
        LaunchError: A port is taken.
    """
    asked = asked_ports(spec)
    with contextlib.ExitStack() as held:
        http, grpc, metrics = (
            _hold(held, spec.host, wanted, name)
            for name, wanted in zip(_OPTIONS, (asked.http, asked.grpc, asked.metrics), strict=False)
        )
        openai = None
        if asked.openai is not None:
            openai = _hold(held, spec.openai_host or spec.host, asked.openai, "openai_port")
    return Ports(http=http, grpc=grpc, metrics=metrics, openai=openai)


def _hold(held: contextlib.ExitStack, host: str, wanted: int, name: str) -> int:
    """Bind a port until ``held`` ends, so that no other of the same server is given it; return it.

    Raises:
        LaunchError: It cannot be listened on.
    """
    sock = held.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM))
    try:
        if wanted:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, wanted))
        else:
            _bind_free(sock, host)
    except OSError as error:
        raise LaunchError(
            f"cannot listen on {host}:{wanted} ({name}): {error.strerror}",
            hint=f"stop what listens there, or pass another --{name.replace('_', '-')} ({_zero(name)})",
        ) from None
    number: int = sock.getsockname()[1]
    return number


def _zero(name: str) -> str:
    """Return what 0 means for a port's option."""
    return "0 turns it off" if name == "openai_port" else "0 chooses a free one"


def _bind_free(sock: socket.socket, host: str) -> None:
    """Bind an unused port; without SO_REUSEADDR, which shares a port with another that only bound it."""
    for port in random.sample(_CHOSEN, _TRIES):
        try:
            sock.bind((host, port))
        except OSError:
            continue
        return
    sock.bind((host, 0))
