"""A file that a process keeps fresh as long as it is at work.

It decides how a beacon appears (whole, locked, for exactly one of many callers), beats and goes. Who may be taken for
dead is decided by :mod:`liveness`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from trtbuild.console import log
from trtbuild.store import disk
from trtbuild.store.disk_errors import explained
from trtbuild.store.owner import Owner, encode_owner
from trtbuild.store.sharing import FILE_MODE

HEARTBEAT_S = 2.0


class Beacon:
    """A beacon that this process keeps alive; made by :func:`create`. A context manager that removes it."""

    def __init__(self, path: Path, owner: Owner, fd: int) -> None:
        self.path = path
        self.owner = owner
        self._fd = fd
        self._began = time.monotonic()
        self._phase = owner.phase
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"beacon-{path.name[:12]}", daemon=True)
        self._thread.start()
        _open_beacons.add(self)

    def set_phase(self, phase: str) -> None:
        """Tell those who look what is being done now."""
        with self._lock:
            self._phase = phase
        self._beat()

    def keep_over_exec(self) -> None:
        """Let the program this process becomes go on holding the lock; its pid and start time stay the same anyway."""
        os.set_inheritable(self._fd, True)

    def close(self, *, remove: bool = True) -> None:
        """Stop the heartbeat and remove the file (unless its place is to be kept)."""
        if self._fd < 0:
            return
        self._stop.set()
        self._thread.join()
        with self._lock:
            try:
                if remove:
                    with explained("remove a beacon", self.path):
                        disk.unlink(self.path)
            finally:
                os.close(self._fd)
                self._fd = -1

    def drop_in_fork(self) -> None:
        """Let go of the beacon in a forked child: it is the parent's, whose death must release the lock."""
        self._lock = threading.Lock()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _beat(self) -> None:
        with self._lock:
            if self._fd < 0:
                return
            elapsed_s = round(time.monotonic() - self._began, 1)
            changed: Mapping[str, object] = {
                **asdict(self.owner),
                "beats": self.owner.beats + 1,
                "elapsed_s": elapsed_s,
                "phase": self._phase,
            }
            self.owner = Owner(**changed)  # type: ignore[arg-type] # the fields of Owner itself
            try:
                os.pwrite(self._fd, encode_owner(self.owner), 0)
                # On NFS the others see a write only after it was flushed.
                os.fsync(self._fd)
            except OSError as error:
                log.get().debug("store-heartbeat", f"{self.path}: heartbeat not written: {error}")

    def _run(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            self._beat()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_open_beacons: weakref.WeakSet[Beacon] = weakref.WeakSet()


def _drop_all_in_fork() -> None:
    for beacon in list(_open_beacons):
        beacon.drop_in_fork()


os.register_at_fork(after_in_child=_drop_all_in_fork)


def create(path: Path, owner: Owner, *, mode: int = FILE_MODE, group: int | None = None) -> Beacon | None:
    """Create the beacon ``path`` for ``owner``; None when there is one already. Exactly one of many callers succeeds.

    The file appears whole and locked: it is written under another name and linked. Where hard links do not exist
    it is created in place, and readers must expect to meet it half written.
    """
    draft = path.with_name(f".{owner.token}.tmp")
    disk.fault_hook("beacon-draft", draft)
    fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        _fill(fd, owner, mode=mode, group=group)
        disk.fault_hook("beacon-link", path)
        try:
            os.link(draft, path)
        except FileExistsError:
            os.close(fd)
            return None
        except OSError as error:
            if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}:
                raise
            os.close(fd)
            return _create_in_place(path, owner, mode=mode, group=group)
        return Beacon(path, owner, fd)
    except OSError:
        _close_quietly(fd)
        raise
    finally:
        draft.unlink(missing_ok=True)


def _create_in_place(path: Path, owner: Owner, *, mode: int, group: int | None) -> Beacon | None:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return None
    try:
        _fill(fd, owner, mode=mode, group=group)
    except OSError:
        _close_quietly(fd)
        path.unlink(missing_ok=True)
        raise
    return Beacon(path, owner, fd)


def _fill(fd: int, owner: Owner, *, mode: int, group: int | None) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        # No locks here: death is proven by silence alone.
        log.get().debug("store-flock", "this file system has no locks; heartbeats are used instead")
    os.pwrite(fd, encode_owner(owner), 0)
    if group is not None and os.fstat(fd).st_gid != group:
        os.fchown(fd, -1, group)
    os.fchmod(fd, mode)
    os.fsync(fd)


def _close_quietly(fd: int) -> None:
    try:
        os.close(fd)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
