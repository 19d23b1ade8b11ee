"""The files of a download that is not finished, kept so that the next process can go on with it.

It decides how unfinished downloads look on disk.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from trtbuild.store import disk
from trtbuild.store.files import hash_files
from trtbuild.store.manifest import Manifest

CHUNK_BYTES = 16 << 20


class Parts:
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
