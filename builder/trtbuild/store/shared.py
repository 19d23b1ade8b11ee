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
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from trtbuild.console import log
from trtbuild.console.log import Progress, format_bytes
from trtbuild.errors import StoreError
from trtbuild.plan.key import EngineKey
from trtbuild.spec import VerifyMode
from trtbuild.store import disk
from trtbuild.store.claims import Held
from trtbuild.store.core import Store
from trtbuild.store.disk_errors import existing_parent, explained
from trtbuild.store.entries import Entry, Miss
from trtbuild.store.files import hash_files
from trtbuild.store.manifest import MANIFEST, MAX_MANIFEST_BYTES, Manifest, parse_manifest
from trtbuild.store.tier import Tier, TierError

CHUNK_BYTES = 16 << 20
STALL_S = 90.0
GRACE_S = 60.0
MIN_BYTES_PER_S = 16 << 20
_WORKERS = 8
_ATTEMPTS = 3


class Shared:
    """A shared tier beside a local store. No method raises for what happens to the tier."""

    def __init__(self, store: Store, tier: Tier) -> None:
        self._store = store
        self._tier = tier
        self._bad: set[str] = set()

    def describe(self, key: EngineKey) -> str:
        """Say in one line whether the tier has ``key``, for ``explain``; reads the manifest only."""
        try:
            manifest = _bounded(lambda: self._manifest(key), GRACE_S)
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
            manifest = _bounded(lambda: self._manifest(key), GRACE_S)
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
            parts = _Parts(place, manifest)
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
                entry = self._store.publish_verified(staging, manifest)
        log.get().info("store-shared-hit", f"took {key.short} from {self._tier.name}", key=key.short)
        return entry

    @contextlib.contextmanager
    def _place(self, key: EngineKey) -> Iterator[Path]:
        """Give the directory that downloads of ``key`` are continued in, or a private one when another uses that."""
        layout = self._store.layout
        with explained("download an engine", layout.downloads):
            self._store.prepare(layout.downloads)
            name = key.digest
            outcome = self._store.downloads.try_claim(name)
            while not isinstance(outcome, Held):
                name = f"{key.digest}-{os.urandom(4).hex()}"
                outcome = self._store.downloads.try_claim(name)
            place = layout.downloads / name
            try:
                self._store.prepare(place)
                yield place
            finally:
                if name != key.digest or not any(place.glob("*.part")):
                    disk.remove_tree(place)
                self._store.downloads.release(outcome)

    def _fetch(self, key: EngineKey, parts: _Parts) -> None:
        todo = list(parts.missing())
        total = parts.total_bytes
        with log.get().progress("store-pull", f"fetching {key.short} from {self._tier.name}", total=total) as progress:
            progress.resume_at(total - sum(length for _, _, length in todo))
            transfer = _Transfer(sum(length for _, _, length in todo), progress)

            def job(digest: str, start: int, length: int) -> Callable[[], int]:
                def work() -> int:
                    offset = start
                    with parts.open(digest) as part:
                        for data in self._tier.read_range(f"{_base(key)}/files/{digest}", start, length):
                            with transfer.writing():
                                offset += _write_all(part, data, offset)
                    parts.note(digest, start, length)
                    return length

                return work

            transfer.run([job(*piece) for piece in todo])

    # -- giving ------------------------------------------------------------------------------------------------------

    def _upload(self, entry: Entry) -> None:
        key, base = entry.key, _base(entry.key)
        if entry.digest not in self._bad and _bounded(lambda: self._is_there(key), GRACE_S):
            log.get().info("store-shared-has", f"{self._tier.name} has {entry.short} already", key=entry.short)
            return
        is_bad = entry.digest in self._bad
        files = {record.sha256: (name, record.size) for name, record in entry.manifest.files.items()}
        with log.get().progress(
            "store-push", f"giving {entry.short} to {self._tier.name}", total=sum(size for _, size in files.values())
        ) as progress:
            transfer = _Transfer(sum(size for _, size in files.values()), progress)

            def job(digest: str, name: str, size: int) -> Callable[[], int]:
                def work() -> int:
                    target = f"{base}/files/{digest}"
                    if is_bad or self._tier.size(target) != size:
                        self._tier.write_file(target, entry.path / name)
                    return size

                return work

            # One large file is one job here; its stall limit grows with its size.
            transfer.stall_s += max(size for _, size in files.values()) / MIN_BYTES_PER_S
            transfer.run([job(digest, name, size) for digest, (name, size) in sorted(files.items())])
        data = entry.manifest.to_bytes()
        if is_bad:
            _bounded(lambda: self._tier.replace(f"{base}/{MANIFEST}", data), GRACE_S)
            self._bad.discard(entry.digest)
        elif not _bounded(lambda: self._tier.create(f"{base}/{MANIFEST}", data), GRACE_S):
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


class _Parts:
    """The files of one download, as far as they are there.

    ``<sha256>.part`` has the final size from the start; ``<sha256>.done`` has a line for each piece that was written.
    """

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self._directory = directory
        self._manifest = manifest
        self._sizes = {record.sha256: record.size for record in manifest.files.values()}
        self._lock = threading.Lock()
        self.total_bytes = sum(self._sizes.values())
        self.was_resumed = any(directory.glob("*.done"))

    def missing(self) -> Iterator[tuple[str, int, int]]:
        """Yield the pieces still to be fetched: sha256, start, length."""
        for digest, size in self._sizes.items():
            part = self._directory / f"{digest}.part"
            if not part.exists() or part.stat().st_size != size:
                self.discard([digest])
                with part.open("wb") as stream:
                    stream.truncate(size)
            done = self._done(digest)
            for start in range(0, size, CHUNK_BYTES):
                length = min(CHUNK_BYTES, size - start)
                if (start, length) not in done:
                    yield digest, start, length

    def _done(self, digest: str) -> set[tuple[int, int]]:
        found = set()
        with contextlib.suppress(FileNotFoundError):
            for line in (self._directory / f"{digest}.done").read_text(errors="replace").splitlines():
                with contextlib.suppress(ValueError):
                    start, length = line.split()
                    found.add((int(start), int(length)))
        return found

    @contextlib.contextmanager
    def open(self, digest: str) -> Iterator[int]:
        """Open the part of one file for writing anywhere in it; gives the file descriptor."""
        path = self._directory / f"{digest}.part"
        disk.fault_hook("part", path)
        fd = os.open(path, os.O_WRONLY)
        try:
            yield fd
        finally:
            os.close(fd)

    def note(self, digest: str, start: int, length: int) -> None:
        """Note that a piece is there."""
        with self._lock, (self._directory / f"{digest}.done").open("a") as notes:
            notes.write(f"{start} {length}\n")

    def verify(self) -> list[str]:
        """Hash every file; return the names (sha256) of those that are not what they should be."""
        names = [f"{digest}.part" for digest in self._sizes]
        bad = []
        for name, found in hash_files(self._directory, names):
            if isinstance(found, OSError):
                raise found
            if found != name.removesuffix(".part"):
                bad.append(name.removesuffix(".part"))
        return sorted(bad)

    def discard(self, digests: list[str]) -> None:
        """Forget what was fetched of some files."""
        for digest in digests:
            (self._directory / f"{digest}.part").unlink(missing_ok=True)
            (self._directory / f"{digest}.done").unlink(missing_ok=True)

    def move_to(self, target: Path) -> None:
        """Move the files to where they belong; equal files of different names are copied."""
        names: dict[str, list[str]] = {}
        for name, record in self._manifest.files.items():
            names.setdefault(record.sha256, []).append(name)
        for digest, (first, *others) in names.items():
            (target / first).parent.mkdir(parents=True, exist_ok=True)
            disk.rename(self._directory / f"{digest}.part", target / first)
            (self._directory / f"{digest}.done").unlink(missing_ok=True)
            for other in others:
                (target / other).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(target / first, target / other)


class _Transfer:
    """Runs jobs in threads that nobody has to wait for: a hung network mount cannot hang the caller."""

    def __init__(self, total_bytes: int, progress: Progress) -> None:
        self._progress = progress
        self._deadline_s = GRACE_S + total_bytes / MIN_BYTES_PER_S
        self.stall_s = STALL_S
        self._change = threading.Condition()
        self._error: BaseException | None = None
        self._left = 0
        self._moved_at = time.monotonic()
        self._is_over = False
        self._writers = 0

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Let a job change local files, unless the transfer was given up meanwhile."""
        with self._change:
            if self._is_over:
                raise TierError("the transfer was given up")
            self._writers += 1
        try:
            yield
        finally:
            with self._change:
                self._writers -= 1
                self._change.notify_all()

    def run(self, jobs: list[Callable[[], int]]) -> None:
        """Run all jobs, each up to three times.

        Raises:
            TierError: One failed, nothing moved for too long, or it is slower than building would be.
            OSError: The local disk failed.
        """
        queue = list(reversed(jobs))
        self._left, began = len(queue), time.monotonic()
        self._moved_at = began
        for n in range(min(_WORKERS, len(queue))):
            threading.Thread(target=self._work, args=(queue,), name=f"transfer-{n}", daemon=True).start()
        with self._change:
            while self._left and self._error is None:
                now = time.monotonic()
                if now - self._moved_at > self.stall_s:
                    self._error = TierError(f"nothing arrived for {self.stall_s:.0f} s")
                elif now - began > self._deadline_s:
                    self._error = TierError(f"slower than {format_bytes(MIN_BYTES_PER_S)}/s for {now - began:.0f} s")
                else:
                    self._change.wait(0.5)
            self._is_over = True
            # Nobody may write to a file any more when the caller goes on to rename, verify or remove it.
            self._change.wait_for(lambda: self._writers == 0)
            if self._error is not None:
                raise self._error

    def _work(self, queue: list[Callable[[], int]]) -> None:
        while True:
            with self._change:
                if self._is_over or not queue:
                    return
                job = queue.pop()
            try:
                moved = self._attempt(job)
            except (TierError, OSError) as error:
                with self._change:
                    self._error = self._error or error
                    self._change.notify_all()
                return
            self._progress.advance(moved)
            with self._change:
                self._left -= 1
                self._moved_at = time.monotonic()
                self._change.notify_all()

    def _attempt(self, job: Callable[[], int]) -> int:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return job()
            except TierError:
                if attempt == _ATTEMPTS or self._is_over:
                    raise
                time.sleep(0.2 * 4**attempt / 4)
        raise AssertionError("unreachable")


def _write_all(fd: int, data: memoryview, offset: int) -> int:
    """Write all of ``data`` at ``offset``; return its length in bytes."""
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], offset + done)
    return done


_T = TypeVar("_T")


def _bounded(work: Callable[[], _T], limit_s: float) -> _T:
    """Return what ``work`` returns, or give it up after ``limit_s`` seconds."""
    results: list[_T] = []
    errors: list[TierError] = []

    def run() -> None:
        try:
            results.append(work())
        except TierError as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="shared-tier", daemon=True)
    thread.start()
    thread.join(limit_s)
    if results:
        return results[0]
    raise errors[0] if errors else TierError(f"no answer within {limit_s:.0f} s")
