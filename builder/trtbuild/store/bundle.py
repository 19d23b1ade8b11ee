"""One engine as one file, for clusters without a network between them.

It decides the format of a bundle and trusts nothing in one: a plain, uncompressed tar whose first member is the
manifest, followed by exactly the manifest's files. What holds anything else is refused, and nothing of it is kept.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from trtbuild.console import log
from trtbuild.console.log import format_bytes
from trtbuild.diskspace import existing_parent
from trtbuild.errors import StoreError
from trtbuild.store import disk
from trtbuild.store.disk_errors import explained
from trtbuild.store.entries import Entry
from trtbuild.store.manifest import MANIFEST, MAX_MANIFEST_BYTES, Manifest, check_name, parse_manifest
from trtbuild.store.publish import publish_verified
from trtbuild.store.store import Store

_CHUNK = 4 << 20
_MAX_READ = 64 << 20
_HINT = "get the bundle again; trtbuild store export makes one"


def export_bundle(store: Store, entry: Entry, target: Path) -> int:
    """Write an entry to the tar ``target``, verified by hash on the way; return its size in bytes.

    The same entry gives the same bytes.

    Raises:
        StoreError: The entry is damaged, or the bundle cannot be written; nothing is left then.
    """
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    with store.lease(entry), explained("export an engine", target):
        try:
            with draft.open("xb") as raw, tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
                data = entry.manifest.to_bytes()
                tar.addfile(_member(MANIFEST, len(data)), io.BytesIO(data))
                for name, record in sorted(entry.manifest.files.items()):
                    with (entry.path / name).open("rb") as stream:
                        hashing = _Hashing(stream)
                        tar.addfile(_member(name, record.size), hashing)
                        if hashing.digest() != record.sha256 or stream.read(1):
                            raise StoreError(
                                f"{entry.path / name} is damaged: its hash is not the manifest's",
                                hint=f"trtbuild store verify {entry.short}; remove and rebuild it",
                            )
            disk.sync_file(draft)
            disk.rename(draft, target)
        finally:
            draft.unlink(missing_ok=True)
    return target.stat().st_size


def import_bundle(store: Store, source: Path) -> Entry:
    """Publish the engine in a bundle, verified by hash; an engine that is there already is left as it is.

    Raises:
        StoreError: The bundle is not exactly a manifest and its files, or there is no room for it.
    """
    with explained("import an engine", source):
        try:
            with source.open("rb") as raw, tarfile.open(fileobj=_Capped(raw), mode="r:") as tar:
                members = _members(tar)
                manifest = _first(tar, members)
                found = store.get(manifest.key)
                if isinstance(found, Entry):
                    log.get().info("store-import-has", f"{manifest.key.short} is in the store already")
                    return found
                _check_room(store, manifest)
                with store.lock(manifest.key), store.stage(manifest.key) as staging:
                    _extract(tar, members, manifest, staging.path)
                    return publish_verified(store.directory, staging, manifest)
        except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
            raise StoreError(f"{source} is not a bundle: {error}", hint=_HINT) from error


def _member(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members: plain files whose names stay inside, or the bundle is refused."""
    while (info := tar.next()) is not None:
        # tar.members keeps every header for random access; a bundle is read once, and may be hostile.
        tar.members.clear()  # type: ignore[attr-defined] # an attribute that typeshed does not know
        if not info.isreg() or info.issparse() or info.islnk() or info.issym():
            raise ValueError(f"member {info.name!r:.80} is not a plain file")
        if info.name != MANIFEST:
            check_name(info.name)
        # Python's own opinion on top of ours, where this Python has one. Source: PEP 706, from 3.11.4.
        if hasattr(tarfile, "data_filter"):
            tarfile.data_filter(info, "/nowhere")
        yield info


def _first(tar: tarfile.TarFile, members: Iterator[tarfile.TarInfo]) -> Manifest:
    info = next(members, None)
    if info is None or info.name != MANIFEST:
        raise ValueError(f"expected {MANIFEST} first, got {info.name if info else 'nothing'!r:.80}")
    if info.size > MAX_MANIFEST_BYTES:
        raise ValueError(f"{MANIFEST} has {info.size} bytes, expected at most {MAX_MANIFEST_BYTES}")
    stream = tar.extractfile(info)
    assert stream is not None  # a plain file
    return parse_manifest(stream.read())


def _check_room(store: Store, manifest: Manifest) -> None:
    free = shutil.disk_usage(existing_parent(store.root)).free
    if manifest.size_bytes > free:
        raise StoreError(
            f"the bundle says it holds {format_bytes(manifest.size_bytes)}, {format_bytes(free)} are free",
            hint="trtbuild store gc makes room; an absurd size means a damaged or hostile bundle",
        )


def _extract(tar: tarfile.TarFile, members: Iterator[tarfile.TarInfo], manifest: Manifest, target: Path) -> None:
    missing = set(manifest.files)
    for info in members:
        record = manifest.files.get(info.name)
        if record is None or info.name not in missing:
            raise ValueError(f"member {info.name!r:.80} is not in the manifest, or is there twice")
        if info.size != record.size:
            raise ValueError(f"member {info.name!r:.80} has {info.size} bytes, the manifest says {record.size}")
        missing.discard(info.name)
        stream = tar.extractfile(info)
        assert stream is not None  # a plain file
        path = target / info.name
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with path.open("xb") as out:
            while data := stream.read(_CHUNK):
                digest.update(data)
                out.write(data)
        if path.stat().st_size != record.size:
            raise ValueError(f"it ends inside {info.name!r:.80}")
        if digest.hexdigest() != record.sha256:
            raise ValueError(f"member {info.name!r:.80} has another hash than the manifest says")
    if missing:
        raise ValueError(f"it lacks {sorted(missing)[0]!r:.80}")


class _Hashing(io.RawIOBase):
    """A file that is hashed while it is read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        """Read and hash."""
        data = self._stream.read(size)
        self._hash.update(data)
        return data

    def digest(self) -> str:
        """Return the sha256 of what was read."""
        return self._hash.hexdigest()


class _Capped(io.RawIOBase):
    """A file that refuses reads no honest bundle needs: tarfile reads extended headers whole, however large."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self, size: int = -1, /) -> bytes:
        """Read at most what a manifest may need."""
        if not 0 <= size <= _MAX_READ:
            raise ValueError(f"a header claims {size} bytes")
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._stream.tell()

    def seekable(self) -> bool:
        """Return True."""
        return True

    def readable(self) -> bool:
        """Return True."""
        return True
