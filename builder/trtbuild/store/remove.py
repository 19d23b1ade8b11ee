"""Taking entries out of the store.

It decides what may be removed by hand: nothing below a root without its tag, nothing pinned, nothing in use.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from trtbuild.errors import StoreError
from trtbuild.store import disk, lease, marks
from trtbuild.store.directory import StoreDirectory
from trtbuild.store.disk_errors import explained
from trtbuild.store.entries import Entry
from trtbuild.store.publish import close_entry


def remove(directory: StoreDirectory, entries: Sequence[Entry]) -> int:
    """Remove entries and return the bytes freed; all of them are looked at before the first one goes."""
    require_tag(directory)
    with explained("remove an entry", directory.root):
        directory.refuse_links()
    for entry in entries:
        if directory.layout.engines not in entry.path.parents:
            raise StoreError(f"{entry.path} is not in the store {directory.root}", hint="trtbuild store ls")
        if marks.is_pinned(directory, entry.digest):
            raise StoreError(f"{entry.short} is pinned", hint=f"trtbuild store unpin {entry.short}")
        user = lease.user(directory, entry.digest)
        if user:
            raise StoreError(
                f"{entry.short} is in use by {user}",
                hint=f"stop it first; a lease that outlived its server is a file in {directory.layout.leases}",
            )
    freed = 0
    with explained("remove an entry", directory.root):
        for entry in entries:
            moved = move_to_trash(directory, entry.path)
            if moved:
                disk.remove_tree(moved)
                freed += entry.size_bytes
            forget(directory, entry)
    return freed


def move_to_trash(directory: StoreDirectory, path: Path) -> Path | None:
    """Move a directory to the trash in one step and return where it is; None when it is gone already."""
    return directory.move_aside(path, directory.layout.trash)


def put_back(directory: StoreDirectory, moved: Path, path: Path) -> bool:
    """Return what :func:`move_to_trash` moved to its place; False when another entry is there by now."""
    with contextlib.suppress(OSError):
        disk.rename(moved, path)
        close_entry(directory, path)
        return True
    return False


def forget(directory: StoreDirectory, entry: Entry) -> None:
    """Remove what is known about an entry that is gone, and the directories it leaves empty."""
    for path in (directory.layout.used / entry.digest, directory.layout.pins / entry.digest):
        disk.unlink(path)
    for parent in (entry.path.parent, entry.path.parent.parent):
        with contextlib.suppress(OSError):
            parent.rmdir()


def require_tag(directory: StoreDirectory) -> None:
    """Refuse to remove anything below a root that is not marked as a cache.

    Raises:
        StoreError: There is no tag.
    """
    if not disk.is_tagged(directory.root):
        raise StoreError(
            f"{directory.root} has no {disk.CACHEDIR_TAG}, so it may not be a trtbuild store; nothing was removed",
            hint="check --store; a directory that trtbuild made has the file",
        )
