"""What the store holds, what may go, in which order, and the going.

It decides budgets and their arithmetic. Collection plans, shows, then acts; between plan and act everything is looked
at again, so an entry that came into use meanwhile stays.

Always taken: what dead processes left (staging directories, stray files), old logs, old quarantine. Taken when a
budget asks for it, cheapest to get again first: quarantine, downloads, logs, checkpoints, snapshots, and then
entries, least recently used first. Never taken: an entry that is in use (leased), pinned, being built, or was used in
the last :data:`GRACE_S`, which covers the time between a pod's init container and its server.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trtbuild.console import log
from trtbuild.console.log import format_bytes, format_duration
from trtbuild.errors import StoreError
from trtbuild.store import beacon, disk, leases, leftovers, links
from trtbuild.store.claims import Held
from trtbuild.store.core import Store
from trtbuild.store.disk_errors import existing_parent, explained
from trtbuild.store.entries import Entry
from trtbuild.store.liveness import Watch

Kind = Literal["staging", "debris", "broken", "quarantine", "download", "log", "checkpoint", "snapshot", "entry"]
GRACE_S = 15 * 60.0
QUARANTINE_KEPT_S = 7 * 86400.0
LOGS_KEPT_S = 30 * 86400.0
DOWNLOADS_KEPT_S = 86400.0
DEBRIS_AGE_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Item:
    """Something in the store that takes room.

    Attributes:
        path: Where it is.
        kind: What it is.
        size_bytes: Room it takes.
        last_used: Seconds since 1970.
        keep: Why it must stay, or None.
        name: Digest of an entry, commit of a snapshot, else empty.
    """

    path: Path
    kind: Kind
    size_bytes: int
    last_used: float
    keep: str | None = None
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Removal:
    """An item that would go, and why."""

    item: Item
    reason: str


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What takes how much room, in bytes.

    Attributes:
        by_kind: Bytes by kind; ``snapshot`` counts only when the Hugging Face cache lies inside the store.
        outside_bytes: Bytes of snapshots in a cache outside the store, which is never collected.
        free_bytes: Free on the store's file system.
    """

    by_kind: Mapping[str, int]
    outside_bytes: int
    free_bytes: int

    @property
    def total_bytes(self) -> int:
        """Everything below the root."""
        return sum(self.by_kind.values())


@dataclass(frozen=True, kw_only=True)
class Collection:
    """A plan for making room.

    Attributes:
        usage: What there is before.
        removals: What goes, in this order.
        kept: What must stay although room is short.
        needs: Bytes the caller is about to write, by what for.
        max_bytes: Most the store may hold, or None.
        min_free: Bytes that must stay free on the file system.
        short_bytes: What is still missing after all removals; 0 when it fits.
    """

    usage: Usage
    removals: tuple[Removal, ...]
    kept: tuple[Item, ...]
    needs: Mapping[str, int]
    max_bytes: int | None
    min_free: int
    short_bytes: int

    @property
    def frees_bytes(self) -> int:
        """What the removals free."""
        return sum(removal.item.size_bytes for removal in self.removals)

    @property
    def fits(self) -> bool:
        """Whether the budgets hold after the removals."""
        return self.short_bytes == 0

    def arithmetic(self) -> tuple[str, ...]:
        """Return how the figures come about, line by line."""
        used, free, frees = self.usage.total_bytes, self.usage.free_bytes, self.frees_bytes
        lines = [f"in the store: {format_bytes(used)}; free on its disk: {format_bytes(free)}"]
        need = sum(self.needs.values())
        if need:
            parts = " + ".join(f"{name} {format_bytes(size)}" for name, size in self.needs.items() if size)
            lines.append(f"needed: {format_bytes(need)} ({parts})")
        lines.append(f"can be removed: {format_bytes(frees)} in {len(self.removals)} pieces")
        if self.max_bytes is not None:
            after = used - frees + need
            lines.append(
                f"the store would hold {format_bytes(used)} - {format_bytes(frees)} + {format_bytes(need)} = "
                f"{format_bytes(after)} of at most {format_bytes(self.max_bytes)} (max_bytes)"
            )
        left = free + frees - need
        lines.append(
            f"the disk would have {format_bytes(free)} + {format_bytes(frees)} - {format_bytes(need)} = "
            f"{format_bytes(left)} free, at least {format_bytes(self.min_free)} wanted (min_free)"
        )
        if self.short_bytes:
            lines.append(f"short by {format_bytes(self.short_bytes)}")
            lines += [f"kept: {item.path.name}, {format_bytes(item.size_bytes)}, {item.keep}" for item in self.kept]
        return tuple(lines)


def measure(store: Store, *, hf_cache: Path | None) -> tuple[list[Item], Usage]:
    """Return everything that takes room in the store."""
    items = [*_entries(store), *_broken(store), *_staging(store), *_loose(store)]
    snapshots = list(_snapshots(store, hf_cache)) if hf_cache else []
    inside = hf_cache is not None and _is_own(store.root, hf_cache)
    by_kind: dict[str, int] = {}
    for item in [*items, *(snapshots if inside else [])]:
        by_kind[item.kind] = by_kind.get(item.kind, 0) + item.size_bytes
    known = {"engines", ".staging", ".quarantine", ".trash", ".downloads", "logs", "checkpoints"}
    for path in links.children(store.root, below=store.root):
        if path.name not in known and not (inside and hf_cache and path in (hf_cache, *hf_cache.parents)):
            by_kind["other"] = by_kind.get("other", 0) + tree_bytes(path)
    if inside and hf_cache:
        # Unfinished downloads and whatever else lies beside the snapshots.
        rest = tree_bytes(hf_cache) - sum(item.size_bytes for item in snapshots)
        by_kind["other"] = by_kind.get("other", 0) + max(0, rest)
    usage = Usage(
        by_kind=by_kind,
        outside_bytes=0 if inside else sum(item.size_bytes for item in snapshots),
        free_bytes=shutil.disk_usage(existing_parent(store.root)).free,
    )
    return items + (snapshots if inside else []), usage


def plan(
    store: Store,
    *,
    max_bytes: int | None,
    min_free: int,
    needs: Mapping[str, int],
    hf_cache: Path | None,
    protect: tuple[Path, ...] = (),
) -> Collection:
    """Return what would have to go so that ``needs`` fit into the budgets; changes nothing.

    Raises:
        OSError: A directory of the store is a link, so that what it holds is somebody else's.
    """
    store.refuse_links()
    items, usage = measure(store, hf_cache=hf_cache)
    removals, left = [], []
    for item in items:
        reason = None if item.keep or _is_protected(item, protect) else _always(item, store.now())
        if reason:
            removals.append(Removal(item=item, reason=reason))
        else:
            left.append(item)
    need = sum(needs.values())
    freed = sum(removal.item.size_bytes for removal in removals)
    over = 0 if max_bytes is None else usage.total_bytes + need - max_bytes
    missing = max(0, over - freed, need + min_free - usage.free_bytes - freed)
    order = ("quarantine", "download", "log", "checkpoint", "snapshot", "entry")
    rank = {kind: position for position, kind in enumerate(order)}
    candidates = [item for item in left if item.kind in rank and not item.keep and not _is_protected(item, protect)]
    for item in sorted(candidates, key=lambda item: (rank[item.kind], item.last_used, str(item.path))):
        if missing <= 0:
            break
        removals.append(Removal(item=item, reason=_pressure(item, store.now())))
        missing = max(0, missing - item.size_bytes)
    return Collection(
        usage=usage,
        removals=tuple(removals),
        kept=tuple(item for item in left if item.keep),
        needs=dict(needs),
        max_bytes=max_bytes,
        min_free=min_free,
        short_bytes=missing,
    )


def act(store: Store, collection: Collection, *, hf_cache: Path | None) -> int:
    """Carry out a plan, looking again at each thing before it goes; return the bytes freed."""
    freed = 0
    for removal in collection.removals:
        item = removal.item
        if item.kind == "entry":
            done = _remove_entry(store, item)
        elif item.kind == "snapshot":
            done = _remove_snapshot(item, hf_cache)
        elif item.kind in {"broken", "checkpoint"}:
            done = _remove_unless_building(store, item)
        elif item.kind == "staging":
            leftovers.remove_staging(item.path)
            done = True
        else:
            disk.remove_tree(item.path)
            done = True
        if done:
            freed += item.size_bytes
            log.get().debug("store-removed", f"removed {item.path}: {removal.reason}")
    _prune(store)
    store.claims.sweep()
    store.downloads.sweep()
    leases.sweep(store.layout.leases)
    return freed


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
        collection = plan(store, max_bytes=max_bytes, min_free=min_free, needs={}, hf_cache=hf_cache)
        if not dry_run and store.root.exists():
            store.insist_on_tag()
            act(store, collection, hf_cache=hf_cache)
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
            store, max_bytes=max_bytes, min_free=min_free, needs=needs, hf_cache=hf_cache, protect=protect
        )
        if not collection.fits:
            raise _refuse(collection)
        if collection.removals:
            store.insist_on_tag()
            act(store, collection, hf_cache=hf_cache)
    return collection


def _refuse(collection: Collection) -> StoreError:
    """Return the error for a build that cannot fit, with the arithmetic."""
    return StoreError(
        "there is not enough room for this build: " + "; ".join(collection.arithmetic()),
        hint="raise --max-bytes, lower --min-free, unpin or remove entries (trtbuild store ls), or use another --store",
    )


def _always(item: Item, now: float) -> str | None:
    age_s = now - item.last_used
    if item.kind in {"staging", "debris"}:
        return "left by a process that is dead"
    if item.kind == "broken":
        return "not a whole entry"
    limits = {"quarantine": QUARANTINE_KEPT_S, "log": LOGS_KEPT_S, "download": DOWNLOADS_KEPT_S}
    if age_s > limits.get(item.kind, float("inf")):
        return f"{format_duration(age_s)} old"
    return None


def _pressure(item: Item, now: float) -> str:
    return f"room is short, last used {format_duration(max(0.0, now - item.last_used))} ago"


def _is_protected(item: Item, protect: tuple[Path, ...]) -> bool:
    return any(path == item.path or item.path in path.parents or path in item.path.parents for path in protect)


def _entries(store: Store) -> Iterator[Item]:
    for entry in store.entries():
        yield Item(
            path=entry.path,
            kind="entry",
            size_bytes=entry.size_bytes,
            last_used=entry.last_used,
            keep=_why_kept(store, entry),
            name=entry.digest,
        )


def _why_kept(store: Store, entry: Entry) -> str | None:
    if entry.is_pinned:
        return "pinned"
    user = leases.user(store.layout.leases, entry.digest)
    if user:
        return f"in use by {user}"
    builder = store.claims.holder(entry.digest)
    if builder:
        return f"being built by {builder.describe()}"
    idle_s = store.now() - entry.last_used
    return f"used {format_duration(max(0.0, idle_s))} ago" if idle_s < GRACE_S else None


def _broken(store: Store) -> Iterator[Item]:
    for broken in store.broken():
        # Without a valid manifest the digest is unknown; the name ends in its beginning.
        short = broken.path.name.rpartition("-")[2]
        builders = [store.claims.holder(digest) for digest in store.claims.digests() if digest.startswith(short)]
        builder = next((owner for owner in builders if owner), None)
        yield Item(
            path=broken.path,
            kind="broken",
            size_bytes=tree_bytes(broken.path),
            last_used=_mtime(broken.path),
            keep=f"being built by {builder.describe()}" if builder else None,
            name=short,
        )


def _staging(store: Store) -> Iterator[Item]:
    """Yield staging directories; those whose owner's death cannot be proven otherwise are watched for a moment."""
    watch, silent = Watch(), []
    for path in links.children(store.layout.staging, below=store.root):
        # Drafts of beacons begin with a dot; a directory always has its beacon before it is made.
        if path.name.endswith(".owner") or path.name.startswith("."):
            continue
        keep, is_suspect = leftovers.staging_owner(path)
        if is_suspect:
            watch.unchanged_s(leftovers.owner_file(path))
            silent.append(path)
            continue
        yield Item(path=path, kind="staging", size_bytes=tree_bytes(path), last_used=_mtime(path), keep=keep)
    if silent:
        time.sleep(3 * beacon.HEARTBEAT_S)
    for path in silent:
        is_alive = watch.unchanged_s(leftovers.owner_file(path)) == 0.0 and leftovers.owner_file(path).exists()
        keep = "its build is alive" if is_alive else None
        yield Item(path=path, kind="staging", size_bytes=tree_bytes(path), last_used=_mtime(path), keep=keep)
    for path in links.children(store.layout.staging, below=store.root):
        if path.name.endswith(".owner") and not path.with_name(path.name.removesuffix(".owner")).exists():
            keep, is_suspect = leftovers.staging_owner(path.with_name(path.name.removesuffix(".owner")))
            if keep is None and not is_suspect:
                yield Item(path=path, kind="debris", size_bytes=0, last_used=_mtime(path))


def _loose(store: Store) -> Iterator[Item]:
    layout = store.layout
    for path, is_settled in leftovers.trash(layout.trash, below=store.root):
        keep = None if is_settled else "removed a moment ago"
        yield Item(path=path, kind="debris", size_bytes=tree_bytes(path), last_used=_mtime(path), keep=keep)
    kinds: tuple[tuple[Path, Kind], ...] = (
        (layout.quarantine, "quarantine"),
        (layout.logs, "log"),
    )
    for directory, kind in kinds:
        for path in links.children(directory, below=store.root):
            written = _mtime(path)
            keep = "written a moment ago" if kind == "log" and store.now() - written < GRACE_S else None
            yield Item(path=path, kind=kind, size_bytes=tree_bytes(path), last_used=written, keep=keep)
    for path in links.children(layout.downloads, below=store.root):
        if path.is_dir():
            builder = store.downloads.holder(path.name)
            keep = f"being downloaded by {builder.describe()}" if builder else None
            yield Item(path=path, kind="download", size_bytes=tree_bytes(path), last_used=_mtime(path), keep=keep)
    for model in links.children(layout.checkpoints, below=store.root):
        for sku in links.children(model, below=store.root):
            for path in links.children(sku, below=store.root):
                yield Item(
                    path=path,
                    kind="checkpoint",
                    size_bytes=tree_bytes(path),
                    last_used=_mtime(path),
                    name=path.name.rpartition("-")[2],
                )
    yield from _stray(store)


def _stray(store: Store) -> Iterator[Item]:
    """Yield drafts that a process left when it died between writing and renaming."""
    layout = store.layout
    state = links.directories(store.root / ".state", below=store.root)
    for directory in (store.root, layout.claims, layout.leases, layout.staging, layout.downloads, *state):
        found = links.children(directory, below=store.root)
        drafts = [path for path in found if _is_draft(path)]
        if not drafts:
            continue
        now = disk.file_system_now(directory)
        for path in drafts:
            if now - _mtime(path) > DEBRIS_AGE_S:
                yield Item(path=path, kind="debris", size_bytes=tree_bytes(path), last_used=_mtime(path))


def _is_draft(path: Path) -> bool:
    """Say whether a file is a draft, renamed when it is whole; ``hashes.*`` is that of a local model's hashes."""
    return path.name.endswith(".tmp") and path.name.startswith((".", "hashes."))


def _snapshots(store: Store, hf_cache: Path) -> Iterator[Item]:
    """Yield the revisions in a Hugging Face cache; while anything is being built none of them may go."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        info = scan_cache_dir(hf_cache)
    except (CacheNotFound, ValueError):
        return
    builders = [owner for owner in map(store.claims.holder, store.claims.digests()) if owner]
    keep = f"{builders[0].describe()} may read it" if builders else None
    for repo in info.repos:
        if not _is_own(Path(os.path.abspath(hf_cache)), repo.repo_path / "snapshots"):  # noqa: PTH100
            continue
        for revision in repo.revisions:
            size = info.delete_revisions(revision.commit_hash).expected_freed_size
            yield Item(
                path=revision.snapshot_path,
                kind="snapshot",
                size_bytes=size,
                last_used=max(repo.last_accessed, revision.last_modified),
                keep=keep,
                name=revision.commit_hash,
            )


def _is_own(root: Path, directory: Path) -> bool:
    """Say whether a directory lies below the root, and not behind a link that leads elsewhere."""
    path = Path(os.path.abspath(directory))  # noqa: PTH100 - the path as named, links kept
    if root not in path.parents:
        return False
    try:
        links.refuse_links(path, below=root)
    except OSError:
        return False
    return True


def _remove_snapshot(item: Item, hf_cache: Path | None) -> bool:
    from huggingface_hub import scan_cache_dir

    if hf_cache is None or not item.path.exists():
        return False
    scan_cache_dir(hf_cache).delete_revisions(item.name).execute()
    return True


def _remove_entry(store: Store, item: Item) -> bool:
    held = store.claims.try_claim(item.name)
    if not isinstance(held, Held):
        return False
    try:
        found = store.at(item.path)
        if found is None or found.digest != item.name or found.last_used > item.last_used or _kept_now(store, found):
            return False
        moved = store.take_out(item.path)
        if moved is None:
            return False
        # A lease that was written before the entry was moved counts; its owner looks again for the entry.
        if leases.user(store.layout.leases, item.name):
            with contextlib.suppress(OSError):
                disk.rename(moved, item.path)
                store.close_entry(item.path)
                return False
        disk.remove_tree(moved)
        store.forget(found)
        return True
    finally:
        store.claims.release(held)


def _kept_now(store: Store, entry: Entry) -> bool:
    return entry.is_pinned or leases.user(store.layout.leases, entry.digest) is not None


def _remove_unless_building(store: Store, item: Item) -> bool:
    if any(store.claims.holder(digest) for digest in store.claims.digests() if digest.startswith(item.name)):
        return False
    moved = store.take_out(item.path)
    if moved is None:
        return False
    if item.kind == "broken" and not store.is_broken(moved):
        # A builder replaced it between looking and moving: put the good one back.
        with contextlib.suppress(OSError):
            disk.rename(moved, item.path)
            store.close_entry(item.path)
            return False
    disk.remove_tree(moved)
    return True


def _prune(store: Store) -> None:
    """Remove empty directories above entries, and stamps of entries that are gone; a publisher makes its own anew."""
    for model in links.children(store.layout.engines, below=store.root):
        for directory in (*links.children(model, below=store.root), model):
            with contextlib.suppress(OSError):
                directory.rmdir()
    there = {entry.digest for entry in store.entries()}
    for stamp in links.children(store.layout.used, below=store.root):
        if stamp.name not in there and store.now() - _mtime(stamp) > DEBRIS_AGE_S:
            disk.unlink(stamp)


def _mtime(path: Path) -> float:
    with contextlib.suppress(OSError):
        return path.lstat().st_mtime
    return 0.0


def tree_bytes(path: Path) -> int:
    """Return the sum of the sizes of all files below ``path``, following no link; 0 when it is gone."""
    total = 0
    with contextlib.suppress(OSError):
        if not path.is_dir() or path.is_symlink():
            return path.lstat().st_size
    for parent, _, files in os.walk(path):
        for name in files:
            with contextlib.suppress(OSError):
                total += Path(parent, name).lstat().st_size
    return total
