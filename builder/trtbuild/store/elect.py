"""Becoming the builder of a key, or waiting until another process has built it.

It decides how long to wait and what waiting looks like. It saves work only: publishing is correct without it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from trtbuild.console import log
from trtbuild.console.log import format_duration
from trtbuild.errors import StoreError
from trtbuild.plan.key import EngineKey
from trtbuild.store import find, leftovers
from trtbuild.store.claims import Held
from trtbuild.store.directory import StoreDirectory
from trtbuild.store.disk_errors import explained
from trtbuild.store.entries import Entry
from trtbuild.store.manifest import MANIFEST
from trtbuild.store.owner import Owner

WAIT_REPORT_S = 10.0
_POLL_S = (0.1, 1.0)


class Claim:
    """What :meth:`Store.lock` yields.

    Attributes:
        is_held: False when the entry appeared while waiting, so that nothing needs to be built.
        waited_s: Seconds spent waiting for another builder.
    """

    def __init__(self, held: Held | None, waited_s: float) -> None:
        self._held = held
        self.waited_s = waited_s

    @property
    def is_held(self) -> bool:
        """Whether this process is the builder."""
        return self._held is not None

    def set_phase(self, phase: str) -> None:
        """Tell the waiters what is being done now."""
        if self._held:
            self._held.beacon.set_phase(phase)


@contextlib.contextmanager
def lock(directory: StoreDirectory, key: EngineKey, *, on_wait: Callable[[Owner, float], None]) -> Iterator[Claim]:
    """Become the builder of ``key``, or wait until its entry is there; see :meth:`Store.lock`."""
    with explained("claim a key", directory.layout.claims):
        directory.prepare(directory.layout.claims)
        claim = _wait_for(directory, key, on_wait)
    leftovers.sweep(directory)
    try:
        yield claim
    finally:
        if claim._held:
            try:
                directory.claims.release(claim._held)
            except StoreError as error:
                # What was built is built; the claim ends with this process at the latest.
                log.get().warning("store-claim-left", error.message)


def _wait_for(directory: StoreDirectory, key: EngineKey, on_wait: Callable[[Owner, float], None]) -> Claim:
    began = time.monotonic()
    next_report, pause = began, _POLL_S[0]
    while True:
        outcome = directory.claims.try_claim(key.digest)
        now = time.monotonic()
        if isinstance(outcome, Held):
            return Claim(outcome, now - began)
        if (directory.layout.entry(key) / MANIFEST).exists() and isinstance(find.get(directory, key, "sizes"), Entry):
            return Claim(None, now - began)
        if now >= next_report:
            on_wait(outcome.owner, now - began)
            next_report += WAIT_REPORT_S
        time.sleep(pause)
        pause = min(_POLL_S[1], pause * 1.2)


def report_wait(owner: Owner, waited_s: float) -> None:
    """Log who builds what this process waits for, and for how long."""
    log.get().info(
        "store-wait",
        f"waiting for {owner.describe()} to build this engine, {format_duration(waited_s)} so far",
        holder=owner.label,
        holder_pid=owner.pid,
        phase=owner.phase,
        elapsed_s=round(waited_s, 1),
    )
