"""Server-sent events, read from bytes as they come and bounded: what Triton and OpenAI-style servers stream.

Pure: bytes in, data of events out. ``health`` and ``trtclient`` read streams with it.

Source: WHATWG HTML, server-sent events: lines end in LF or CR LF, events in an empty line.
"""

from __future__ import annotations

MAX_EVENT_BYTES = 8 * 1024 * 1024


class EventParser:
    """Turns a body of type ``text/event-stream`` into the data of its events."""

    def __init__(self) -> None:
        self._rest = bytearray()  # of a line that has no end yet
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, body: bytes) -> list[bytes]:
        """Return the data of the events that ``body`` completes.

        Raises:
            ValueError: An event is over :data:`MAX_EVENT_BYTES`.
        """
        if b"\n" not in body:
            self._rest += body
            self._refuse_endless()
            return []
        *lines, rest = ((bytes(self._rest) + body) if self._rest else body).split(b"\n")
        self._rest = bytearray(rest)
        events = []
        for line in lines:
            text = line[:-1] if line.endswith(b"\r") else line
            if text.startswith(b"data:"):
                self._data.append(text[6:] if text[5:6] == b" " else text[5:])
                self._data_bytes += len(text)
            elif not text and self._data:
                events.append(b"\n".join(self._data))
                self._data.clear()
                self._data_bytes = 0
        self._refuse_endless()
        return events

    def _refuse_endless(self) -> None:
        if len(self._rest) + self._data_bytes > MAX_EVENT_BYTES:
            raise ValueError(f"an event of the stream is over {MAX_EVENT_BYTES} bytes")
