"""Collection: plan, show, then act.

It decides how each kind of thing is removed. Between plan and act everything is looked at again, so an entry that came
into use meanwhile stays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from trtbuild.console import log
from trtbuild.errors import StoreError
from trtbuild.store import disk, find, lease, leftovers, links, usage
from trtbuild.store.budget import Collection, plan
from trtbuild.store.claims import Held
from trtbuild.store.directory import StoreDirectory
from trtbuild.store.disk_errors import explained
from trtbuild.store.entries import Entry
from trtbuild.store.hf_cache import remove_snapshot
from trtbuild.store.items import Item, changed_at
from trtbuild.store.remove import forget, move_to_trash, put_back, require_tag
from trtbuild.store.store import Store


def collect(
    store: Store,
    *,
    max_bytes: int | None = None,
    min_free: int = 0,
    hf_cache: Path | None = None,
    dry_run: bool = False,
) -> Collection:
    """Collect what may go until the budgets hold, and return what was planned; ``dry_run`` only plans.

    Args:
        store: The store.
        max_bytes: Most bytes the store may hold, or None.
        min_free: Bytes that must stay free on its file system.
        hf_cache: Hugging Face hub cache; its snapshots are counted, and collected when it lies inside the store.
        dry_run: Change nothing.

    Raises:
        StoreError: The root is not marked as a cache, or something cannot be read or removed.
    """
    with explained("collect", store.root):
        collection = plan(store.directory, max_bytes=max_bytes, min_free=min_free, needs={}, hf_cache=hf_cache)
        if not dry_run and store.root.exists():
            require_tag(store.directory)
            act(store.directory, collection, hf_cache=hf_cache)
    return collection


def make_room(
    store: Store,
    needs: Mapping[str, int],
    *,
    max_bytes: int | None = None,
    min_free: int = 0,
    hf_cache: Path | None = None,
    protect: tuple[Path, ...] = (),
) -> Collection:
    """Make room for a build before its first byte is downloaded, or refuse it with the arithmetic.

    Args:
        store: The store.
        needs: Bytes the build will write, by what for: ``{"snapshot": ..., "checkpoint": ..., "engine": ...}``.
        max_bytes: Most bytes the store may hold, or None.
        min_free: Bytes that must stay free on its file system.
        hf_cache: As in :func:`collect`.
        protect: Paths that must stay, such as the snapshot the build will read.

    Raises:
        StoreError: It cannot fit; nothing was removed.
    """
    with explained("make room", store.root):
        collection = plan(
            store.directory, max_bytes=max_bytes, min_free=min_free, needs=needs, hf_cache=hf_cache, protect=protect
        )
        if not collection.fits:
            raise _refuse(collection)
        if collection.removals:
            require_tag(store.directory)
            act(store.directory, collection, hf_cache=hf_cache)
    return collection


def _refuse(collection: Collection) -> StoreError:
    """Return the error for a build that cannot fit, with the arithmetic."""
    return StoreError(
        "there is not enough room for this build: " + "; ".join(collection.arithmetic()),
        hint="raise --max-bytes, lower --min-free, unpin or remove entries (trtbuild store ls), or use another --store",
    )


def act(directory: StoreDirectory, collection: Collection, *, hf_cache: Path | None) -> int:
    """Carry out a plan, looking again at each thing before it goes; return the bytes freed."""
    freed = 0
    for removal in collection.removals:
        item = removal.item
        if item.kind == "entry":
            done = _remove_entry(directory, item)
        elif item.kind == "snapshot":
            done = remove_snapshot(item, hf_cache)
        elif item.kind in {"broken", "checkpoint"}:
            done = _remove_unless_building(directory, item)
        elif item.kind == "staging":
            leftovers.remove_staging(item.path)
            done = True
        else:
            disk.remove_tree(item.path)
            done = True
        if done:
            freed += item.size_bytes
            log.get().debug("store-removed", f"removed {item.path}: {removal.reason}")
    _prune(directory)
    directory.claims.sweep()
    directory.downloads.sweep()
    lease.sweep(directory)
    return freed


def _remove_entry(directory: StoreDirectory, item: Item) -> bool:
    held = directory.claims.try_claim(item.name)
    if not isinstance(held, Held):
        return False
    try:
        found = find.at(directory, item.path)
        if (
            found is None
            or found.digest != item.name
            or found.last_used > item.last_used
            or _kept_now(directory, found)
        ):
            return False
        moved = move_to_trash(directory, item.path)
        if moved is None:
            return False
        # A lease that was written before the entry was moved counts; its owner looks again for the entry.
        if lease.user(directory, item.name) and put_back(directory, moved, item.path):
            return False
        disk.remove_tree(moved)
        forget(directory, found)
        return True
    finally:
        directory.claims.release(held)


def _kept_now(directory: StoreDirectory, entry: Entry) -> bool:
    return entry.is_pinned or lease.user(directory, entry.digest) is not None


def _remove_unless_building(directory: StoreDirectory, item: Item) -> bool:
    if any(directory.claims.holder(digest) for digest in directory.claims.digests() if digest.startswith(item.name)):
        return False
    moved = move_to_trash(directory, item.path)
    if moved is None:
        return False
    # A builder may have replaced it between looking and moving: put the good one back.
    if item.kind == "broken" and not find.why_broken(moved) and put_back(directory, moved, item.path):
        return False
    disk.remove_tree(moved)
    return True


def _prune(directory: StoreDirectory) -> None:
    """Remove empty directories above entries, and stamps of entries that are gone; a publisher creates its own."""
    for model in links.children(directory.layout.engines, below=directory.root):
        for parent in (*links.children(model, below=directory.root), model):
            with contextlib.suppress(OSError):
                parent.rmdir()
    there = {entry.digest for entry in find.entries(directory)}
    for stamp in links.children(directory.layout.used, below=directory.root):
        if stamp.name not in there and directory.now() - changed_at(stamp) > usage.DEBRIS_AGE_S:
            disk.unlink(stamp)
