"""The Hugging Face cache on disk: where blobs, refs, snapshots, listings and locks are, shared with other tools.

    models--org--name/blobs/<etag>                    contents, named by sha256 (large files) or git id (small ones)
    models--org--name/refs/<revision>                 the commit a branch or tag had when it was last looked up
    models--org--name/snapshots/<commit>/<path>       relative links to blobs
    models--org--name/trees/<commit>.json             the files of a commit
    .locks/models--org--name/<etag>.lock              flock while a blob is downloaded

It decides how this layout is read and written, atomically. It downloads nothing.
Source: huggingface_hub 2.4 (file_download.py, _tree_cache.py), whose caches are interchangeable with ours.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from trtbuild import diskspace, untrusted
from trtbuild.console import log
from trtbuild.errors import FetchError
from trtbuild.fetch.hub import check_model_id, check_revision, is_commit
from trtbuild.model.remote import RemoteFile, check_path

_CACHEDIR_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n"  # Source: https://bford.info/cachedir/
_TREE_FORMAT = 1
_TEMPORARY_SUFFIX = ".trtbuild-tmp"
_NO_SYMLINKS = {errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_NO_FLOCK = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}


MAKE_ROOM = "make room (hf cache prune; trtbuild store ls), or name another disk with --hf-cache or HF_HUB_CACHE"
KEPT = "what was downloaded is kept"


class RepoCache:
    """The part of a cache that belongs to one model."""

    def __init__(self, root: Path, model_id: str) -> None:
        folder = "--".join(["models", *check_model_id(model_id).split("/")])
        self.root = root.expanduser().absolute()
        self.model_id = model_id
        self.directory = self.root / folder
        self.blobs = self.directory / "blobs"
        self.locks = self.root / ".locks" / folder

    def blob(self, file: RemoteFile) -> Path:
        """Return where the content of ``file`` is or will be."""
        return self.blobs / file.etag

    def snapshot(self, commit: str) -> Path:
        """Return the directory of a commit's snapshot."""
        return self.directory / "snapshots" / commit

    def pointer(self, commit: str, path: str) -> Path:
        """Return where a file of a commit is found by its name."""
        return self.snapshot(commit) / check_path(path)

    def has(self, commit: str, file: RemoteFile) -> bool:
        """Say whether a file is in the snapshot with the length that the hub's record gives."""
        return _size(self.pointer(commit, file.path)) == file.size

    def has_blob(self, file: RemoteFile) -> bool:
        """Say whether the content is there with the right length, perhaps for another commit."""
        return _size(self.blob(file)) == file.size

    def create(self) -> None:
        """Make the directories and tag the cache so that backup tools leave it out.

        Raises:
            FetchError: The cache cannot be written.
        """
        try:
            self.blobs.mkdir(parents=True, exist_ok=True)
            self.locks.mkdir(parents=True, exist_ok=True)
            tag = self.root / "CACHEDIR.TAG"
            if not tag.exists():
                tag.write_text(_CACHEDIR_TAG, encoding="utf-8")
        except OSError as error:
            raise unwritable(self.root, error) from error

    def link(self, commit: str, file: RemoteFile) -> None:
        """Give a complete blob its name in the snapshot: a relative link, or the file itself where links do not exist.

        Raises:
            OSError: The cache cannot be written.
        """
        pointer, blob = self.pointer(commit, file.path), self.blob(file)
        pointer.parent.mkdir(parents=True, exist_ok=True)
        target = os.path.relpath(blob, pointer.parent)
        try:
            pointer.symlink_to(target)
        except FileExistsError:  # to a blob of another length, or made by a peer in this moment
            temporary = _temporary(pointer)
            temporary.symlink_to(target)
            temporary.replace(pointer)
        except OSError as error:
            if error.errno not in _NO_SYMLINKS:
                raise
            blob.replace(pointer)  # SMB shares without links, e.g. Azure Files: huggingface_hub moves the blob, too

    def read_ref(self, revision: str) -> str | None:
        """Return the commit that a branch or tag had when it was last looked up, or None."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            commit = (self.directory / "refs" / check_revision(revision)).read_text(encoding="ascii").strip()
            return commit if is_commit(commit) else None
        return None

    def write_ref(self, revision: str, commit: str) -> None:
        """Remember the commit of a branch or tag. A cache that cannot be written stays as it is."""
        if revision != commit and self.read_ref(revision) != commit:
            self._write(self.directory / "refs" / check_revision(revision), commit)

    def read_tree(self, commit: str) -> tuple[RemoteFile, ...] | None:
        """Return the files of a commit if a complete listing is cached, else None."""
        path = self.directory / "trees" / f"{commit}.json"
        try:
            record = untrusted.read(path, untrusted.INDEX_LIMIT_BYTES)
            if record["format_version"] != _TREE_FORMAT:
                return None
            return tuple(
                RemoteFile(
                    path=name,
                    size=entry["lfs_size"] if entry.get("lfs_sha256") else entry["size"],
                    oid=entry["blob_id"],
                    sha256=entry.get("lfs_sha256"),
                    xet_hash=entry.get("xet_hash"),
                )
                for name, entry in record["files"].items()
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, FetchError) as error:
            log.get().debug("listing-ignored", f"the cached listing {path} is not usable: {error}")
            return None

    def write_tree(self, commit: str, files: Iterable[RemoteFile]) -> None:
        """Remember the files of a commit. A cache that cannot be written stays as it is."""
        entries: dict[str, dict[str, object]] = {}
        for file in sorted(files, key=lambda each: each.path):
            entry: dict[str, object] = {"size": file.size, "blob_id": file.oid}
            if file.sha256:
                entry |= {"lfs_sha256": file.sha256, "lfs_size": file.size}
            if file.xet_hash:
                entry["xet_hash"] = file.xet_hash
            entries[file.path] = entry
        text = json.dumps({"format_version": _TREE_FORMAT, "files": entries}, indent=1)
        self._write(self.directory / "trees" / f"{commit}.json", text)

    def forget_tree(self, commit: str) -> None:
        """Drop the cached listing of a commit that turned out to be wrong."""
        with contextlib.suppress(OSError):
            (self.directory / "trees" / f"{commit}.json").unlink()

    def files_in_snapshot(self, commit: str) -> tuple[RemoteFile, ...]:
        """Return what a snapshot without a listing holds (older caches), as far as its links name their blobs."""
        files = []
        for pointer in sorted(self.snapshot(commit).glob("*")):
            with contextlib.suppress(OSError, FetchError):
                name = pointer.readlink().name
                is_large = len(name) == 64
                size = pointer.stat().st_size
                files.append(RemoteFile(path=pointer.name, size=size, oid=name, sha256=name if is_large else None))
        return tuple(files)

    def remove_temporaries(self, *, before: float) -> None:
        """Remove files that processes killed between writing and renaming left behind until ``before``."""
        for path in self.directory.rglob(f"*{_TEMPORARY_SUFFIX}"):
            with contextlib.suppress(OSError):
                if path.lstat().st_mtime < before:
                    path.unlink()

    def _write(self, path: Path, text: str) -> None:
        temporary = _temporary(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        except OSError as error:  # a cache mounted read-only is as good as any as long as nothing is missing in it
            log.get().debug("cache-not-updated", f"{path} was not written: {error}")
            with contextlib.suppress(OSError):
                temporary.unlink()


class BlobLock:
    """The flock that other tools use around the download of a blob.

    Some shared file systems grant every flock at once; :attr:`is_trusted` tells whether this one excludes others.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_trusted = False
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock if it is free; say whether it was taken.

        Raises:
            OSError: The lock file cannot be made.
        """
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664)
        try:
            is_taken = self._take(descriptor)
            os.utime(descriptor)  # the file system's own clock, see now()
        except BaseException:
            os.close(descriptor)
            raise
        if not is_taken:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def _take(self, descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_FLOCK:
                raise
            return True  # no locks at all here: the journal's age has to do, see partial.is_leased
        with contextlib.suppress(FileNotFoundError):
            self.is_trusted = _excludes(self.path)
        return _is_same_file(self.path, descriptor)  # or its last holder removed it while we took it

    def now(self) -> float:
        """Return the time of the last ``acquire`` by the clock that stamps files here (a server's, perhaps)."""
        assert self._descriptor is not None
        return os.fstat(self._descriptor).st_mtime

    def release(self) -> None:
        """Give the lock back; harmless when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _temporary(path: Path) -> Path:
    return path.with_name(f".{secrets.token_hex(8)}{_TEMPORARY_SUFFIX}")


def unwritable(path: Path, error: OSError) -> FetchError:
    """Return the error for a cache that cannot be written."""
    lack = diskspace.reason(path, error)
    if lack is not None:
        return FetchError(f"the Hugging Face cache {path} cannot be written: {lack}", hint=f"{MAKE_ROOM}; {KEPT}")
    where = f" ({os.fsdecode(error.filename)})" if isinstance(error.filename, str | bytes) else ""
    return FetchError(
        f"the Hugging Face cache {path} cannot be written: {error.strerror or error}{where}",
        hint="name a writable directory with --hf-cache or HF_HUB_CACHE",
    )


def _excludes(path: Path) -> bool:
    """Say whether a lock that is held here refuses a second holder."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _is_same_file(path: Path, descriptor: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        here, there = path.stat(), os.fstat(descriptor)
        return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
    return False


def _size(path: Path) -> int | None:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return None
