"""The frames of HTTP/2 as bytes: their kinds, flags and settings, and how one is packed and unpadded.

It decides bytes only. Which frame may come when is decided in ``connection.py``.

Source: RFC 9113, sections 4 (frame format), 6 (kinds and flags), 6.5.2 (settings) and 7 (error codes).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from trtbuild_front.faults import ProtocolError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    0, 1, 3, 4, 5, 6, 7, 8, 9,
)  # fmt: skip
ACK, END_STREAM, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
HEADER_TABLE_SIZE, ENABLE_PUSH, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 1, 2, 4, 5
CANCEL = 8
MAX_WINDOW = 2**31 - 1
FRAME_SIZES = range(1 << 14, 1 << 24)
FRAME = struct.Struct(">BHBBI")
"""Length (24 bits), kind, flags, stream: what every frame begins with."""


def pack_frame(kind: int, flags: int, stream: int, payload: bytes | memoryview) -> bytes:
    """Return a frame."""
    size = len(payload)
    return FRAME.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + bytes(payload)


def pack_settings(*settings: tuple[int, int]) -> bytes:
    """Return a SETTINGS frame."""
    return pack_frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *setting) for setting in settings))


def pack_number(kind: int, stream: int, value: int) -> bytes:
    """Return a frame whose payload is one number: WINDOW_UPDATE or RST_STREAM."""
    return pack_frame(kind, 0, stream, struct.pack(">I", value))


@dataclass(slots=True)
class HeaderBlock:
    """A header block that has not arrived whole."""

    stream: int
    ends_stream: bool
    data: bytearray
    frames: int = 1


def read_number(payload: memoryview, kind: str) -> int:
    """Return the one number that is the payload of some frames."""
    if len(payload) != 4:
        raise ProtocolError(f"a {kind} frame of {len(payload)} bytes, expected 4")
    return int.from_bytes(payload, "big")


def unpad(flags: int, payload: memoryview) -> memoryview:
    """Return the payload without its padding."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ProtocolError("a frame whose padding is longer than the frame")
    return payload[1 : len(payload) - payload[0]]
