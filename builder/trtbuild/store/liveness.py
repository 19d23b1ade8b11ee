"""How one process proves that the process behind a beacon is dead.

It decides what counts as proof, for everything that has an owner: claims, staging directories and leases. It does not
decide what happens then. The proofs, strongest first:

1. same boot and same process id namespace: ``/proc`` says whether this process (id and start time) lives;
2. same boot: the owner holds an ``flock`` on its beacon until the kernel ends it; used only after a self-test showed
   that locks work on this file system at all, and only ever to prove death;
3. otherwise the beacon's contents, a counter that a living owner advances every ``HEARTBEAT_S``, did not change
   while the observer watched for :data:`STALE_S` by its own monotonic clock. No two clocks are ever compared.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import time
import uuid
from pathlib import Path

from trtbuild.console.log import format_duration
from trtbuild.store import disk, links
from trtbuild.store.owner import MAX_RECORD_BYTES, RECORD_BYTES, Owner, boot_id, pid_namespace, process_is_dead

STALE_S = 20.0
SILENT_S = 15 * 60.0


@functools.cache
def locks_work(directory: Path) -> bool:
    """Say whether ``flock`` excludes here: some network file systems grant every lock to everyone, or none at all."""
    probe = directory / f".probe.{uuid.uuid4().hex}.tmp"
    first = second = -1
    try:
        first = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        second = os.open(probe, os.O_RDONLY)
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            pass
        fcntl.flock(first, fcntl.LOCK_UN)
        fcntl.flock(second, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        for fd in (first, second):
            if fd >= 0:
                os.close(fd)
        with contextlib.suppress(OSError):  # a read-only file system refuses even to look for it
            probe.unlink(missing_ok=True)


def flock_is_free(path: Path, token: str) -> bool | None:
    """Say whether no process holds the flock of the beacon named ``token``; None when it cannot be known."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        # The path may name another beacon by now; what was locked is what must be judged.
        return f'"{token}"'.encode() in os.pread(fd, RECORD_BYTES, 0) or None
    except BlockingIOError:
        return False
    except OSError:
        return None
    finally:
        os.close(fd)


def can_be_judged(path: Path, owner: Owner) -> bool:
    """Say whether life or death of an owner can be proven at once, without watching for heartbeats."""
    if not owner.boot_id or owner.boot_id != boot_id():
        return False
    if owner.pid_namespace and owner.pid_namespace == pid_namespace():
        return process_is_dead(owner.pid, owner.start_ticks) is not None
    return locks_work(path.parent)


def is_silent(path: Path, owner: Owner) -> bool:
    """Say whether an owner that cannot be judged has not been heard of for :data:`SILENT_S`.

    A look at the file's age by its file system's clock, for those who cannot watch. No proof: a jump of that clock
    makes a living owner look silent until its next heartbeat, so nothing it would miss may depend on this alone.
    """
    if can_be_judged(path, owner):
        return False
    try:
        return disk.file_system_now(path.parent) - path.lstat().st_mtime > SILENT_S
    except OSError:
        return False


def proof_of_death(path: Path, owner: Owner, *, unchanged_s: float) -> str | None:
    """Return why the owner of a beacon must be dead, in words, or None while it may live.

    Args:
        path: The beacon.
        owner: What it said when it was last read.
        unchanged_s: How long the caller has watched it not change, in seconds of the caller's monotonic clock.
    """
    same_boot = bool(owner.boot_id) and owner.boot_id == boot_id()
    if same_boot and owner.pid_namespace and owner.pid_namespace == pid_namespace():
        dead = process_is_dead(owner.pid, owner.start_ticks)
        if dead is not None:
            return f"process {owner.pid} is gone" if dead else None
    if same_boot and locks_work(path.parent):
        free = flock_is_free(path, owner.token)
        if free is not None:
            return "the kernel has released its lock" if free else None
    if unchanged_s >= STALE_S:
        return f"no heartbeat for {format_duration(unchanged_s)}"
    return None


class Watch:
    """Remembers how long each beacon has not changed, by this process's monotonic clock."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[bytes, float]] = {}

    def unchanged_s(self, path: Path) -> float:
        """Look at the beacon again and return for how long it has had the contents it has now, in seconds."""
        now = time.monotonic()
        try:
            data = links.read_small(path, limit_bytes=MAX_RECORD_BYTES)
        except ValueError:
            data = b""  # no beacon at all, and its absence counts as unchanged until it is replaced
        except OSError:
            self._seen.pop(path, None)
            return 0.0
        before = self._seen.get(path)
        if before is None or before[0] != data:
            self._seen[path] = (data, now)
            return 0.0
        return now - before[1]
