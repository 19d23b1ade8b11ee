"""What a shared tier is: a flat set of named objects, somewhere else.

It decides what any kind of tier can do, and that every failure is a :class:`TierError`. What the objects mean is
decided by :mod:`exchange`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol


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
        """Write a whole file, replacing the object; readers never see part of it.

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
