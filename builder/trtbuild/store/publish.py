"""Making what was staged an entry: hashed, synced, described by a manifest written last, renamed into place.

The store's correctness rests on this file alone: an entry is absent or whole whoever dies when, also where no lock
works. A peer that was faster is verified by hash and used.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from pathlib import Path

from trtbuild.console import log
from trtbuild.errors import StoreError
from trtbuild.plan.key import EngineKey
from trtbuild.spec import JsonValue
from trtbuild.store import disk, durations, find, marks, stage
from trtbuild.store.directory import StoreDirectory
from trtbuild.store.disk_errors import explained
from trtbuild.store.entries import Entry
from trtbuild.store.files import check_files, hash_files, list_files
from trtbuild.store.manifest import MANIFEST, FileRecord, Manifest, make_manifest
from trtbuild.store.stage import Staging

_PUBLISH_ATTEMPTS = 8
_GET_ANOTHER = "get another copy, or build the engine here"


def publish(
    directory: StoreDirectory,
    key: EngineKey,
    staging: Staging,
    provenance: Mapping[str, JsonValue],
    *,
    keep_work: bool = False,
) -> Entry:
    """Make what was staged the entry of ``key``; see :meth:`Store.publish`."""
    with explained("publish an engine", staging.path):
        directory.refuse_links()
        by: dict[str, JsonValue] = {"host": staging.owner.label, "uid": staging.owner.uid}
        manifest = _describe(directory, key, staging, {"built_by": by, **provenance})
        entry = _seal(directory, staging, manifest)
        if keep_work:
            stage.keep_work(directory, key, staging)
    return entry


def publish_verified(directory: StoreDirectory, staging: Staging, manifest: Manifest) -> Entry:
    """Publish files that came with a manifest and were checked against its hashes by the caller.

    Raises:
        StoreError: They are not exactly the manifest's files, or cannot be written.
    """
    with explained("publish an engine", staging.path):
        directory.refuse_links()
        problems = check_files(staging.path, manifest, "sizes")
        try:
            found = list_files(staging.path)
        except ValueError as error:
            raise StoreError(f"what was received cannot be published: {error}", hint=_GET_ANOTHER) from error
        extra = sorted(set(found) - set(manifest.files))
        if problems or extra:
            reason = str(problems[0]) if problems else f"{extra[0]} is not in the manifest"
            raise StoreError(f"what was received is not whole: {reason}", hint=_GET_ANOTHER)
        for name in found:
            disk.sync_file(staging.path / name)
        return _seal(directory, staging, manifest)


def _seal(directory: StoreDirectory, staging: Staging, manifest: Manifest) -> Entry:
    """Write the manifest, last, and rename all into place."""
    disk.write_file(staging.path / MANIFEST, manifest.to_bytes(), mode=directory.sharing().file_mode)
    for parent, _, _ in os.walk(staging.path, topdown=False):
        disk.sync_dir(Path(parent))
    entry = _move_in(directory, manifest.key, staging.path, manifest)
    with contextlib.suppress(OSError):
        directory.prepare(directory.layout.durations)
        durations.record(
            directory.layout.durations,
            manifest.key,
            manifest.provenance,
            sharing=directory.sharing(),
        )
    return entry


def _describe(
    directory: StoreDirectory, key: EngineKey, staging: Staging, provenance: Mapping[str, JsonValue]
) -> Manifest:
    try:
        found = list_files(staging.path)
    except ValueError as error:
        raise StoreError(
            f"the engine cannot be published: {error}", hint="this is a fault of the engine backend; please report"
        ) from error
    if not found:
        raise StoreError("the build left no files", hint="look at the build's log for the reason")
    for name in found:
        disk.sync_file(staging.path / name)
    files: dict[str, FileRecord] = {}
    for name, digest in hash_files(staging.path, list(found)):
        if isinstance(digest, OSError):
            raise digest
        files[name] = FileRecord(size=found[name].st_size, sha256=digest)
    return make_manifest(key, files, provenance, now=directory.now())


def _move_in(directory: StoreDirectory, key: EngineKey, staged: Path, manifest: Manifest) -> Entry:
    target = directory.layout.entry(key)
    for _ in range(_PUBLISH_ATTEMPTS):
        directory.prepare(target.parent)
        try:
            disk.rename(staged, target)
        except OSError as error:
            if error.errno == errno.ENOENT and staged.exists():
                continue  # a collector removed the empty parent in between
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                raise
            peer = find.look(target, key, "full")
            if isinstance(peer, Manifest):
                log.get().info("store-peer-won", f"another process published {key.short} first; using its engine")
                marks.touch(directory, key.digest, target)
                return find.describe(directory, target, peer)
            set_aside(directory, target, peer.reason)
            continue
        disk.sync_dir(target.parent)
        close_entry(directory, target)
        marks.touch(directory, key.digest, target)
        return find.describe(directory, target, manifest)
    raise StoreError(
        f"{target} keeps changing while it is replaced",
        hint="another program writes there; give trtbuild a directory of its own with --store",
    )


def close_entry(directory: StoreDirectory, path: Path) -> None:
    """Make a published entry read-only; in a group's store its directories stay writable for collection."""
    disk.make_read_only(path, dir_mode=directory.sharing().entry_dir_mode)


def set_aside(directory: StoreDirectory, path: Path, reason: str) -> None:
    """Move a bad entry to the quarantine, where nothing is ever used from."""
    moved = directory.move_aside(path, directory.layout.quarantine)
    if moved:
        log.get().warning("store-quarantine", f"moved {path} aside to {moved}: {reason}", path=str(moved))
