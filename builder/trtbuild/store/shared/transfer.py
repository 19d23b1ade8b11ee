"""Work on a shared tier that ends within a bounded time, whatever the tier does.

It decides when a transfer or a single call is given up. A hung network mount cannot hang the caller: threads are left
behind, and may change nothing any more.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from trtbuild.console.log import Progress, format_bytes
from trtbuild.store.shared.tier import TierError

STALL_S = 90.0
GRACE_S = 60.0
MIN_BYTES_PER_S = 16 << 20
_WORKERS = 8
_ATTEMPTS = 3


class Transfer:
    """Runs jobs in threads that need not be joined: a hung network mount cannot hang the caller."""

    def __init__(self, total_bytes: int, progress: Progress) -> None:
        self._progress = progress
        self._deadline_s = GRACE_S + total_bytes / MIN_BYTES_PER_S
        self.stall_s = STALL_S
        self._change = threading.Condition()
        self._error: BaseException | None = None
        self._left = 0
        self._moved_at = time.monotonic()
        self._is_over = False
        self._writers = 0

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Let a job change local files, unless the transfer was given up meanwhile."""
        with self._change:
            if self._is_over:
                raise TierError("the transfer was given up")
            self._writers += 1
        try:
            yield
        finally:
            with self._change:
                self._writers -= 1
                self._change.notify_all()

    def run(self, jobs: list[Callable[[], int]]) -> None:
        """Run all jobs, each up to three times.

        Raises:
            TierError: One failed, nothing moved for too long, or it is slower than building would be.
            OSError: The local disk failed.
        """
        queue = list(reversed(jobs))
        self._left, began = len(queue), time.monotonic()
        self._moved_at = began
        for n in range(min(_WORKERS, len(queue))):
            threading.Thread(target=self._work, args=(queue,), name=f"transfer-{n}", daemon=True).start()
        with self._change:
            while self._left and self._error is None:
                now = time.monotonic()
                if now - self._moved_at > self.stall_s:
                    self._error = TierError(f"nothing arrived for {self.stall_s:.0f} s")
                elif now - began > self._deadline_s:
                    self._error = TierError(f"slower than {format_bytes(MIN_BYTES_PER_S)}/s for {now - began:.0f} s")
                else:
                    self._change.wait(0.5)
            self._is_over = True
            # No thread may still write to a file when the caller goes on to rename, verify or remove it.
            self._change.wait_for(lambda: self._writers == 0)
            if self._error is not None:
                raise self._error

    def _work(self, queue: list[Callable[[], int]]) -> None:
        while True:
            with self._change:
                if self._is_over or not queue:
                    return
                job = queue.pop()
            try:
                moved = self._attempt(job)
            except (TierError, OSError) as error:
                with self._change:
                    self._error = self._error or error
                    self._change.notify_all()
                return
            self._progress.advance(moved)
            with self._change:
                self._left -= 1
                self._moved_at = time.monotonic()
                self._change.notify_all()

    def _attempt(self, job: Callable[[], int]) -> int:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return job()
            except TierError:
                if attempt == _ATTEMPTS or self._is_over:
                    raise
                time.sleep(0.2 * 4**attempt / 4)
        raise AssertionError("unreachable")


_T = TypeVar("_T")


def bounded(work: Callable[[], _T]) -> _T:
    """Return what ``work`` returns, or give it up after :data:`GRACE_S`.

    Raises:
        TierError: It failed, or took too long.
    """
    results: list[_T] = []
    errors: list[TierError] = []

    def run() -> None:
        try:
            results.append(work())
        except TierError as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="shared-tier", daemon=True)
    thread.start()
    thread.join(GRACE_S)
    if results:
        return results[0]
    raise errors[0] if errors else TierError(f"no answer within {GRACE_S:.0f} s")
