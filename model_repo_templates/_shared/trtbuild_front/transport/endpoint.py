"""Where the server that runs this model listens for gRPC.

It decides the address from, in this order: the model's own parameter, the environment, the server's command line. A
Python model is a child process of the server, so the command line is its parent's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

ENVIRONMENT_NAME = "TRTBUILD_GRPC_ENDPOINT"
DEFAULT_PORT = 8001
_EVERY_ADDRESS = {"", "0.0.0.0", "::", "[::]"}  # noqa: S104 - compared, not bound
_HINT = (
    f"set the front model's parameter grpc_endpoint, or {ENVIRONMENT_NAME}, to HOST:PORT of this server's plain gRPC"
)


def _options(arguments: Sequence[str]) -> dict[str, str]:
    """Return ``--name=value`` and ``--name value`` options; the last one wins, as in the server."""
    options: dict[str, str] = {}
    for position, argument in enumerate(arguments):
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            if not equals and position + 1 < len(arguments) and not arguments[position + 1].startswith("--"):
                value = arguments[position + 1]
            options[name] = value
    return options


def _parse(text: str, origin: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit():
        raise ValueError(f"{origin}: expected HOST:PORT, got {text!r}")
    return host.strip("[]") or "127.0.0.1", int(port)


def find_endpoint(parameter: str, environment: Mapping[str, str], server_arguments: Sequence[str]) -> tuple[str, int]:
    """Return host and port of the server's gRPC endpoint.

    Args:
        parameter: The model's parameter ``grpc_endpoint``; empty when it is not set.
        environment: Environment variables.
        server_arguments: Command line of the server process.

    Raises:
        ValueError: The server offers no gRPC that this model can use; says what to set.
    """
    if parameter:
        return _parse(parameter, "parameter grpc_endpoint")
    if environment.get(ENVIRONMENT_NAME):
        return _parse(environment[ENVIRONMENT_NAME], ENVIRONMENT_NAME)
    options = _options(server_arguments)
    if options.get("allow-grpc", "true").lower() in {"0", "false"}:
        raise ValueError(f"the server runs with --allow-grpc=false, and the engine model is called by gRPC: {_HINT}")
    if options.get("grpc-use-ssl", "false").lower() in {"1", "true", ""} and "grpc-use-ssl" in options:
        raise ValueError(f"the server's gRPC speaks TLS only: {_HINT}")
    host = options.get("grpc-address", "")
    return "127.0.0.1" if host in _EVERY_ADDRESS else host.strip("[]"), int(options.get("grpc-port") or DEFAULT_PORT)


def server_arguments() -> list[str]:
    """Return the command line of the server: this process is its child."""
    try:
        raw = Path(f"/proc/{os.getppid()}/cmdline").read_bytes()
    except OSError:
        return []
    return raw.decode(errors="replace").split("\0")
