"""Looking into the store: what counts as a hit, and why something is none.

It changes nothing on disk but the time of last use.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from trtbuild.plan.key import EngineKey
from trtbuild.spec import VerifyMode
from trtbuild.store import links, marks
from trtbuild.store.directory import StoreDirectory
from trtbuild.store.disk_errors import explained
from trtbuild.store.entries import Broken, Entry, Miss
from trtbuild.store.files import Problem, check_files
from trtbuild.store.manifest import MANIFEST, MAX_MANIFEST_BYTES, Manifest, parse_manifest

# What a damaged entry, a failing sector or a replaced NFS directory answers; anything else is no entry's fault.
_UNREADABLE = {errno.EIO, errno.ESTALE, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EUCLEAN}


def get(directory: StoreDirectory, key: EngineKey, verify: VerifyMode) -> Entry | Miss:
    """Return the entry for ``key``, or why there is none; a use is noted."""
    path = directory.layout.entry(key)
    marks.touch(directory, key.digest, path)
    with explained("read the store", path):
        found = look(path, key, verify)
    return found if isinstance(found, Miss) else describe(directory, path, found)


def entries(directory: StoreDirectory) -> tuple[Entry, ...]:
    """Return every readable entry, most recently used first."""
    found: list[Entry] = []
    with explained("list the store", directory.layout.engines):
        for path in entry_directories(directory.layout.engines):
            entry = at(directory, path)
            if entry:
                found.append(entry)
    return tuple(sorted(found, key=lambda entry: (-entry.last_used, str(entry.path))))


def broken(directory: StoreDirectory) -> tuple[Broken, ...]:
    """Return every directory among the entries that has no valid manifest or does not match it by size."""
    found: list[Broken] = []
    with explained("list the store", directory.layout.engines):
        for path in entry_directories(directory.layout.engines):
            reason = why_broken(path)
            if reason:
                found.append(Broken(path=path, reason=reason))
    return tuple(found)


def why_broken(path: Path) -> str | None:
    """Return why a directory is no whole entry (by sizes), or None when it is one or is gone."""
    try:
        problems = check_files(path, read_manifest(path), "sizes")
    except FileNotFoundError:
        return f"{MANIFEST} is missing" if path.is_dir() else None
    except (OSError, ValueError) as error:
        return str(error)
    return str(problems[0]) if problems else None


def matching(directory: StoreDirectory, text: str) -> tuple[Entry, ...]:
    """Return the entries that ``text`` names: the beginning of a key (4 hex digits or more) or a path."""
    wanted = text.strip().lower()
    path = Path(os.path.abspath(text))  # noqa: PTH100 - the path as named, links kept
    is_prefix = len(wanted) >= 4 and all(char in "0123456789abcdef" for char in wanted)
    return tuple(
        entry
        for entry in entries(directory)
        if (is_prefix and entry.digest.startswith(wanted)) or entry.path == path or entry.path in path.parents
    )


def verify(entry: Entry, mode: VerifyMode) -> tuple[Problem, ...]:
    """Compare an entry with its manifest, which is read again; hashes in parallel when ``full``."""
    with explained("verify an entry", entry.path):
        try:
            manifest = read_manifest(entry.path)
        except FileNotFoundError:
            return (Problem(file=MANIFEST, message="is missing"),)
        except ValueError as error:
            return (Problem(file=MANIFEST, message=str(error).removeprefix(f"{MANIFEST}: ")),)
        if manifest.key.digest != entry.digest:
            return (Problem(file=MANIFEST, message=f"expected key {entry.short}, got {manifest.key.short}"),)
        return check_files(entry.path, manifest, mode)


def at(directory: StoreDirectory, path: Path) -> Entry | None:
    """Return the entry in a directory, or None when there is none that can be read."""
    with contextlib.suppress(OSError, ValueError):
        return describe(directory, path, read_manifest(path))
    return None


def describe(directory: StoreDirectory, path: Path, manifest: Manifest) -> Entry:
    """Return the entry that a manifest describes, with what is noted beside it."""
    return Entry(
        path=path,
        digest=manifest.key.digest,
        manifest=manifest,
        size_bytes=manifest.size_bytes,
        last_used=marks.last_used(directory, manifest.key.digest, path),
        is_pinned=marks.is_pinned(directory, manifest.key.digest),
    )


def read_manifest(directory: Path) -> Manifest:
    """Return the manifest of an entry's directory.

    Raises:
        ValueError: It is not a valid manifest; the message is for people.
        OSError: There is none, or it cannot be read.
    """
    try:
        return parse_manifest(links.read_small(directory / MANIFEST, limit_bytes=MAX_MANIFEST_BYTES))
    except ValueError as error:
        raise ValueError(f"{MANIFEST}: {error}") from None


def look(directory: Path, key: EngineKey, mode: VerifyMode) -> Manifest | Miss:
    """Return the manifest of ``directory`` when it holds exactly the engine that ``key`` describes."""
    try:
        manifest = read_manifest(directory)
    except FileNotFoundError:
        if not directory.is_dir():
            return Miss(reason="it was never built here, or has been collected")
        return Miss(reason=f"{MANIFEST} is missing", path=directory)
    except ValueError as error:
        return Miss(reason=str(error), path=directory)
    except OSError as error:
        if error.errno not in _UNREADABLE:
            raise
        return Miss(reason=f"{MANIFEST}: {error.strerror}", path=directory)
    if manifest.key.digest != key.digest:
        return Miss(reason=f"{directory.name} holds the engine of another key, {manifest.key.short}...", path=directory)
    problems = check_files(directory, manifest, mode)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return Miss(reason=f"{problems[0]}{more}", path=directory)
    return manifest


def entry_directories(engines: Path) -> Iterator[Path]:
    """Yield every directory at the depth of entries, ``<model>/<sku>/<entry>``; what is behind a link is no entry."""
    level = [path for path in links.children(engines, below=engines.parent) if _is_own_directory(path)]
    for _ in range(2):
        below: list[Path] = []
        for parent in level:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(parent) as found:
                below += [Path(item.path) for item in found if item.is_dir(follow_symlinks=False)]
        level = sorted(below)
    yield from level


def _is_own_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
