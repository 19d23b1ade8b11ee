"""What a failing disk means for people: who refused, where, and what to type next.

It decides the wording of every ``OSError`` that leaves the store. It changes nothing on disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from trtbuild import diskspace
from trtbuild.errors import StoreError


@contextlib.contextmanager
def explained(action: str, path: Path) -> Iterator[None]:
    """Turn an ``OSError`` inside into a :class:`StoreError` that says who, where and what to do next."""
    try:
        yield
    except OSError as error:
        raise store_error(action, path, error) from error


def store_error(action: str, path: Path, error: OSError) -> StoreError:
    """Return the error for people: what failed, what was found, what to type next."""
    where = _refused_path(error, path)
    if error.errno in diskspace.NO_ROOM:
        return StoreError(
            f"cannot {action}: {diskspace.reason(where, error)}",
            hint="raise it (ulimit -f unlimited)"
            if error.errno == errno.EFBIG
            else "trtbuild store gc --dry-run shows what can go; or name another disk with --store",
        )
    if error.errno == errno.EROFS:
        return StoreError(
            f"cannot {action}: {where} is on a read-only file system",
            hint="mount the store writable, or name another directory with --store",
        )
    if error.errno in {errno.EACCES, errno.EPERM}:
        return StoreError(
            f"cannot {action}: {ownership(where)}",
            hint="set the pod's fsGroup or runAsUser to match, or chown the directory, or use another --store",
        )
    if error.errno == errno.ELOOP:
        return StoreError(
            f"cannot {action}: {where} is a symbolic link, and the directories of a store are never links",
            hint=f"find out who made it; then: rm {where}, or use another --store",
        )
    if error.errno == errno.EIO:
        return StoreError(
            f"cannot {action}: the disk under {where} reports an input/output error",
            hint="check the disk (dmesg), then name another directory with --store",
        )
    if error.errno in {errno.EEXIST, errno.ENOTDIR} and (file := _file_in_the_way(where)):
        return StoreError(
            f"cannot {action}: {file} is a file, and a store is a directory",
            hint=f"name a directory with --store, or move {file} away",
        )
    if error.errno == errno.ENOENT and where.parent.is_dir() and not where.exists():
        return StoreError(
            f"cannot {action}: {where} cannot be created; the file system of {where.parent} takes no new files",
            hint="name a directory on a disk with --store",
        )
    return StoreError(f"cannot {action}: {error}", hint="trtbuild doctor checks the store's directory")


def _refused_path(error: OSError, path: Path) -> Path:
    """Return the path that an error is about, whole; of the two of a rename, the one whose directory refused."""
    names = [Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    named = [name if name.is_absolute() else path / name for name in names]
    if error.errno in {errno.EACCES, errno.EPERM} and len(named) > 1:
        closed = [name for name in named if not _is_writable(existing_parent(name.parent))]
        named = closed or named
    return named[0] if named else path


def _file_in_the_way(path: Path) -> Path | None:
    return next((found for found in (path, *path.parents) if found.exists() and not found.is_dir()), None)


def _is_writable(directory: Path) -> bool:
    return os.access(directory, os.W_OK | os.X_OK, effective_ids=True)


def ownership(path: Path) -> str:
    """Say who owns what refused: ``path`` itself or its nearest existing parent; its mode, and who we are."""
    found = existing_parent(path)
    if found == path and not path.is_dir() and not _is_writable(path.parent) and os.access(path, os.R_OK):
        found = path.parent  # a file that may be read could not be removed or renamed: its directory says no
    elif found == path and path.is_dir() and _is_writable(path) and not _is_writable(path.parent):
        found = path.parent
    try:
        info = found.stat()
    except OSError as error:
        return f"permission denied on {path} ({error.strerror}); this process is uid {os.geteuid()} gid {os.getegid()}"
    groups = ",".join(str(group) for group in sorted({os.getegid(), *os.getgroups()}))
    return (
        f"permission denied on {path}: {found} belongs to uid {info.st_uid} gid {info.st_gid} "
        f"mode {stat.S_IMODE(info.st_mode):04o}, this process is uid {os.geteuid()} gid {groups}"
    )


def existing_parent(path: Path) -> Path:
    """Return ``path`` or its nearest parent that can be seen."""
    for candidate in (path, *path.parents):
        try:
            candidate.lstat()
        except OSError:
            continue
        return candidate
    return Path("/")
