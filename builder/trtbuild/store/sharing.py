"""Who may write what the store creates: its group and its modes.

It decides the permissions of directories and small files, and gives back to the group what was made without it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

DIR_MODE = 0o755
FILE_MODE = 0o644


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """Who may write below a root, in the way of permissions: what everything is given that a store creates.

    Attributes:
        group: Group id that owns it, or None for the creator's own.
        is_group_writable: That group may write, too: pods under different users share the store.
    """

    group: int | None = None
    is_group_writable: bool = False

    @property
    def dir_mode(self) -> int:
        """Mode of directories; the setgid bit hands the group on to what is created inside."""
        return 0o2775 if self.is_group_writable else DIR_MODE

    @property
    def file_mode(self) -> int:
        """Mode of the store's own small files."""
        return 0o664 if self.is_group_writable else FILE_MODE

    @property
    def entry_dir_mode(self) -> int:
        """Mode of directories inside of entries: a group keeps the right to collect each other's entries."""
        return self.dir_mode if self.is_group_writable else 0o555


def sharing_of(root: Path) -> Sharing | None:
    """Return how an existing root is shared: setgid and group-writable means by its group. None when it is not."""
    with contextlib.suppress(OSError):
        info = root.stat()
        if stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_ISGID and info.st_mode & stat.S_IWGRP:
            return Sharing(group=info.st_gid, is_group_writable=True)
    return None


def give_back_to_group(path: Path, sharing: Sharing) -> None:
    """Give a directory of a shared store back to its group, where this user may: it was made without the group."""
    if sharing.group is None:
        return
    info = path.stat()
    is_right = info.st_gid == sharing.group and stat.S_IMODE(info.st_mode) & 0o2070 == 0o2070
    if not is_right and os.geteuid() in {0, info.st_uid}:
        with contextlib.suppress(PermissionError):  # not a member of the group
            share(path, mode=sharing.dir_mode, group=sharing.group)


def share(path: Path, *, mode: int, group: int | None) -> None:
    """Give ``path`` its mode and group, whatever the umask says."""
    if group is not None and path.stat().st_gid != group:
        os.chown(path, -1, group)
    path.chmod(mode)
