"""Why a file could not be written: no room, no inodes, a quota, a limit of the shell, or something else.

It decides what is asked of the system, and the words for it. Compilers and libraries rarely pass on what the system
told them, so after one of them failed :func:`shortage` asks again. Whose error it is and what to type next
is decided by the stage that wrote.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import uuid
from pathlib import Path

from trtbuild.console.log import format_bytes

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system answers when something does not fit."""

PROBE_BYTES = 4 << 20
"""A disk that does not take that much is full: file systems keep a little, and writers stop short of the end."""

FEW_INODES = 1000


def reason(directory: Path, error: OSError) -> str | None:
    """Return in words what did not fit below ``directory``, with the figures; None when that was not the trouble."""
    there = nearest(directory)
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
    there = nearest(directory)
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


def nearest(path: Path) -> Path:
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
