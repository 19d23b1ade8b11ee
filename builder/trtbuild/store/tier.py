"""Where a shared tier keeps its bytes: a directory, or a bucket of S3, Google Cloud Storage or Azure.

It decides how single objects are read and written, and that every failure is a :class:`TierError`. What the objects
mean is decided by ``shared``.

Buckets are reached through obstore, the Python face of Rust's object_store: one library with no dependencies for all
three clouds, conditional writes on each of them, credentials from the environment or workload identity, timeouts and
retries per request, and no event loop in this process. (fsspec's s3fs, gcsfs and adlfs pin three different SDKs and
do not agree on conditional writes.)
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from trtbuild import redact
from trtbuild.errors import HostError, StoreError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

CLOUD_SCHEMES = ("s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss")
CONNECT_TIMEOUT_S = 5
REQUEST_TIMEOUT_S = 60
_RETRY_FOR_S = 20
_READ_BYTES = 1 << 20
_MIN_PART_BYTES = 16 << 20
_MAX_PARTS = 9000
_PARTS_AT_ONCE = 6


class TierError(Exception):
    """The shared tier could not do it; the caller goes on without it."""


class Tier(Protocol):
    """A flat set of named objects. Names are POSIX paths without ``.`` and ``..``."""

    @property
    def name(self) -> str:
        """The tier as people know it, without credentials."""

    def read(self, name: str, *, limit_bytes: int) -> bytes | None:
        """Return a small object; None when there is none.

        Raises:
            TierError: It cannot be read, or is larger than ``limit_bytes``.
        """

    def size(self, name: str) -> int | None:
        """Return an object's size in bytes; None when there is none.

        Raises:
            TierError: It cannot be known.
        """

    def read_range(self, name: str, start: int, length: int) -> Iterator[memoryview]:
        """Yield exactly ``length`` bytes from ``start`` in pieces; each is valid until the next one is asked for.

        Raises:
            TierError: They cannot be read, or there are fewer.
        """

    def write_file(self, name: str, source: Path) -> None:
        """Write a whole file, replacing the object; nobody sees half of it.

        Raises:
            TierError: It cannot be written.
        """

    def create(self, name: str, data: bytes) -> bool:
        """Write a small object unless there is one; return whether this call wrote it.

        Raises:
            TierError: It cannot be written.
        """

    def replace(self, name: str, data: bytes) -> None:
        """Write a small object whether or not there is one.

        Raises:
            TierError: It cannot be written.
        """


def open_tier(text: str) -> Tier:
    """Return the tier that an option names: a directory, ``file://``, ``s3://``, ``gs://`` or ``az://`` URL.

    Raises:
        StoreError: The text names no tier, or has credentials in it.
        HostError: The library for buckets is not installed.
    """
    url = urlsplit(text)
    if url.scheme in {"", "file"}:
        path = Path(url.path if url.scheme else text).expanduser()
        if not path.is_absolute():
            raise StoreError(f"shared tier: expected an absolute path or a URL, got {text!r}", hint="e.g. /mnt/engines")
        return DirectoryTier(path)
    if url.scheme not in CLOUD_SCHEMES or not url.netloc:
        raise StoreError(
            f"shared tier: expected a directory, s3://, gs:// or az:// URL, got {url.scheme}://...",
            hint="e.g. s3://bucket/engines",
        )
    if redact.text(text) != text:
        raise StoreError(
            "shared tier: credentials do not belong into the URL",
            hint="use the environment (AWS_*, GOOGLE_*, AZURE_*) or workload identity",
        )
    return ObjectTier(text)


class DirectoryTier:
    """A tier in a directory: an NFS mount or a claim that many pods mount."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def name(self) -> str:
        """The directory."""
        return str(self._root)

    def read(self, name: str, *, limit_bytes: int) -> bytes | None:
        """Return a small object; None when there is none."""
        try:
            with (self._root / name).open("rb") as stream:
                data = stream.read(limit_bytes + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TierError(f"{self.name}: {error}") from error
        if len(data) > limit_bytes:
            raise TierError(f"{self.name}: {name} is larger than {limit_bytes} bytes")
        return data

    def size(self, name: str) -> int | None:
        """Return an object's size in bytes; None when there is none."""
        try:
            return (self._root / name).stat().st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TierError(f"{self.name}: {error}") from error

    def read_range(self, name: str, start: int, length: int) -> Iterator[memoryview]:
        """Yield exactly ``length`` bytes from ``start``."""
        buffer, left = memoryview(bytearray(min(length, _READ_BYTES))), length
        try:
            with (self._root / name).open("rb", buffering=0) as stream:
                stream.seek(start)
                while left and (count := stream.readinto(buffer[: min(left, _READ_BYTES)])):
                    yield buffer[:count]
                    left -= count
        except OSError as error:
            raise TierError(f"{self.name}: {error}") from error
        if left:
            raise TierError(f"{self.name}: {name} ends after {start + length - left} bytes")

    def write_file(self, name: str, source: Path) -> None:
        """Copy a whole file, then rename it into place."""
        import shutil

        with self._draft(name) as (draft, target):
            shutil.copyfile(source, draft)
            _sync(draft)
            draft.rename(target)

    def create(self, name: str, data: bytes) -> bool:
        """Write a small object unless there is one."""
        with self._draft(name) as (draft, target):
            draft.write_bytes(data)
            _sync(draft)
            try:
                os.link(draft, target)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}:
                    raise
                # No hard links here: the check and the rename are two steps, and both outcomes are whole objects.
                if target.exists():
                    return False
                draft.rename(target)
        return True

    def replace(self, name: str, data: bytes) -> None:
        """Write a small object whether or not there is one."""
        with self._draft(name) as (draft, target):
            draft.write_bytes(data)
            _sync(draft)
            draft.rename(target)

    @contextlib.contextmanager
    def _draft(self, name: str) -> Iterator[tuple[Path, Path]]:
        target = self._root / name
        draft = target.with_name(f".{target.name[:40]}.{uuid.uuid4().hex[:12]}.tmp")
        try:
            # Never create the mount point itself: an unmounted share must not fill the node's own disk.
            if not self._root.is_dir():
                raise TierError(f"{self.name} is not there; is it mounted?")
            target.parent.mkdir(parents=True, exist_ok=True)
            yield draft, target
        except OSError as error:
            raise TierError(f"{self.name}: {error}") from error
        finally:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


class ObjectTier:
    """A tier in a bucket. Credentials, region and endpoint come from the environment that the cloud's own tools use."""

    def __init__(self, url: str) -> None:
        try:
            from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError
            from obstore.store import from_url
        except ImportError:
            raise HostError(
                "a shared tier in a bucket needs the package obstore", hint="pip install 'trtbuild[shared]'"
            ) from None
        self._name = url
        self._errors = (BaseError, OSError, ValueError)
        self._not_found = (NotFoundError, FileNotFoundError)
        self._exists = (AlreadyExistsError, PreconditionError, FileExistsError)
        try:
            self._store: ObjectStore = from_url(
                url,
                client_options={
                    # Whoever names an http:// endpoint (a MinIO in the cluster) means it; every default is https.
                    "allow_http": True,
                    "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
                    "timeout": timedelta(seconds=REQUEST_TIMEOUT_S),
                },
                retry_config={
                    "max_retries": 3,
                    "retry_timeout": timedelta(seconds=_RETRY_FOR_S),
                    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=3)},
                },
            )
        except self._errors as error:
            raise StoreError(
                f"shared tier {url}: {_first_line(error)}", hint="check the URL and AWS_*, GOOGLE_* or AZURE_*"
            ) from error

    @property
    def name(self) -> str:
        """The URL."""
        return self._name

    def read(self, name: str, *, limit_bytes: int) -> bytes | None:
        """Return a small object; None when there is none."""
        size = self.size(name)
        if size is None:
            return None
        if size > limit_bytes:
            raise TierError(f"{self.name}: {name} is larger than {limit_bytes} bytes")
        return b"".join(map(bytes, self.read_range(name, 0, size)))

    def size(self, name: str) -> int | None:
        """Return an object's size in bytes; None when there is none."""
        import obstore

        try:
            return int(obstore.head(self._store, name)["size"])
        except self._not_found:
            return None
        except self._errors as error:
            raise TierError(f"{self.name}: {_first_line(error)}") from error

    def read_range(self, name: str, start: int, length: int) -> Iterator[memoryview]:
        """Yield exactly ``length`` bytes from ``start``."""
        import obstore

        if length == 0:
            return
        try:
            data = obstore.get_range(self._store, name, start=start, length=length)
        except self._errors as error:
            raise TierError(f"{self.name}: {_first_line(error)}") from error
        if len(data) != length:
            raise TierError(f"{self.name}: {name} ends after {start + len(data)} bytes")
        yield memoryview(data)

    def write_file(self, name: str, source: Path) -> None:
        """Upload a whole file in parts; it appears when the last part is there."""
        import obstore

        try:
            part = max(_MIN_PART_BYTES, source.stat().st_size // _MAX_PARTS)
            obstore.put(self._store, name, source, chunk_size=part, max_concurrency=_PARTS_AT_ONCE)
        except self._errors as error:
            raise TierError(f"{self.name}: {_first_line(error)}") from error

    def create(self, name: str, data: bytes) -> bool:
        """Write a small object unless there is one (``If-None-Match: *``)."""
        import obstore

        try:
            obstore.put(self._store, name, data, mode="create")
        except self._exists:
            return False
        except self._errors as error:
            raise TierError(f"{self.name}: {_first_line(error)}") from error
        return True

    def replace(self, name: str, data: bytes) -> None:
        """Write a small object whether or not there is one."""
        import obstore

        try:
            obstore.put(self._store, name, data)
        except self._errors as error:
            raise TierError(f"{self.name}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    """Return the first line of an error: the library appends its own debugging dump, with request details."""
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
