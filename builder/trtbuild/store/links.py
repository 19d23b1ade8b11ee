"""Looking into a directory that others may write to: no link is followed out of the store, no pipe waited for.

It decides which names below the root are the store's own. It changes nothing on disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from trtbuild import untrusted
from trtbuild.console import log


def refuse_links(directory: Path, *, below: Path) -> None:
    """Refuse a directory of the store that is, or lies behind, a link: what is removed there would be somebody else's.

    The root itself may be reached through links.

    Raises:
        OSError: ``ELOOP`` with the link's path.
    """
    path = below
    for part in directory.relative_to(below).parts:
        path /= part
        if path.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


def children(directory: Path, *, below: Path) -> list[Path]:
    """Return what is in a directory of the store whose root is ``below``, sorted; nothing when it is gone or a link."""
    try:
        refuse_links(directory, below=below)
    except OSError as error:
        log.get().warning("store-link", f"{error.filename} is a symbolic link; it is left alone", path=error.filename)
        return []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return sorted(directory.iterdir())
    return []


def directories(top: Path, *, below: Path) -> list[Path]:
    """Return a directory of the store whose root is ``below``, and every directory in it; none that is a link."""
    found = [top] if top.is_dir() else []
    for parent in found:  # grows meanwhile
        found += [path for path in children(parent, below=below) if path.is_dir() and not path.is_symlink()]
    return found


def read_small(path: Path, *, limit_bytes: int) -> bytes:
    """Return the bytes of a small file that others may have put there: no link is followed, no pipe waited for.

    Raises:
        ValueError: It is no regular file, or larger than ``limit_bytes``.
        OSError: There is none, or it cannot be read.
    """
    return untrusted.read_bytes(path, limit_bytes, follow_links=False)
