"""A file of a model at a commit, as the hub lists it, and which names of files are safe to use as paths. Pure."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from trtbuild.errors import FetchError

_OID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file of a model at a commit, as the hub's record has it.

    Attributes:
        path: Path inside the repository; checked to stay inside a snapshot.
        size: Length in bytes.
        oid: git's own id of the stored blob: sha1 over ``blob <size>\\0`` and the bytes (of the pointer, for LFS).
        sha256: sha256 of the content, for files kept in large-file storage.
        xet_hash: Id in Xet storage; carried along for other tools that share the cache.
    """

    path: str
    size: int
    oid: str
    sha256: str | None = None
    xet_hash: str | None = None

    def __post_init__(self) -> None:
        check_path(self.path)
        if not _OID.fullmatch(self.oid) or (self.sha256 is not None and not _SHA256.fullmatch(self.sha256)):
            raise _no_hub(f"the hub's record of {self.path!r} has an id that is no hash: {self.sha256 or self.oid!r}")
        if self.size < 0:
            raise _no_hub(f"the hub's record of {self.path!r} has the impossible size {self.size}")

    @property
    def etag(self) -> str:
        """Name of the blob in the cache: sha256 for large files, git's id for small ones."""
        return self.sha256 or self.oid


def check_path(path: str) -> str:
    """Return a repository path that stays inside the directory it is placed in.

    Raises:
        FetchError: It would leave the snapshot, or no file can have that name.
    """
    if not is_safe_path(path):
        raise FetchError(
            f"the hub lists a file with an unsafe name: {path!r}",
            hint="do not use this model or hub: such a name would be written outside the cache",
        )
    return path


def _no_hub(message: str) -> FetchError:
    return FetchError(message, hint="check HF_ENDPOINT: it does not answer like a Hugging Face hub")


def is_safe_path(path: str) -> bool:
    """Say whether a relative path stays inside the directory it is placed in, and a file system can hold it."""
    if not path or "\\" in path or any(unicodedata.category(char) == "Cc" for char in path):
        return False
    try:
        parts = [part.encode() for part in path.split("/")]
    except UnicodeEncodeError:  # a lone surrogate, which JSON can carry
        return False
    return sum(map(len, parts)) < 1024 and all(0 < len(p) <= 255 and p not in {b".", b".."} for p in parts)
