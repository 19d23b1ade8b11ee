"""Every change the store makes on disk, one named step each.

It decides how a change is made durable. It does not decide what is changed. Tests replace :data:`fault_hook` to kill
the process, or to fail, before any single step.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

from trtbuild.store.links import read_small, refuse_links
from trtbuild.store.sharing import DIR_MODE, FILE_MODE, share

CACHEDIR_TAG = "CACHEDIR.TAG"
_TAG_TEXT = """Signature: 8a477f597d28d172789f06886806bc55
# This directory is a cache made by trtbuild; everything in it can be built again.
# Source: the Cache Directory Tagging Specification, https://bford.info/cachedir/
"""
_MAX_TAG_BYTES = 1 << 16


def _no_fault(step: str, path: Path) -> None:
    del step, path


fault_hook: Callable[[str, Path], None] = _no_fault
"""Called before every change with the step's name and path; the product never replaces it."""


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
    """Remove write permission from a whole tree: an engine does not change after it was published.

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
