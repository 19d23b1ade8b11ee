"""A shared tier in a directory: an NFS mount, or a claim that many pods mount."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from trtbuild.store.shared.tier import TierError

_READ_BYTES = 1 << 20


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
