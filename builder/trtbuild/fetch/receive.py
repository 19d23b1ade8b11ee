"""One answer of the server, read into the range of a file that it was asked for.

It decides which answers are refused: about other bytes, of other content, encoded, or too slow. Whether to try again
is decided by :mod:`download`.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError

from trtbuild.console import log
from trtbuild.errors import FetchError
from trtbuild.fetch.cache import BlobLock, RepoCache
from trtbuild.fetch.http import Client
from trtbuild.fetch.hub import Resolved
from trtbuild.fetch.limits import LEAST_BYTES
from trtbuild.fetch.partial import Partial
from trtbuild.fetch.refusals import RetryableError, StoppedError, Subject
from trtbuild.model.remote import RemoteFile

_FAST_READ_S = 0.5


class NoRangesError(Exception):
    """The server answers a request for a range with the whole file."""


@dataclass
class Job:
    """A file being downloaded by this process, under its lock."""

    file: RemoteFile
    lock: BlobLock
    partial: Partial
    todo: collections.deque[int]
    left: int
    is_finished: bool = False
    location: str = ""
    guard: threading.Lock = field(default_factory=threading.Lock)


class Receiver:
    """Reads ranges of the files of one commit. Thread-safe.

    Attributes:
        takes_whole_files: The server does not serve parts, so an answer with the whole file is right.
    """

    def __init__(self, client: Client, repo: RepoCache, resolved: Resolved, progress: log.Progress) -> None:
        self._client, self._repo, self._resolved, self._progress = client, repo, resolved, progress
        self.takes_whole_files = False

    def receive(self, job: Job, index: int) -> None:
        """Read one answer of the server into a range, as far as it goes."""
        part, size = job.partial.ranges[index], job.file.size
        start, end = part.start + part.done, part.start + part.length
        headers = {} if (start, end) == (0, size) else {"Range": f"bytes={start}-{end - 1}"}
        resolved, file = self._resolved, job.file
        address = job.location or self._client.hub.url(
            *resolved.model_id.split("/"), "resolve", resolved.commit, *file.path.split("/")
        )

        def check(answer: Mapping[str, str]) -> None:
            self._check_identity(file, answer)

        response, location = self._client.get(address, headers, subject_of(self._resolved, file), on_redirect=check)
        is_drained = False
        try:
            self._client.watch(response)
            if self._client.is_hub(location):
                check(response.headers)
            else:
                job.location = location
            if headers and response.status == 200:
                if not self.takes_whole_files:
                    raise NoRangesError
                self._progress.advance(-job.partial.restart(index))
            self._check_extent(file, response.status, response.headers, start, end)
            self._read(response, job, index)
            is_drained = True
        finally:
            self._client.unwatch(response)
            if is_drained:
                response.release_conn()
            else:
                response.close()

    def _read(self, response: BaseHTTPResponse, job: Job, index: int) -> None:
        """Read the rest of a range. Reads are short at first and while little comes, so that slowness shows.

        Raises:
            RetryableError: The answer ended early, or brought too little.
        """
        part, tuning = job.partial.ranges[index], self._client.tuning
        size = min(LEAST_BYTES, tuning.read_bytes)
        while part.done < part.length:
            if self._client.stopped.is_set():
                raise StoppedError
            began = time.monotonic()
            data = self._next(response, min(size, part.length - part.done))
            if not data:
                raise RetryableError(f"the answer ended {part.length - part.done} bytes early")
            job.partial.write(index, data)
            self._progress.advance(len(data))
            self._client.watch(response)
            is_fast = time.monotonic() - began < _FAST_READ_S
            size = min(size * 2, tuning.read_bytes) if is_fast else min(LEAST_BYTES, tuning.read_bytes)

    def _next(self, response: BaseHTTPResponse, count: int) -> bytes:
        """Return the next bytes of an answer; empty at its end."""
        data, error = b"", None
        try:
            data = response.read(count, decode_content=False)
        except HTTPError as caught:
            error = caught
        if len(data) < count and self._client.is_slow(response):
            least, slow_s = log.format_bytes(min(count, LEAST_BYTES)), self._client.tuning.slow_s
            raise RetryableError(f"the connection brought less than {least} in {slow_s:g} s") from error
        if error is not None:
            raise error
        return data

    def _check_identity(self, file: RemoteFile, headers: Mapping[str, str]) -> None:
        """Stop at once when the hub itself says that a large file's content is another one than was listed.

        ``If-Range`` would not do: the storage behind a redirect has entity tags of its own. For small files mirrors
        have various tags (Artifactory: sha1 of the content), and their hash is known soon enough.

        Raises:
            FetchError: The file changed.
        """
        tag = headers.get("X-Linked-ETag") or headers.get("ETag") or ""
        tag = tag.strip().removeprefix("W/").strip('"')
        is_sha256 = len(tag) == 64 and all(char in "0123456789abcdef" for char in tag)
        if file.sha256 and is_sha256 and tag != file.sha256:
            self._repo.forget_tree(self._resolved.commit)
            raise FetchError(
                f"{file.path} of {self._resolved.model_id} changed on the hub: {self._resolved.commit[:12]} was listed "
                f"with {file.etag[:12]}, and now has {tag[:12]}",
                hint="run the same command again to start from the new listing",
            )

    def _check_extent(self, file: RemoteFile, status: int, headers: Mapping[str, str], start: int, end: int) -> None:
        """Refuse an answer that is not about the bytes that were asked for.

        Raises:
            RetryableError: It is about others.
            FetchError: They are encoded, which no further attempt would change.
        """
        encoding = headers.get("Content-Encoding", "").strip().lower()
        if encoding not in {"", "identity"}:
            raise FetchError(
                f"{file.path} of {self._resolved.model_id} comes with Content-Encoding {encoding!r}; expected its "
                f"{file.size} bytes as they are, as was asked (Accept-Encoding: identity)",
                hint="a proxy or mirror compresses downloads: switch it off, or check HTTPS_PROXY and HF_ENDPOINT",
            )
        if status == 206:
            expected = f"bytes {start}-{end - 1}/{file.size}"
            seen = headers.get("Content-Range", "")
            if seen != expected and seen != expected.replace(f"/{file.size}", "/*"):
                raise RetryableError(f"expected Content-Range {expected!r}, got {seen!r}")
        elif (length := headers.get("Content-Length")) is not None and length != str(file.size):
            raise RetryableError(f"expected {file.size} bytes, and the server offers {length}")


def subject_of(resolved: Resolved, file: RemoteFile) -> Subject:
    """Return what a request for a file is about, for messages."""
    return Subject(model_id=resolved.model_id, revision=resolved.revision, path=file.path)
