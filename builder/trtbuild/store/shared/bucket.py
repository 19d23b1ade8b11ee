"""A shared tier in a bucket of S3, Google Cloud Storage or Azure.

Buckets are reached through obstore, the Python face of Rust's object_store: one library with no dependencies for all
three clouds, conditional writes on each of them, credentials from the environment or workload identity, timeouts and
retries per request, and no event loop in this process. (fsspec's s3fs, gcsfs and adlfs pin three different SDKs and
do not agree on conditional writes.)
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from trtbuild.errors import HostError, StoreError
from trtbuild.store.shared.tier import TierError

if TYPE_CHECKING:
    from obstore.store import ObjectStore


CONNECT_TIMEOUT_S = 5
REQUEST_TIMEOUT_S = 60
_RETRY_FOR_S = 20
_MIN_PART_BYTES = 16 << 20
_MAX_PARTS = 9000
_PARTS_AT_ONCE = 6


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
