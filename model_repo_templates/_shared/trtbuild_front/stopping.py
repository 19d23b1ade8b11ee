"""Stop strings in a stream of text: hold back what could become one, cut where one is complete.

It decides on characters only, so a stop string is found wherever its tokens' borders are.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Finds the stop string that is complete first. However the text is cut into parts, the result is the same."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.is_stopped = False

    def feed(self, text: str) -> str:
        """Take more text; return what may be shown. Sets ``is_stopped`` once a stop string is complete."""
        if not self._stops or self.is_stopped:
            return "" if self.is_stopped else text
        text = self._held + text
        ends = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            self.is_stopped = True
            self._held = ""
            return text[: min(ends)[1]]
        held = self._prefix_length(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self) -> str:
        """Return what was held back: the stop string it could have become never came."""
        held, self._held = self._held, ""
        return held

    def _prefix_length(self, text: str) -> int:
        """Return the length of the longest end of ``text`` that begins a stop string."""
        longest = min(len(text), max(len(stop) for stop in self._stops) - 1)
        for size in range(longest, 0, -1):
            tail = text[-size:]
            if any(stop.startswith(tail) for stop in self._stops):
                return size
        return 0
