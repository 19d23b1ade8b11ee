"""Which keys open the endpoint: a file that may change at any time, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import re
import stat
import time
from collections.abc import Callable
from pathlib import Path

from trtbuild_http.errors import ApiError

_LOOK_S = 1.0
_YOUNG_S = 2.0
"""A file that changed this recently is read again: two changes within one tick of its clock look like one."""
_MOST_BYTES = 1 << 20
_KEY = re.compile(rb"[\x21-\x7e]+")


class KeyFile:
    """The keys of a file, one a line; empty lines and those that begin with ``#`` are skipped.

    A file that cannot be read, or holds no key, opens nothing: every request is refused until it is right again. It is
    looked at once a second; a symbolic link that points elsewhere, as in a mounted Kubernetes Secret, is a change.
    """

    def __init__(self, path: str, log: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._path = Path(path)
        self._log = log
        self._clock = clock
        self._looked_at = float("-inf")
        self._signature: tuple[int, ...] = ()
        self._is_young = True
        self._digests: tuple[bytes, ...] = ()
        self.fault = ""
        """Why no key is accepted; empty while keys are."""
        self._refresh()

    def check(self, authorization: str) -> ApiError | None:
        """Return why a request with this Authorization header is refused, None if it holds one of the keys."""
        self._refresh()
        if self.fault:
            return ApiError(
                503, "the server's API keys cannot be read; its log says why", code="no_api_keys", retry_after_s=5
            )
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            return ApiError(
                401, "no API key was sent: send the header Authorization: Bearer KEY", code="missing_api_key"
            )
        digest = hashlib.sha256(key.strip().encode("latin-1", "replace")).digest()
        is_known = False
        for known in self._digests:  # all of them, so that the time says nothing about which one is near
            is_known |= hmac.compare_digest(known, digest)
        return None if is_known else ApiError(401, "the API key is not one of this server's", code="invalid_api_key")

    def _refresh(self) -> None:
        now = self._clock()
        if now - self._looked_at < _LOOK_S:
            return
        self._looked_at = now
        fault = ""
        try:
            self._load()
        except (OSError, ValueError) as error:
            fault = f"the API key file {self._path} cannot be used, every request is refused: {error}"
            self._digests, self._signature = (), ()
        if fault != self.fault:
            self._log(fault or f"the API key file {self._path} is in order again: {len(self._digests)} keys")
        self.fault = fault

    def _load(self) -> None:
        """Read the keys if the file is another one than last time."""
        status = self._path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no regular file")
        signature = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if signature == self._signature and not self._is_young:
            return
        if status.st_size > _MOST_BYTES:
            raise ValueError(f"it has {status.st_size} bytes, expected at most {_MOST_BYTES}")
        lines = [line.strip() for line in self._path.read_bytes().splitlines()]
        keys = [line for line in lines if line and not line.startswith(b"#")]
        for number, line in enumerate(lines, 1):
            if line in keys and not _KEY.fullmatch(line):
                raise ValueError(f"line {number} is no key: a key is printable ASCII without spaces")
        if not keys:
            raise ValueError("it holds no key; write one a line")
        self._digests = tuple(dict.fromkeys(hashlib.sha256(key).digest() for key in keys))
        self._signature = signature
        self._is_young = time.time() - max(status.st_mtime, status.st_ctime) < _YOUNG_S
