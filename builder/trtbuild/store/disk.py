"""Every change the store makes on disk, one named step each.

It decides how a change is made durable and how a failing disk is explained. It does not decide what is changed. Tests
replace :data:`fault_hook` to kill the process, or to fail, before any single step.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trtbuild import diskspace
from trtbuild.console import log
from trtbuild.errors import StoreError

CACHEDIR_TAG = "CACHEDIR.TAG"
_TAG_TEXT = """Signature: 8a477f597d28d172789f06886806bc55
# This directory is a cache made by trtbuild; everything in it can be built again.
# Source: the Cache Directory Tagging Specification, https://bford.info/cachedir/
"""
_MAX_TAG_BYTES = 1 << 16
DIR_MODE = 0o755
FILE_MODE = 0o644


def _no_fault(step: str, path: Path) -> None:
    del step, path


fault_hook: Callable[[str, Path], None] = _no_fault
"""Called before every change with the step's name and path; the product never replaces it."""


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
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENXIO}:  # a link; a socket
            raise
        raise ValueError("expected a regular file") from None
    try:
        info, data = os.fstat(fd), b""
        if not stat.S_ISREG(info.st_mode):
            raise ValueError("expected a regular file")
        if info.st_size > limit_bytes:
            raise ValueError(f"expected at most {limit_bytes} bytes, got {info.st_size}")
        # One byte more than was promised, to meet the end also of a file that grows meanwhile.
        while len(data) <= limit_bytes and (piece := os.read(fd, limit_bytes + 1 - len(data))):
            data += piece
        if len(data) > limit_bytes:
            raise ValueError(f"expected at most {limit_bytes} bytes, got more")
    finally:
        os.close(fd)
    return data


def make_dir(path: Path, *, mode: int = DIR_MODE, group: int | None = None) -> None:
    """Create ``path`` and its parents; directories that are made get ``mode`` (whatever the umask) and ``group``."""
    if path.is_dir():
        return
    make_dir(path.parent, mode=mode, group=group)
    fault_hook("mkdir", path)
    try:
        path.mkdir()
    except FileExistsError:
        if not path.is_dir():
            raise
        return
    share(path, mode=mode, group=group)


def heal(path: Path, sharing: Sharing) -> None:
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


def tag_root(root: Path, *, mode: int = DIR_MODE, group: int | None = None) -> None:
    """Create the root and mark it as a cache directory, which deletion insists on."""
    make_dir(root, mode=mode, group=group)
    tag = root / CACHEDIR_TAG
    if not tag.exists():
        write_file(tag, _TAG_TEXT.encode())


def is_tagged(root: Path) -> bool:
    """Return whether ``root`` is marked as a cache directory."""
    try:
        tag = read_small(root / CACHEDIR_TAG, limit_bytes=_MAX_TAG_BYTES)
    except (OSError, ValueError):
        return False
    return tag.startswith(_TAG_TEXT.splitlines()[0].encode())


def write_file(path: Path, data: bytes, *, mode: int = FILE_MODE) -> None:
    """Write a whole file so that readers see all of it or the one before, also after a crash."""
    draft = path.with_name(f".{path.name[:60]}.{uuid.uuid4().hex[:8]}.tmp")
    fault_hook("write", path)
    try:
        with draft.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        draft.chmod(mode)
        rename(draft, path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def sync_file(path: Path) -> None:
    """Make the bytes of ``path`` durable."""
    fault_hook("fsync", path)
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_dir(path: Path) -> None:
    """Make the names in ``path`` durable; file systems that cannot are taken at their word."""
    fault_hook("fsync-dir", path)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network and FUSE file systems refuse fsync on a directory; their rename is durable or it is not.
        if error.errno not in {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS}:
            raise
    finally:
        os.close(fd)


def rename(source: Path, target: Path) -> None:
    """Rename; a directory is never put onto one that has anything in it."""
    fault_hook("rename", target)
    source.rename(target)


def unlink(path: Path) -> None:
    """Remove a file; one that is gone already is fine."""
    fault_hook("unlink", path)
    path.unlink(missing_ok=True)


def make_read_only(directory: Path, *, dir_mode: int = 0o555) -> None:
    """Take write permission from a whole tree: nobody changes an engine after it was published.

    ``dir_mode`` lets a group that shares the store keep the right to collect each other's entries.
    """
    fault_hook("read-only", directory)
    for parent, _, files in os.walk(directory, topdown=False):
        for name in files:
            Path(parent, name).chmod(0o444)
        Path(parent).chmod(dir_mode)


def remove_tree(directory: Path) -> None:
    """Remove a directory tree, read-only or not; one that is gone already is fine. Follows no link."""
    fault_hook("remove-tree", directory)
    if directory.is_symlink() or not directory.is_dir():
        directory.unlink(missing_ok=True)
        return
    for parent, _, _ in os.walk(directory):
        with contextlib.suppress(FileNotFoundError, PermissionError):
            Path(parent).chmod(0o700)
    # Two sweepers may remove the same tree at once; what the other took is gone as asked.
    with contextlib.suppress(FileNotFoundError):
        if sys.version_info >= (3, 12):
            shutil.rmtree(directory, onexc=lambda _, path, error: _raise_whole(path, error))
        else:
            shutil.rmtree(directory, onerror=lambda _, path, info: _raise_whole(path, info[1]))


def _raise_whole(path: str, error: BaseException) -> None:
    """Raise ``error`` with the whole path; ``rmtree`` works relative to open directories and names the last part."""
    if isinstance(error, OSError):
        error.filename = path
    raise error


def move_aside(
    path: Path, into: Path, *, label: str, below: Path, mode: int = DIR_MODE, group: int | None = None
) -> Path | None:
    """Rename ``path`` to a new name in ``into``, both below the root ``below``; None when it is gone already.

    A directory that changes its parent must be writable itself, so a published entry is made so first.

    Raises:
        OSError: It cannot be renamed, or a link leads out of the root.
    """
    refuse_links(into, below=below)
    refuse_links(path.parent, below=below)
    make_dir(into, mode=mode, group=group)
    target = into / f"{label}.{uuid.uuid4().hex[:8]}"
    with contextlib.suppress(FileNotFoundError, PermissionError):
        if not path.is_symlink():
            path.chmod(stat.S_IMODE(path.stat().st_mode) | stat.S_IRWXU)
    try:
        rename(path, target)
    except FileNotFoundError:
        return None
    return target


def file_system_now(directory: Path) -> float:
    """Return the time (s since 1970) as the file system stamps it: on a network mount the server's clock counts."""
    probe = directory / f".now.{uuid.uuid4().hex[:8]}.tmp"
    with probe.open("xb") as stream:
        os.utime(stream.fileno())
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
