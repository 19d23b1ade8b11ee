"""The threads that make requests ready: short texts, long texts and conversations never wait for one another.

It decides which thread does what. It does not know what is done.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from trtbuild_front.limits import MAX_RENDERERS, MAX_RENDERING, SHORT_TEXT_BYTES

_SHORT_THREADS = 2
_LONG_THREADS = 1  # a text of megabytes takes seconds and gigabytes: one at a time


def _give_memory_back() -> None:
    """Return what a long text took to the system: malloc keeps it otherwise, for good."""
    with contextlib.suppress(OSError, AttributeError):  # a C library without malloc_trim
        ctypes.CDLL(None).malloc_trim(0)


class Lanes:
    """Three pools of threads. A task must not raise."""

    def __init__(self) -> None:
        self._short = ThreadPoolExecutor(_SHORT_THREADS, thread_name_prefix="tokenize")
        self._long = ThreadPoolExecutor(_LONG_THREADS, thread_name_prefix="tokenize-long")
        self._chat = ThreadPoolExecutor(MAX_RENDERERS, thread_name_prefix="render")
        self._rendering = threading.Semaphore(MAX_RENDERING)

    def tokenize(self, size_bytes: int, task: Callable[[], None]) -> None:
        """Run ``task``, which tokenizes a text of this size."""
        if size_bytes <= SHORT_TEXT_BYTES:
            self._submit(self._short, task)
        else:
            self._submit(self._long, task)
            self._submit(self._long, _give_memory_back)

    def render(self, task: Callable[[], None]) -> bool:
        """Run ``task``, which waits for a chat template; return False, and do not, when too many wait already."""
        if not self._rendering.acquire(blocking=False):
            return False

        def run() -> None:
            try:
                task()
            finally:
                self._rendering.release()

        self._submit(self._chat, run)
        return True

    def shutdown(self) -> None:
        """Forget what has not begun; do not wait for what has."""
        for pool in (self._chat, self._short, self._long):
            pool.shutdown(wait=False, cancel_futures=True)

    @staticmethod
    def _submit(pool: ThreadPoolExecutor, task: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # shut down meanwhile: who stops us ends all requests
            pool.submit(task)
