"""Write a repository: render it, swap it in, and say why when the disk refuses it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from trtbuild import diskspace
from trtbuild.console.log import format_bytes
from trtbuild.errors import RepositoryError
from trtbuild.repository.render import ServedModel, render_repository
from trtbuild.repository.versions import read_current, refuse_foreign, swap_in, sweep, versions_directory, writing


def write_repository(root: Path, models: Sequence[ServedModel], *, keep_others: bool = False) -> Path:
    """Make ``root`` the repository that serves ``models``.

    Args:
        root: Path of the repository; its parent must be writable.
        models: What to serve, each under its own name.
        keep_others: Keep what the repository serves under other names.

    Returns:
        ``root``, for ``--model-repository``.

    Raises:
        RepositoryError: Something cannot be rendered, does not pass the checks or cannot be written.
    """
    needed_bytes = None
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with writing(root) as boot:
            sweep(versions_directory(root), boot)
            refuse_foreign(root)
            kept = read_current(root) if keep_others else ({}, {})
            record, files = render_repository(models, kept=kept)
            needed_bytes = sum(map(len, files.values()))
            return swap_in(root, record, files, boot)
    except OSError as error:
        raise unwritable(f"the model repository {root}", root.parent, error, needed_bytes=needed_bytes) from error


def unwritable(what: str, directory: Path, error: OSError, *, needed_bytes: int | None = None) -> RepositoryError:
    """Return the error for something that cannot be written below ``directory``: why, with the figures, and the remedy.

    Args:
        what: What cannot be written, for people.
        directory: Where it was to be.
        error: What the file system said.
        needed_bytes: Bytes that were to be written, when that is known.
    """
    is_full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    is_named = isinstance(error.filename, str | bytes) and not is_full
    named = Path(os.fsdecode(error.filename)) if is_named else directory
    there = next((path for path in (named, *named.parents) if _can_be_seen(path)), Path("/"))
    reason, elsewhere = error.strerror or str(error), "pass --repository with a directory on another disk"
    needs = f", {format_bytes(needed_bytes)} are needed" if needed_bytes is not None else ""
    lack = diskspace.reason(there, error)
    if error.errno == errno.ENOSPC and lack:
        reason = f"{lack}{needs}"
        hint = f"make room there (df -h {there}; trtbuild store gc if the store is on it), or {elsewhere}"
    elif error.errno == errno.EFBIG and lack:
        reason, hint = f"{lack}{needs}", "raise it (ulimit -f unlimited)"
    elif error.errno == errno.EDQUOT and lack:
        reason = f"{lack}{needs}"
        hint = f"remove what this user has there (quota -s), or {elsewhere}"
    elif error.errno == errno.EROFS:
        reason = f"{there} is on a read-only file system"
        hint = f"mount it writable, or {elsewhere}"
    elif error.errno in {errno.EACCES, errno.EPERM}:
        info = there.stat()
        reason += (
            f": {there} belongs to uid {info.st_uid} gid {info.st_gid} mode {stat.S_IMODE(info.st_mode):04o}, "
            f"this process is uid {os.geteuid()} gid {os.getegid()}"
        )
        hint = f"make {there} writable for it (fsGroup or chown), or pass another --repository"
    else:
        hint = "make the directory above it writable, or pass another --repository"
    return RepositoryError(f"cannot write {what}: {reason}", hint=hint)


def _can_be_seen(path: Path) -> bool:
    with contextlib.suppress(OSError):
        path.stat()
        return True
    return False
