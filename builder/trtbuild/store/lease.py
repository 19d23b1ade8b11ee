"""Who uses which entry, so that collection leaves it alone.

It decides when a lease counts. A lease is a beacon; the process that serves an engine takes it before it becomes the
server. ``exec`` keeps the process id and the start time, and :meth:`Lease.keep_over_exec` lets the server inherit
the locked file, so the kernel itself ends the lease when the server dies, however it dies. Where neither ``/proc`` nor
locks can tell (another node on a shared file system), a lease counts for :data:`LEASE_TTL_S` after its file was
last touched; a server that lives longer touches it.
"""

from __future__ import annotations

import contextlib
import errno
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from trtbuild.console import log
from trtbuild.errors import StoreError
from trtbuild.store import disk, links, liveness
from trtbuild.store.beacon import Beacon
from trtbuild.store.directory import StoreDirectory
from trtbuild.store.disk_errors import explained
from trtbuild.store.entries import Entry
from trtbuild.store.manifest import MANIFEST
from trtbuild.store.owner import Owner, read_owner

LEASE_TTL_S = 24 * 3600.0
_NOT_OURS = {errno.EROFS, errno.EACCES, errno.EPERM}
_PUT_BACK_S = 2.0
_POLL_S = 0.1


class Lease:
    """A promise that an entry stays where it is. A context manager; ends with the process at the latest.

    Attributes:
        path: The lease's file, or None in a store that can only be read. Touch it at least daily where only its age
            can tell that the server lives.
    """

    def __init__(self, kept: Beacon | None) -> None:
        self._beacon = kept
        self.path = kept.path if kept else None

    def keep_over_exec(self) -> None:
        """Let the lease go over to the program that this process becomes; call it right before ``exec``."""
        if self._beacon:
            self._beacon.set_phase("serve")
            self._beacon.keep_over_exec()

    def release(self) -> None:
        """Give the entry back."""
        if self._beacon:
            self._beacon.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def take(directory: StoreDirectory, entry: Entry) -> Lease:
    """Keep an entry from being collected while this process, or the program it becomes, lives."""
    with explained("take a lease", directory.layout.leases):
        taken = _write(directory, entry)
        # A collector that has just moved the entry sees the lease and puts it back.
        deadline = time.monotonic() + _PUT_BACK_S
        while not (entry.path / MANIFEST).exists():
            if time.monotonic() > deadline:
                taken.release()
                raise StoreError(
                    f"{entry.path} was collected before it could be used",
                    hint="run the command again to rebuild it",
                )
            time.sleep(_POLL_S)
    return taken


def _write(directory: StoreDirectory, entry: Entry) -> Lease:
    try:
        directory.prepare(directory.layout.leases)
        while True:
            owner = directory.new_owner()
            kept = directory.create_beacon(directory.layout.leases / f"{entry.digest}.{owner.token}", owner)
            if kept is not None:
                return Lease(kept)
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise
        log.get().warning("store-no-lease", f"nothing keeps {entry.short} from being collected meanwhile: {error}")
        return Lease(None)


def user(directory: StoreDirectory, digest: str) -> str | None:
    """Return who uses an entry, for people, or None; removes the leases of the dead on the way.

    Raises:
        StoreError: The leases cannot be read, or a link is in their place.
    """
    with explained("read the leases", directory.layout.leases):
        links.refuse_links(directory.layout.leases, below=directory.root)
        for path in _leases(directory):
            if path.name.startswith(f"{digest}.") and (who := _holder(path)) is not None:
                return who
    return None


def sweep(directory: StoreDirectory) -> None:
    """Remove the leases of all that are proven dead."""
    for path in _leases(directory):
        _holder(path)


def _leases(directory: StoreDirectory) -> list[Path]:
    found = links.children(directory.layout.leases, below=directory.root)
    return [path for path in found if not path.name.startswith(".")]


def _drop(path: Path) -> None:
    """Remove a lease that counts no more; in a store that is only read it stays, and counts no more either."""
    try:
        disk.unlink(path)
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise


def _holder(path: Path) -> str | None:
    owner: Owner | None = None
    with contextlib.suppress(ValueError, PermissionError):
        owner = read_owner(path)
        if owner is None or liveness.proof_of_death(path, owner, unchanged_s=0.0) is not None:
            _drop(path)
            return None
    try:
        age_s = disk.file_system_now(path.parent) - path.lstat().st_mtime
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise
        age_s = 0.0  # the file system's clock cannot be asked, so the lease counts
    # A lease that can be judged (this boot) was judged above; for the others there is only their age.
    if age_s > LEASE_TTL_S and (owner is None or not liveness.can_be_judged(path, owner)):
        _drop(path)
        return None
    return owner.describe() if owner else f"an unreadable lease, {path.name}"
