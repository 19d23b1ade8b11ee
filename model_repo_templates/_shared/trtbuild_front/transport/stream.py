"""One stream of a connection: the gRPC messages that arrive on it, and what is still to be sent.

It decides where messages begin and end. It does not know frames.

Source: gRPC over HTTP2 (message prefix, statuses).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from trtbuild_front.faults import ProtocolError

STATUS_CANCELLED, STATUS_UNKNOWN, STATUS_UNAVAILABLE = 1, 2, 14
_MOST_MESSAGE_BYTES = 1 << 26


class StreamEvents(Protocol):
    """Callbacks for the owner of a stream, always called in the connection's thread."""

    def on_message(self, message: bytes) -> None:
        """One whole gRPC message arrived."""

    def on_end(self, status: int, detail: str) -> None:
        """The call is over; nothing follows. ``status`` is the gRPC status (0: OK)."""


@dataclass(slots=True)
class Stream:
    """An open call.

    Attributes:
        events: Called with what arrives.
        window: Bytes that the peer takes on this stream now.
        received: Of a message that has not arrived whole.
        unsent: Of the request.
        status: The gRPC status, once the peer has said it.
        detail: Its message.
    """

    events: StreamEvents
    window: int
    received: bytearray = field(default_factory=bytearray)
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))
    status: int = STATUS_UNKNOWN
    detail: str = "the stream ended without a status"

    def take(self, payload: memoryview) -> None:
        """Hand out the whole messages that have arrived and keep the rest.

        Raises:
            ProtocolError: A message is too large, or compressed.
        """
        received = self.received
        is_one = not received and len(payload) >= 5 and len(payload) - 5 == int.from_bytes(payload[1:5], "big")
        if is_one and not payload[0]:  # one frame, one message: the usual case
            self.events.on_message(bytes(payload[5:]))
            return
        received += payload
        at = 0
        while len(received) - at >= 5:
            size = int.from_bytes(received[at + 1 : at + 5], "big")
            if received[at] or size > _MOST_MESSAGE_BYTES:
                raise ProtocolError(
                    f"a message of {size} bytes with flags {received[at]}, expected 0 flags and <= 64 MiB"
                )
            if len(received) - at - 5 < size:
                break
            message = bytes(received[at + 5 : at + 5 + size])
            at += 5 + size
            self.events.on_message(message)
        del received[:at]
