"""What dead processes left in the store, removed by whoever comes by: a lister, a builder, a hit.

It decides what is provably nobody's: a staging directory whose owner is dead by the proofs of :mod:`beacon`, its
beacon, a beacon's draft, and what lies in the trash for longer than a collector may still put it back. It never waits.
What cannot be proven at once (another node's build, a directory without a beacon) is left to collection, which
watches and counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from trtbuild.console import log
from trtbuild.store import disk, links, liveness
from trtbuild.store.directory import StoreDirectory
from trtbuild.store.owner import UNKNOWN, read_owner

TRASH_KEPT_S = 60.0
"""A collector that moved an entry to the trash looks once more for a lease, and may put the entry back."""


def owner_file(directory: Path) -> Path:
    """Return the beacon of a staging directory; it is there before the directory and goes after it."""
    return directory.with_name(directory.name + ".owner")


def staging_owner(directory: Path) -> tuple[str | None, bool]:
    """Return why a staging directory is kept, and whether its owner has been silent for suspiciously long."""
    path = owner_file(directory)
    try:
        owner = read_owner(path)
    except ValueError:
        owner = UNKNOWN
    if owner is None or liveness.proof_of_death(path, owner, unchanged_s=0.0):
        return None, False
    return f"being built by {owner.describe()}", liveness.is_silent(path, owner)


def remove_staging(directory: Path) -> None:
    """Remove a staging directory and, last, its beacon: whoever dies in between leaves what the next one finds."""
    disk.remove_tree(directory)
    disk.unlink(owner_file(directory))


def trash(directory: Path, *, below: Path) -> Iterator[tuple[Path, bool]]:
    """Yield what lies in the trash, and whether it does so for long enough that nobody puts it back."""
    now: float | None = None
    for path in links.children(directory, below=below):
        is_settled = False
        with contextlib.suppress(OSError):  # read-only, or another sweeper was faster
            now = disk.file_system_now(directory) if now is None else now
            # Moving something changes the time of its inode, not of its contents.
            is_settled = now - path.lstat().st_ctime > TRASH_KEPT_S
        yield path, is_settled


def sweep(store: StoreDirectory) -> None:
    """Remove what processes that are proven dead left half done. Never waits and never fails; cheap when clean."""
    root, layout = store.root, store.layout
    beacons = (layout.staging, layout.claims, layout.leases, layout.downloads)
    try:
        builds = list(_dead_builds(layout.staging, below=root))
        others = [path for path, is_settled in trash(layout.trash, below=root) if is_settled]
        others += [path for directory in beacons for path in _dead_drafts(directory, below=root)]
    except OSError as error:
        log.get().debug("store-not-swept", f"what dead processes left cannot be seen: {error}")
        return
    if not (builds or others) or not disk.is_tagged(root):
        return
    for path in (*builds, *others):
        try:
            remove_staging(path) if path in builds else disk.remove_tree(path)
            log.get().debug("store-swept", f"removed {path}, which a dead process left", path=str(path))
        except OSError as error:
            log.get().debug("store-not-swept", f"{path}, which a dead process left, stays: {error}")


def _dead_builds(staging: Path, *, below: Path) -> Iterator[Path]:
    """Yield staging directories, there or already gone, whose beacon names a dead process."""
    for path in links.children(staging, below=below):
        if path.suffix == ".owner" and not path.name.startswith(".") and _is_dead(path):
            yield path.with_name(path.name.removesuffix(".owner"))


def _dead_drafts(directory: Path, *, below: Path) -> Iterator[Path]:
    """Yield beacons that a process was about to create when it died."""
    for path in links.children(directory, below=below):
        if path.suffix == ".tmp" and path.name.startswith(".") and _is_dead(path):
            yield path


def _is_dead(path: Path) -> bool:
    try:
        owner = read_owner(path)
        return owner is not None and liveness.proof_of_death(path, owner, unchanged_s=0.0) is not None
    except (OSError, ValueError):
        return False
