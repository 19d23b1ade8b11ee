"""A blob on its way: a data file written in ranges, and a journal of what is in it.

Decides what may be trusted after the process or the machine died. The journal's lines are

    w <range> <bytes>    so many bytes of the range were handed to the kernel: true until the kernel itself dies
    s <range> <bytes>    ... and are on the disk

so a killed process repeats what was in flight, and a machine that lost power repeats what was not synced. Whatever the
journal says, nothing becomes a blob before its hash is right.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from trtbuild.model.remote import RemoteFile

DATA_SUFFIX = ".trtbuild-incomplete"
JOURNAL_SUFFIX = ".trtbuild-incomplete.journal"
LEASE_S = 60.0
"""An untrusted lock is believed this long after its holder's last sign of life."""

_FORMAT = 1
_HASH_READ_BYTES = 4 << 20


class WrongContentError(Exception):
    """The bytes are all there, but their hash is not the hub's."""

    def __init__(self, algorithm: str, seen: str, expected: str) -> None:
        super().__init__(f"expected {algorithm} {expected}, got {seen}")


@dataclass
class Range:
    """A part of the file that one connection fetches front to back; ``done`` counts from ``start``."""

    start: int
    length: int
    done: int = 0
    journaled: int = 0


class Partial:
    """The unfinished download of one file. The caller holds the blob's lock; ranges may be written by several threads.

    Args:
        blob: Where the finished blob will be.
        file: The hub's record of it.
        range_bytes: Length of a range; the last one is shorter.
        sync_bytes: Bytes after which the data is synced to the disk.
        journal_bytes: Bytes of a range after which the journal is written.
    """

    def __init__(self, blob: Path, file: RemoteFile, *, range_bytes: int, sync_bytes: int, journal_bytes: int) -> None:
        self.blob, self.file = blob, file
        self.data = blob.with_name(blob.name + DATA_SUFFIX)
        self.journal = blob.with_name(blob.name + JOURNAL_SUFFIX)
        self._range_bytes, self._sync_bytes, self._journal_bytes = range_bytes, sync_bytes, journal_bytes
        self._unsynced = 0
        self._lock = threading.Lock()
        self._hash_lock = threading.Lock()
        self._hash, self._hashed = _new_hash(file), 0
        self.ranges = [
            Range(start, min(range_bytes, file.size - start)) for start in range(0, file.size, range_bytes)
        ] or [Range(0, 0)]
        for part, done in zip(self.ranges, self._recover(), strict=True):
            part.done = part.journaled = done
        self._data_fd = os.open(self.data, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._journal_fd: int | None = None
        try:
            os.ftruncate(self._data_fd, file.size)
            self._start_journal()
        except BaseException:
            self.close()
            raise

    @property
    def done_bytes(self) -> int:
        """Bytes of the file that need not be fetched again."""
        return sum(part.done for part in self.ranges)

    @property
    def is_complete(self) -> bool:
        """All bytes are there (right or wrong)."""
        return all(part.done == part.length for part in self.ranges)

    def write(self, index: int, data: bytes) -> None:
        """Add ``data`` to a range.

        Raises:
            OSError: The disk is full or broken.
        """
        part = self.ranges[index]
        view = memoryview(data)
        while view:
            written = os.pwrite(self._data_fd, view, part.start + part.done)
            part.done += written
            view = view[written:]
        if part.done - part.journaled >= self._journal_bytes or part.done == part.length:
            self._note(index)
        with self._lock:
            self._unsynced += len(data)
            must_sync = self._unsynced >= self._sync_bytes
            if must_sync:
                self._unsynced = 0
        if must_sync:
            self.sync()

    def restart(self, index: int) -> int:
        """Forget what is in a range; return how many bytes that were."""
        part = self.ranges[index]
        with self._hash_lock:
            lost, part.done, part.journaled = part.done, 0, 0
            if self._hashed > part.start:  # what comes instead may differ from what was hashed
                self._hash, self._hashed = _new_hash(self.file), 0
        return lost

    def sync(self) -> None:
        """Put the data on the disk and say so in the journal."""
        state = [part.done for part in self.ranges]
        os.fdatasync(self._data_fd)
        self._append("".join(f"s {index} {done}\n" for index, done in enumerate(state) if done))

    def advance_hash(self) -> None:
        """Hash what is there from the beginning without a gap, unless another thread is at it."""
        if self._hash_lock.acquire(blocking=False):
            try:
                self._hash_to(self._frontier())
            finally:
                self._hash_lock.release()

    def publish(self) -> None:
        """Check the content against the hub's record and turn it into the blob.

        Raises:
            WrongContentError: The hash differs; the partial file is gone.
            OSError: The disk failed.
        """
        with self._hash_lock:
            self._hash_to(self.file.size)
            seen = self._hash.hexdigest()
        if seen != self.file.etag:
            self.discard()
            raise WrongContentError(self._hash.name, seen, self.file.etag)
        os.fsync(self._data_fd)
        try:
            self.data.replace(self.blob)
        except FileNotFoundError:
            # With an untrusted lock a peer may have been first; its blob passed the same check.
            if not self.blob.is_file():
                raise  # somebody emptied the cache meanwhile
        _sync_directory(self.blob.parent)
        self.close()
        self.journal.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove every trace."""
        self.close()
        remove_leftovers(self.blob)

    def close(self) -> None:
        """Close the files and leave them for the next attempt, also by another machine without delay."""
        with self._lock:
            descriptors = [fd for fd in (self._data_fd, self._journal_fd) if fd is not None and fd >= 0]
            self._data_fd, self._journal_fd = -1, None
        for descriptor in descriptors:
            os.close(descriptor)
        if descriptors:
            with contextlib.suppress(OSError):
                os.utime(self.journal, (0, 0))

    def touch(self) -> None:
        """Show that the download is alive while nothing arrives."""
        with contextlib.suppress(OSError):
            os.utime(self.journal)

    def _note(self, index: int) -> None:
        part = self.ranges[index]
        part.journaled = part.done
        self._append(f"w {index} {part.done}\n")

    def _append(self, text: str) -> None:
        with self._lock:
            if self._journal_fd is not None:
                os.write(self._journal_fd, text.encode())

    def _frontier(self) -> int:
        for part in self.ranges:
            if part.done < part.length:
                return part.start + part.done
        return self.file.size

    def _hash_to(self, end: int) -> None:
        while self._hashed < end:
            piece = os.pread(self._data_fd, min(_HASH_READ_BYTES, end - self._hashed), self._hashed)
            if not piece:
                break  # shorter than it should be: the hash will say so
            self._hash.update(piece)
            self._hashed += len(piece)

    def _header(self) -> dict[str, object]:
        return {"format": _FORMAT, "size": self.file.size, "range_bytes": self._range_bytes, "kernel": kernel_id()}

    def _recover(self) -> list[int]:
        """Return the trusted bytes of each range, all zero when there is nothing to build on."""
        done = [0] * len(self.ranges)
        try:
            lines = self.journal.read_text(encoding="utf-8").split("\n")[:-1]  # a line without its end is torn
            header = json.loads(lines[0])
            is_ours = {**header, "kernel": None} == {**self._header(), "kernel": None}
            if not is_ours or self.data.stat().st_size != self.file.size:
                return done
            trusted = {"s", "w"} if header["kernel"] == kernel_id() else {"s"}
            for line in lines[1:]:
                kind, index, count = line.split(" ")
                if kind in trusted and 0 <= int(count) <= self.ranges[int(index)].length:
                    done[int(index)] = max(done[int(index)], int(count))
        except (OSError, ValueError, IndexError, KeyError, TypeError):
            return [0] * len(self.ranges)
        return done

    def _start_journal(self) -> None:
        """Replace the journal by one of our own that says the same, with everything synced."""
        if self.done_bytes:
            os.fdatasync(self._data_fd)
        lines = [json.dumps(self._header())]
        lines += [f"s {index} {part.done}" for index, part in enumerate(self.ranges) if part.done]
        temporary = self.journal.with_name(self.journal.name + ".tmp")
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        temporary.replace(self.journal)
        self._journal_fd = os.open(self.journal, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)


def recoverable_bytes(blob: Path, file: RemoteFile) -> int:
    """Return about how many bytes of an unfinished download occupy the disk already."""
    with contextlib.suppress(OSError):
        return min(file.size, blob.with_name(blob.name + DATA_SUFFIX).stat().st_blocks * 512)
    return 0


def is_leased(blob: Path, *, now: float, is_lock_trusted: bool) -> bool:
    """Say whether someone else may be at this blob although its lock was free.

    That is so when the file system's locks are not to be trusted, or when the journal was written by another kernel
    (another node on a shared volume, where locks may be local), and in both cases only shortly after a sign of life.
    """
    journal = blob.with_name(blob.name + JOURNAL_SUFFIX)
    try:
        age_s = now - journal.stat().st_mtime
        with journal.open(encoding="utf-8") as stream:
            kernel = json.loads(stream.readline()).get("kernel")
    except (OSError, ValueError, AttributeError):
        return False
    return age_s < LEASE_S and not (is_lock_trusted and kernel == kernel_id())


def remove_leftovers(blob: Path) -> None:
    """Remove what an unfinished download of ``blob`` left, if anything."""
    for suffix in (DATA_SUFFIX, JOURNAL_SUFFIX, JOURNAL_SUFFIX + ".tmp"):
        with contextlib.suppress(OSError):
            blob.with_name(blob.name + suffix).unlink()


def kernel_id() -> str:
    """Return the id of the running kernel: the same in all containers of a node, new with every boot."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return "unknown"


def _new_hash(file: RemoteFile) -> hashlib._Hash:
    if file.sha256:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)  # git's id of a blob


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
