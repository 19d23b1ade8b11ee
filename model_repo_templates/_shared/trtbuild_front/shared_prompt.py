"""A prompt that several requests have in common: the answers that a client wants of it differ in their seed only.

It decides that one of them has it rendered and tokenized, and that the others wait for that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class SharedPrompt:
    """One prompt. Thread-safe.

    Where the request that prepares it fails or is cancelled, the others wait until they are: whoever wants them has
    asked for all together and gives all up together.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_taken = False
        self._ids: tuple[int, ...] | None = None
        self._waiting: list[Callable[[tuple[int, ...]], None]] = []

    def take(self) -> bool:
        """Return whether the caller is the one that has to prepare it."""
        with self._lock:
            is_first, self._is_taken = not self._is_taken, True
            return is_first

    def when_known(self, callback: Callable[[tuple[int, ...]], None]) -> None:
        """Call ``callback`` with the tokens, once they are known."""
        with self._lock:
            if self._ids is None:
                self._waiting.append(callback)
                return
        callback(self._ids)

    def publish(self, ids: tuple[int, ...]) -> None:
        """Say what the tokens are."""
        with self._lock:
            self._ids = ids
            waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback(ids)
