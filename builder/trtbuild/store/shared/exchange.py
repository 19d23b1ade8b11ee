"""The second tier: engines that another node built.

It decides what is taken from the tier and what is given to it. Nothing is used that was not hashed first, nothing that
fails there stops a build here, and everything ends within a bounded time.

Layout: ``engines/<model>/<sku>/<entry>/manifest.json`` and ``.../files/<sha256>``. Files are named by their contents,
so two nodes that publish different builds of one key cannot mix them; the manifest is created last and only if there
is none.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from trtbuild.console import log
from trtbuild.console.log import format_bytes
from trtbuild.diskspace import existing_parent
from trtbuild.errors import StoreError
from trtbuild.plan.key import EngineKey
from trtbuild.spec import VerifyMode
from trtbuild.store import disk
from trtbuild.store.claims import Held
from trtbuild.store.disk_errors import explained
from trtbuild.store.entries import Entry, Miss
from trtbuild.store.manifest import MANIFEST, MAX_MANIFEST_BYTES, Manifest, parse_manifest
from trtbuild.store.publish import publish_verified
from trtbuild.store.shared import transfer
from trtbuild.store.shared.parts import Parts
from trtbuild.store.shared.tier import Tier, TierError
from trtbuild.store.shared.transfer import Transfer, bounded
from trtbuild.store.store import Store


class Shared:
    """A shared tier beside a local store. No method raises for what happens to the tier."""

    def __init__(self, store: Store, tier: Tier) -> None:
        self._store = store
        self._tier = tier
        self._bad: set[str] = set()

    def describe(self, key: EngineKey) -> str:
        """Say in one line whether the tier has ``key``, for ``explain``; reads the manifest only."""
        try:
            manifest = bounded(lambda: self._manifest(key))
        except TierError as error:
            return f"unknown: {error}"
        if isinstance(manifest, Miss):
            return f"miss: {manifest.reason}"
        size = format_bytes(manifest.size_bytes)
        return f"hit: {size}, built {manifest.created_at}, in {self._tier.name}"

    def pull(self, key: EngineKey, *, make_room: Callable[[int], None] | None = None) -> Entry | Miss:
        """Fetch ``key`` from the tier and publish it here. Call it while holding the key's lock.

        Files arrive in parallel pieces and every one is hashed before anything is published. An interrupted download
        is continued by the next call, also of another process.

        Args:
            key: The engine wanted.
            make_room: Called with the bytes that are about to be written; when it refuses them, it is a miss.

        Raises:
            StoreError: The local store cannot be written.
        """
        try:
            manifest = bounded(lambda: self._manifest(key))
            if isinstance(manifest, Miss):
                return self._missed(key, manifest)
            if make_room:
                try:
                    make_room(manifest.size_bytes)
                except StoreError as error:
                    return Miss(reason=f"the engine in {self._tier.name} does not fit: {error.message}")
            free = shutil.disk_usage(existing_parent(self._store.root)).free
            if manifest.size_bytes > free:
                size = format_bytes(manifest.size_bytes)
                return Miss(reason=f"the engine in {self._tier.name} has {size}, {format_bytes(free)} are free here")
            return self._download(key, manifest)
        except TierError as error:
            log.get().warning("store-shared-failed", f"shared tier: {error}; going on without it")
            return Miss(reason=f"the shared tier failed: {error}")

    def push(self, entry: Entry, *, verify: VerifyMode = "sizes") -> bool:
        """Give a local entry to the tier, unless it has it; return whether the tier has a good one now.

        What :meth:`pull` found to be bad there is replaced.
        """
        try:
            problems = self._store.verify(entry, verify)
            if problems:
                raise TierError(f"the local engine is damaged ({problems[0]})")
            self._upload(entry)
        except TierError as error:
            log.get().warning("store-shared-failed", f"shared tier: {error}; the engine stays on this node only")
            return False
        return True

    # -- taking ------------------------------------------------------------------------------------------------------

    def _manifest(self, key: EngineKey) -> Manifest | Miss:
        data = self._tier.read(f"{_base(key)}/{MANIFEST}", limit_bytes=MAX_MANIFEST_BYTES)
        if data is None:
            return Miss(reason=f"{self._tier.name} does not have it")
        try:
            manifest = parse_manifest(data)
        except ValueError as error:
            self._bad.add(key.digest)
            return Miss(reason=f"{MANIFEST} in {self._tier.name}: {error}", path=Path(_base(key)))
        if manifest.key.digest != key.digest:
            self._bad.add(key.digest)
            return Miss(reason=f"{self._tier.name} has another key there", path=Path(_base(key)))
        return manifest

    def _missed(self, key: EngineKey, miss: Miss) -> Miss:
        if miss.path:
            log.get().warning("store-shared-bad", f"not used from the shared tier: {miss.reason}", key=key.short)
        else:
            log.get().info("store-shared-miss", f"shared tier: {miss.reason}", key=key.short)
        return miss

    def _download(self, key: EngineKey, manifest: Manifest) -> Entry | Miss:
        with self._place(key) as place:
            parts = Parts(place, manifest)
            for is_last in (False, True):
                self._fetch(key, parts)
                bad = parts.verify()
                if not bad:
                    break
                if is_last or not parts.was_resumed:
                    self._bad.add(key.digest)
                    parts.discard(bad)
                    return self._missed(key, Miss(reason=f"{self._tier.name}: {bad[0]} has the wrong hash", path=place))
                # Pieces that a killed process wrote may never have reached the disk; fetch those files once more.
                parts.discard(bad)
            with self._store.stage(key) as staging:
                parts.move_to(staging.path)
                entry = publish_verified(self._store.directory, staging, manifest)
        log.get().info("store-shared-hit", f"took {key.short} from {self._tier.name}", key=key.short)
        return entry

    @contextlib.contextmanager
    def _place(self, key: EngineKey) -> Iterator[Path]:
        """Give the directory that downloads of ``key`` are continued in, or a private one when another uses that."""
        layout = self._store.layout
        with explained("download an engine", layout.downloads):
            self._store.directory.prepare(layout.downloads)
            name = key.digest
            outcome = self._store.directory.downloads.try_claim(name)
            while not isinstance(outcome, Held):
                name = f"{key.digest}-{os.urandom(4).hex()}"
                outcome = self._store.directory.downloads.try_claim(name)
            place = layout.downloads / name
            try:
                self._store.directory.prepare(place)
                yield place
            finally:
                if name != key.digest or not any(place.glob("*.part")):
                    disk.remove_tree(place)
                self._store.directory.downloads.release(outcome)

    def _fetch(self, key: EngineKey, parts: Parts) -> None:
        todo = list(parts.missing())
        total = parts.total_bytes
        with log.get().progress("store-pull", f"fetching {key.short} from {self._tier.name}", total=total) as progress:
            progress.resume_at(total - sum(length for _, _, length in todo))
            jobs = Transfer(sum(length for _, _, length in todo), progress)

            def job(digest: str, start: int, length: int) -> Callable[[], int]:
                def work() -> int:
                    offset = start
                    with parts.open(digest) as part:
                        for data in self._tier.read_range(f"{_base(key)}/files/{digest}", start, length):
                            with jobs.writing():
                                offset += _write_all(part, data, offset)
                    parts.note(digest, start, length)
                    return length

                return work

            jobs.run([job(*piece) for piece in todo])

    # -- giving ------------------------------------------------------------------------------------------------------

    def _upload(self, entry: Entry) -> None:
        key, base = entry.key, _base(entry.key)
        if entry.digest not in self._bad and bounded(lambda: self._is_there(key)):
            log.get().info("store-shared-has", f"{self._tier.name} has {entry.short} already", key=entry.short)
            return
        is_bad = entry.digest in self._bad
        files = {record.sha256: (name, record.size) for name, record in entry.manifest.files.items()}
        with log.get().progress(
            "store-push", f"giving {entry.short} to {self._tier.name}", total=sum(size for _, size in files.values())
        ) as progress:
            jobs = Transfer(sum(size for _, size in files.values()), progress)

            def job(digest: str, name: str, size: int) -> Callable[[], int]:
                def work() -> int:
                    target = f"{base}/files/{digest}"
                    if is_bad or self._tier.size(target) != size:
                        self._tier.write_file(target, entry.path / name)
                    return size

                return work

            # One large file is one job here; its stall limit grows with its size.
            jobs.stall_s += max(size for _, size in files.values()) / transfer.MIN_BYTES_PER_S
            jobs.run([job(digest, name, size) for digest, (name, size) in sorted(files.items())])
        data = entry.manifest.to_bytes()
        if is_bad:
            bounded(lambda: self._tier.replace(f"{base}/{MANIFEST}", data))
            self._bad.discard(entry.digest)
        elif not bounded(lambda: self._tier.create(f"{base}/{MANIFEST}", data)):
            log.get().info("store-shared-has", f"another node gave {entry.short} to the tier first", key=entry.short)
        log.get().info("store-shared-pushed", f"{entry.short} is in {self._tier.name}", key=entry.short)

    def _is_there(self, key: EngineKey) -> bool:
        manifest = self._manifest(key)
        if isinstance(manifest, Miss):
            return False
        for record in manifest.files.values():
            if self._tier.size(f"{_base(key)}/files/{record.sha256}") != record.size:
                self._bad.add(key.digest)
                return False
        return True


def _base(key: EngineKey) -> str:
    return f"engines/{key.relative_path.as_posix()}"


def _write_all(fd: int, data: memoryview, offset: int) -> int:
    """Write all of ``data`` at ``offset``; return its length in bytes."""
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], offset + done)
    return done
