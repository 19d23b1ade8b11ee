"""Messages between the Triton model and its engine process: a 4-byte length and JSON, over one stream socket.

It decides framing only. Both sides import this file from the directory they live in.

Model to engine: ``{"submit": {...}}``, ``{"cancel": id}``. Engine to model: ``{"ready": {...}}`` once, then one message
per engine step with everything that happened in it (``{"step": [...], "stats": {...}}``), or ``{"fatal": "..."}``.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("<I")
_CHUNK = 1 << 18


def encode(message: dict[str, Any]) -> bytes:
    """Return ``message`` as bytes for the socket."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return _LENGTH.pack(len(body)) + body


class Reader:
    """Turns what arrives on a socket into messages."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray()

    def read(self) -> list[dict[str, Any]] | None:
        """Return the messages that one read completes, maybe none; None at the end of the stream."""
        try:
            chunk = self._connection.recv(_CHUNK)
        except (ConnectionError, InterruptedError):
            return None
        if not chunk:
            return None
        self._buffer += chunk
        messages: list[dict[str, Any]] = []
        while len(self._buffer) >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._buffer)
            if len(self._buffer) < _LENGTH.size + size:
                break
            messages.append(json.loads(bytes(self._buffer[_LENGTH.size : _LENGTH.size + size])))
            del self._buffer[: _LENGTH.size + size]
        return messages
