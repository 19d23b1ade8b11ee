"""Who may go to the engine next: first come, first served, at most ``slots`` at once, a bounded number waiting.

It decides order and limits. It does not know what it queues. Keeping requests here rather than in the engine's own
queue is what makes the numbers of waiting and running requests exact: an engine with in-flight batching does not report
them apart.
"""

from __future__ import annotations

import heapq
import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Admission(Generic[Item]):
    """A ticket at arrival, a place in line once prepared, a slot when it is its turn. Thread-safe."""

    def __init__(self, slots: int, max_waiting: int) -> None:
        """Create an empty queue.

        Args:
            slots: Most items that may run at once.
            max_waiting: Most items that may wait beside the running ones; 0 for no limit.
        """
        self._lock = threading.Lock()
        self._slots = slots
        self._limit = slots + max_waiting if max_waiting else None
        self._next_ticket = 0
        self._inside: set[int] = set()
        self._running: set[int] = set()
        self._ready: list[tuple[int, Item]] = []

    def enter(self) -> int | None:
        """Return a ticket, or None when no more may wait."""
        with self._lock:
            if self._limit is not None and len(self._inside) >= self._limit:
                return None
            ticket = self._next_ticket
            self._next_ticket += 1
            self._inside.add(ticket)
            return ticket

    def line_up(self, ticket: int, item: Item) -> None:
        """The holder of ``ticket`` is prepared. A ticket that has left is ignored."""
        with self._lock:
            if ticket in self._inside:
                heapq.heappush(self._ready, (ticket, item))

    def next(self) -> Item | None:
        """Return the item whose turn it is and give it a slot; None when all slots are taken or no item is prepared."""
        with self._lock:
            while self._ready and len(self._running) < self._slots:
                ticket, item = heapq.heappop(self._ready)
                if ticket in self._inside:
                    self._running.add(ticket)
                    return item
            return None

    def leave(self, ticket: int) -> None:
        """The holder of ``ticket`` is done, wherever it was. A second call changes nothing."""
        with self._lock:
            self._inside.discard(ticket)
            self._running.discard(ticket)
