"""What takes room in a store, how much, and why some of it must stay.

It decides what everything below the root is, and who needs it. It does not decide what goes.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from trtbuild.console.log import format_duration
from trtbuild.diskspace import existing_parent
from trtbuild.store import beacon, disk, find, lease, leftovers, links
from trtbuild.store.directory import StoreDirectory
from trtbuild.store.entries import Entry
from trtbuild.store.hf_cache import is_own, snapshots
from trtbuild.store.items import Item, Kind, Usage, changed_at, tree_bytes
from trtbuild.store.liveness import Watch

GRACE_S = 15 * 60.0
DEBRIS_AGE_S = 3600.0


def measure(directory: StoreDirectory, *, hf_cache: Path | None) -> tuple[list[Item], Usage]:
    """Return everything that takes room in the store."""
    items = [*_entries(directory), *_broken(directory), *_staging(directory), *_loose(directory)]
    cached = list(snapshots(directory, hf_cache)) if hf_cache else []
    inside = hf_cache is not None and is_own(directory.root, hf_cache)
    by_kind: dict[str, int] = {}
    for item in [*items, *(cached if inside else [])]:
        by_kind[item.kind] = by_kind.get(item.kind, 0) + item.size_bytes
    known = {"engines", ".staging", ".quarantine", ".trash", ".downloads", "logs", "checkpoints"}
    for path in links.children(directory.root, below=directory.root):
        if path.name not in known and not (inside and hf_cache and path in (hf_cache, *hf_cache.parents)):
            by_kind["other"] = by_kind.get("other", 0) + tree_bytes(path)
    if inside and hf_cache:
        # Unfinished downloads and whatever else lies beside the snapshots.
        rest = tree_bytes(hf_cache) - sum(item.size_bytes for item in cached)
        by_kind["other"] = by_kind.get("other", 0) + max(0, rest)
    usage = Usage(
        by_kind=by_kind,
        outside_bytes=0 if inside else sum(item.size_bytes for item in cached),
        free_bytes=shutil.disk_usage(existing_parent(directory.root)).free,
    )
    return items + (cached if inside else []), usage


def _entries(directory: StoreDirectory) -> Iterator[Item]:
    for entry in find.entries(directory):
        yield Item(
            path=entry.path,
            kind="entry",
            size_bytes=entry.size_bytes,
            last_used=entry.last_used,
            keep=_why_kept(directory, entry),
            name=entry.digest,
        )


def _why_kept(directory: StoreDirectory, entry: Entry) -> str | None:
    if entry.is_pinned:
        return "pinned"
    user = lease.user(directory, entry.digest)
    if user:
        return f"in use by {user}"
    builder = directory.claims.holder(entry.digest)
    if builder:
        return f"being built by {builder.describe()}"
    idle_s = directory.now() - entry.last_used
    return f"used {format_duration(max(0.0, idle_s))} ago" if idle_s < GRACE_S else None


def _broken(directory: StoreDirectory) -> Iterator[Item]:
    for broken in find.broken(directory):
        # Without a valid manifest the digest is unknown; the name ends in its beginning.
        short = broken.path.name.rpartition("-")[2]
        builders = [
            directory.claims.holder(digest) for digest in directory.claims.digests() if digest.startswith(short)
        ]
        builder = next((owner for owner in builders if owner), None)
        yield Item(
            path=broken.path,
            kind="broken",
            size_bytes=tree_bytes(broken.path),
            last_used=changed_at(broken.path),
            keep=f"being built by {builder.describe()}" if builder else None,
            name=short,
        )


def _staging(directory: StoreDirectory) -> Iterator[Item]:
    """Yield staging directories; those whose owner's death cannot be proven otherwise are watched for a moment."""
    watch, silent = Watch(), []
    for path in links.children(directory.layout.staging, below=directory.root):
        # Drafts of beacons begin with a dot; a directory always has its beacon before it is made.
        if path.name.endswith(".owner") or path.name.startswith("."):
            continue
        keep, is_suspect = leftovers.staging_owner(path)
        if is_suspect:
            watch.unchanged_s(leftovers.owner_file(path))
            silent.append(path)
            continue
        yield Item(path=path, kind="staging", size_bytes=tree_bytes(path), last_used=changed_at(path), keep=keep)
    if silent:
        time.sleep(3 * beacon.HEARTBEAT_S)
    for path in silent:
        is_alive = watch.unchanged_s(leftovers.owner_file(path)) == 0.0 and leftovers.owner_file(path).exists()
        keep = "its build is alive" if is_alive else None
        yield Item(path=path, kind="staging", size_bytes=tree_bytes(path), last_used=changed_at(path), keep=keep)
    for path in links.children(directory.layout.staging, below=directory.root):
        if path.name.endswith(".owner") and not path.with_name(path.name.removesuffix(".owner")).exists():
            keep, is_suspect = leftovers.staging_owner(path.with_name(path.name.removesuffix(".owner")))
            if keep is None and not is_suspect:
                yield Item(path=path, kind="debris", size_bytes=0, last_used=changed_at(path))


def _loose(directory: StoreDirectory) -> Iterator[Item]:
    layout = directory.layout
    for path, is_settled in leftovers.trash(layout.trash, below=directory.root):
        keep = None if is_settled else "removed a moment ago"
        yield Item(path=path, kind="debris", size_bytes=tree_bytes(path), last_used=changed_at(path), keep=keep)
    kinds: tuple[tuple[Path, Kind], ...] = (
        (layout.quarantine, "quarantine"),
        (layout.logs, "log"),
    )
    for place, kind in kinds:
        for path in links.children(place, below=directory.root):
            written = changed_at(path)
            keep = "written a moment ago" if kind == "log" and directory.now() - written < GRACE_S else None
            yield Item(path=path, kind=kind, size_bytes=tree_bytes(path), last_used=written, keep=keep)
    for path in links.children(layout.downloads, below=directory.root):
        if path.is_dir():
            builder = directory.downloads.holder(path.name)
            keep = f"being downloaded by {builder.describe()}" if builder else None
            yield Item(path=path, kind="download", size_bytes=tree_bytes(path), last_used=changed_at(path), keep=keep)
    for model in links.children(layout.checkpoints, below=directory.root):
        for sku in links.children(model, below=directory.root):
            for path in links.children(sku, below=directory.root):
                yield Item(
                    path=path,
                    kind="checkpoint",
                    size_bytes=tree_bytes(path),
                    last_used=changed_at(path),
                    name=path.name.rpartition("-")[2],
                )
    yield from _stray(directory)


def _stray(directory: StoreDirectory) -> Iterator[Item]:
    """Yield drafts that a process left when it died between writing and renaming."""
    layout = directory.layout
    state = links.directories(directory.root / ".state", below=directory.root)
    for place in (directory.root, layout.claims, layout.leases, layout.staging, layout.downloads, *state):
        found = links.children(place, below=directory.root)
        drafts = [path for path in found if _is_draft(path)]
        if not drafts:
            continue
        now = disk.file_system_now(place)
        for path in drafts:
            if now - changed_at(path) > DEBRIS_AGE_S:
                yield Item(path=path, kind="debris", size_bytes=tree_bytes(path), last_used=changed_at(path))


def _is_draft(path: Path) -> bool:
    """Say whether a file is a draft, renamed when it is whole; ``hashes.*`` is that of a local model's hashes."""
    return path.name.endswith(".tmp") and path.name.startswith((".", "hashes."))
