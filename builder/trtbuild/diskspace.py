"""Why a file could not be written: no room, no inodes, a quota, a limit of the shell, permissions, or something else.

It decides what is asked of the system, and the words for it: :func:`explain` gives the cause with its figures and the
remedy; whose error it is, is decided by the stage that wrote. Compilers and libraries rarely pass on what the system
answered, so after one of them failed :func:`shortage` asks again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import stat
import uuid
from dataclasses import dataclass
from pathlib import Path

from trtbuild.console.log import format_bytes

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system answers when something does not fit."""

PROBE_BYTES = 4 << 20
"""A disk that does not take that much is full: file systems keep a little, and writers stop short of the end."""

FEW_INODES = 1000


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why the file system refused something, for people.

    Attributes:
        cause: What it found, with the figures, e.g. ``the disk of /data is full: 0 B are free``.
        remedy: What to do about it, or None where nothing particular is known.
    """

    cause: str
    remedy: str | None


def explain(path: Path, error: OSError, *, option: str, needed_bytes: int | None = None) -> Refusal:
    """Return why something at or below ``path`` could not be written or read, and what to do.

    Args:
        path: Where it was to be, used when the error names no path itself.
        error: What the file system answered.
        option: The option that names another place, e.g. ``--store``.
        needed_bytes: Bytes that were to be written, when that is known.
    """
    where = refused_path(error, path)
    if error.errno in NO_ROOM:
        needs = f", {format_bytes(needed_bytes)} are needed" if needed_bytes is not None else ""
        return Refusal(cause=f"{reason(where, error)}{needs}", remedy=_remedy_for_room(where, error, option))
    known = {
        errno.EROFS: (
            f"{existing_parent(where)} is on a read-only file system",
            f"mount it writable, or pass {option} with a directory on another disk",
        ),
        errno.ELOOP: (
            f"{where} is a symbolic link, and links are not followed there",
            f"find out who made it; then: rm {where}, or pass another {option}",
        ),
        errno.EIO: (
            f"the disk under {where} reports an input/output error",
            f"check the disk (dmesg), then name another directory with {option}",
        ),
    }
    if error.errno in known:
        cause, remedy = known[error.errno]
        return Refusal(cause=cause, remedy=remedy)
    if error.errno in {errno.EACCES, errno.EPERM}:
        remedy = "set the pod's fsGroup or runAsUser to match, or chown the directory"
        return Refusal(cause=ownership(where), remedy=f"{remedy}, or pass another {option}")
    if error.errno in {errno.EEXIST, errno.ENOTDIR} and (file := _file_in_the_way(where)):
        remedy = f"name a directory with {option}, or move {file} away"
        return Refusal(cause=f"{file} is a file, where a directory is expected", remedy=remedy)
    if error.errno == errno.ENOENT and where.parent.is_dir() and not where.exists():
        cause = f"{where} cannot be created; the file system of {where.parent} takes no new files"
        return Refusal(cause=cause, remedy=f"name a directory on a disk with {option}")
    named = f": {where}" if error.filename is not None else ""
    return Refusal(cause=f"{error.strerror or error}{named}", remedy=None)


def _remedy_for_room(where: Path, error: OSError, option: str) -> str:
    elsewhere = f"pass {option} with a directory on another disk"
    if error.errno == errno.EFBIG:
        return "raise it (ulimit -f unlimited)"
    if error.errno == errno.EDQUOT:
        return f"remove what this user has there (quota -s), or {elsewhere}"
    there = existing_parent(where)
    return f"make room there (df -h {there}; trtbuild store gc --dry-run shows what can go), or {elsewhere}"


def refused_path(error: OSError, path: Path) -> Path:
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


def reason(directory: Path, error: OSError) -> str | None:
    """Return in words what did not fit below ``directory``, with the figures; None when that was not the trouble."""
    there = existing_parent(directory)
    if error.errno == errno.EDQUOT:
        return f"the disk quota of uid {os.geteuid()} on {there} is used up"
    if error.errno == errno.EFBIG:
        return _file_limit() or f"the file system of {there} takes no file as large as that"
    if error.errno == errno.ENOSPC:
        return _full(there)
    return None


def shortage(directory: Path, *, needed_bytes: int | None = None) -> str | None:
    """Return why nothing more can be written below ``directory``, found out by trying; None when it can be.

    To be asked when a library or another program failed without saying why. ``needed_bytes``: what was to be written in
    all; a limit on the size of files above it is not named.
    """
    there = existing_parent(directory)
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    refused = _try_to_write(there, PROBE_BYTES if limit == resource.RLIM_INFINITY else min(PROBE_BYTES, limit))
    if refused is not None and refused.errno in NO_ROOM:
        return reason(there, refused)
    if refused is not None and refused.errno == errno.EROFS:
        return f"{there} is on a read-only file system"
    return None if needed_bytes is not None and needed_bytes <= limit else _file_limit()


def _try_to_write(directory: Path, count: int) -> OSError | None:
    """Return what the system says to a new file of so many bytes, which is gone again afterwards."""
    probe = directory / f".probe.{uuid.uuid4().hex}.tmp"
    try:
        with probe.open("xb") as stream:
            os.posix_fallocate(stream.fileno(), 0, count)
    except OSError as error:
        return error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    return None


def existing_parent(path: Path) -> Path:
    """Return ``path`` or its nearest parent that can be seen."""
    for candidate in (path, *path.parents):
        with contextlib.suppress(OSError):
            candidate.stat()
            return candidate
    return Path("/")


def _full(there: Path) -> str:
    room = os.statvfs(there)
    few = room.f_files and room.f_favail < FEW_INODES
    inodes = f" and {room.f_favail} inodes" if few else ""
    no_more = " takes no more files, it" if few and not room.f_favail else ""
    return f"the disk of {there}{no_more} is full: {format_bytes(room.f_bavail * room.f_frsize)}{inodes} are free"


def _file_limit() -> str | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit == resource.RLIM_INFINITY:
        return None
    return f"this process may write no file larger than {format_bytes(limit)} (ulimit -f)"
