"""The files of an entry on disk: which there are, their hashes, and whether they are those of the manifest.

It decides which names an entry's files may have, and what counts as damage. It changes nothing on disk.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trtbuild.spec import VerifyMode
from trtbuild.store.manifest import MANIFEST, Manifest, check_distinct, check_name

_HASH_CHUNK = 4 << 20


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong with an entry.

    Attributes:
        file: Name inside the entry, ``manifest.json`` for the manifest itself.
        message: What is wrong, with the value seen and the value expected.
    """

    file: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.message}"


def list_files(directory: Path) -> dict[str, os.stat_result]:
    """Return every file below ``directory`` but the manifest, by POSIX name.

    Raises:
        ValueError: Something is neither a regular file nor a directory, or has a name no entry may have.
    """
    found: dict[str, os.stat_result] = {}
    for parent, directories, files in os.walk(directory, onerror=_raise):
        for name in (*directories, *files):
            path = Path(parent, name)
            info = path.lstat()
            relative = path.relative_to(directory).as_posix()
            if stat.S_ISDIR(info.st_mode):
                continue
            if not stat.S_ISREG(info.st_mode):
                raise ValueError(f"{relative!r} is neither a file nor a directory ({stat.filemode(info.st_mode)[0]})")
            if relative != MANIFEST:
                found[check_name(relative)] = info
    check_distinct(found)
    return dict(sorted(found.items()))


def _raise(error: OSError) -> None:
    raise error


def hash_file(path: Path) -> str:
    """Return the sha256 of a file, 64 hex digits."""
    with path.open("rb", buffering=0) as stream:
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(_HASH_CHUNK))
        while count := stream.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def hash_files(directory: Path, names: list[str]) -> Iterator[tuple[str, str | OSError]]:
    """Yield each file's sha256, or why it could not be read, hashing as many at once as there are cores."""
    import concurrent.futures

    workers = max(1, min(16, os.cpu_count() or 1, len(names)))
    with concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="hash") as pool:
        jobs = {pool.submit(hash_file, directory / name): name for name in names}
        for job in concurrent.futures.as_completed(jobs):
            error = job.exception()
            if error is not None and not isinstance(error, OSError):
                raise error
            yield jobs[job], error if isinstance(error, OSError) else job.result()


def check_files(directory: Path, manifest: Manifest, mode: VerifyMode) -> tuple[Problem, ...]:
    """Compare a directory with its manifest: ``sizes`` costs one stat per file, ``full`` also reads and hashes all."""
    if mode == "none":
        return ()
    problems: list[Problem] = []
    for name, record in manifest.files.items():
        try:
            info = (directory / name).lstat()
        except OSError as error:
            problems.append(Problem(file=name, message=error.strerror or str(error)))
            continue
        if not stat.S_ISREG(info.st_mode):
            problems.append(Problem(file=name, message="expected a regular file"))
        elif info.st_size != record.size:
            problems.append(Problem(file=name, message=f"expected {record.size} bytes, got {info.st_size}"))
    if mode == "full":
        bad = {problem.file for problem in problems}
        for name, digest in hash_files(directory, [name for name in manifest.files if name not in bad]):
            if isinstance(digest, OSError):
                problems.append(Problem(file=name, message=f"cannot be read: {digest.strerror}"))
            elif digest != manifest.files[name].sha256:
                expected = manifest.files[name].sha256
                problems.append(Problem(file=name, message=f"expected sha256 {expected[:12]}..., got {digest[:12]}..."))
        try:
            extra = set(list_files(directory)) - set(manifest.files)
        except (OSError, ValueError) as error:
            problems.append(Problem(file=".", message=str(error)))
        else:
            problems += [Problem(file=name, message="is not in the manifest") for name in sorted(extra)]
    return tuple(problems)
