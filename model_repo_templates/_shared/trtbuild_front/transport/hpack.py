"""The header blocks of HTTP/2 as a gRPC client needs them: written as literals, read without a dynamic table.

It decides bytes only. The peer is told to keep no dynamic table (``SETTINGS_HEADER_TABLE_SIZE`` 0), so a block stands
for itself, and one that refers to such a table is a fault of the peer.

Source: RFC 7541 (header compression); gRPC over HTTP2 (``grpc-message`` is percent-encoded UTF-8).
"""

from __future__ import annotations

import urllib.parse

from trtbuild_front.faults import ProtocolError
from trtbuild_front.transport import huffman

_STATIC_ENTRIES = 61
_MOST_INTEGER = 2**31 - 1
_STATUS_NAME = 8
"""First static entry whose name is ``:status``; the one for 200."""
_STATUSES = {8: "200", 9: "204", 10: "206", 11: "304", 12: "400", 13: "404", 14: "500"}


def _integer(data: bytes, at: int, bits: int) -> tuple[int, int]:
    """Return an integer with a prefix of ``bits`` bits and the position after it."""
    top = (1 << bits) - 1
    value = data[at] & top
    at += 1
    if value < top:
        return value, at
    shift = 0
    while True:
        octet = data[at]
        at += 1
        value += (octet & 0x7F) << shift
        shift += 7
        if value > _MOST_INTEGER or shift > 35:
            raise ProtocolError("a header block holds an integer that is too large")
        if not octet & 0x80:
            return value, at


def _string(data: bytes, at: int) -> tuple[str, int]:
    """Return a header string and the position after it."""
    is_coded = data[at] & 0x80
    size, at = _integer(data, at, 7)
    if size > len(data) - at:
        raise ProtocolError("a header block ends within a string")
    raw = data[at : at + size]
    return (huffman.decode(raw) if is_coded else raw).decode("latin-1"), at + size


def _index(number: int, *, may_be_zero: bool) -> int:
    if number > _STATIC_ENTRIES or (number == 0 and not may_be_zero):
        raise ProtocolError(f"a header block refers to entry {number} of a table that was refused")
    return number


def read_headers(block: bytes | bytearray | memoryview) -> dict[str, str]:
    """Return the headers of a block whose names are literal, and ``:status``.

    Raises:
        ProtocolError: It is not a header block, or refers to a dynamic table.
    """
    data = bytes(block)
    headers: dict[str, str] = {}
    at = 0
    try:
        while at < len(data):
            first = data[at]
            if first & 0x80:
                index, at = _integer(data, at, 7)
                if _index(index, may_be_zero=False) in _STATUSES:
                    headers[":status"] = _STATUSES[index]
            elif first & 0xE0 == 0x20:
                size, at = _integer(data, at, 5)
                if size:
                    raise ProtocolError("a header block asks for a dynamic table, which was refused")
            else:
                index, at = _integer(data, at, 6 if first & 0x40 else 4)
                name = ":status" if _index(index, may_be_zero=True) == _STATUS_NAME else ""
                if index == 0:
                    name, at = _string(data, at)
                value, at = _string(data, at)
                headers[name] = value
    except IndexError as error:
        raise ProtocolError("a header block ends too early") from error
    return headers


def read_status(headers: dict[str, str]) -> tuple[int, str] | None:
    """Return the gRPC status and its message, or None in headers that hold none.

    Raises:
        ProtocolError: The status is no number.
    """
    status = headers.get("grpc-status")
    if status is None:
        return None
    if not (status.isascii() and status.isdigit() and len(status) <= 3):
        raise ProtocolError(f"grpc-status is {status[:40]!r}, expected a number")
    detail = urllib.parse.unquote_to_bytes(headers.get("grpc-message", "").encode("latin-1"))
    return int(status), detail.decode("utf-8", "replace")


def literal(name: str, value: str) -> bytes:
    """Return one header that is kept in no table."""
    out = b"\x00"
    for text in (name, value):
        raw = text.encode("latin-1")
        if len(raw) >= 127:
            raise ValueError(f"header too long: {name}")
        out += bytes((len(raw),)) + raw
    return out
