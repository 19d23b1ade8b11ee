"""What can take room in a store: the values that measuring gives and planning takes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["staging", "debris", "broken", "quarantine", "download", "log", "checkpoint", "snapshot", "entry"]


@dataclass(frozen=True, kw_only=True)
class Item:
    """Something in the store that takes room.

    Attributes:
        path: Where it is.
        kind: What it is.
        size_bytes: Room it takes.
        last_used: Seconds since 1970.
        keep: Why it must stay, or None.
        name: Digest of an entry, commit of a snapshot, else empty.
    """

    path: Path
    kind: Kind
    size_bytes: int
    last_used: float
    keep: str | None = None
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What takes how much room, in bytes.

    Attributes:
        by_kind: Bytes by kind; ``snapshot`` counts only when the Hugging Face cache lies inside the store.
        outside_bytes: Bytes of snapshots in a cache outside the store, which is never collected.
        free_bytes: Free on the store's file system.
    """

    by_kind: Mapping[str, int]
    outside_bytes: int
    free_bytes: int

    @property
    def total_bytes(self) -> int:
        """Everything below the root."""
        return sum(self.by_kind.values())


def changed_at(path: Path) -> float:
    """Return when ``path`` was last written, in seconds since 1970; 0 when it is gone."""
    with contextlib.suppress(OSError):
        return path.lstat().st_mtime
    return 0.0


def tree_bytes(path: Path) -> int:
    """Return the sum of the sizes of all files below ``path``, following no link; 0 when it is gone."""
    total = 0
    with contextlib.suppress(OSError):
        if not path.is_dir() or path.is_symlink():
            return path.lstat().st_size
    for parent, _, files in os.walk(path):
        for name in files:
            with contextlib.suppress(OSError):
                total += Path(parent, name).lstat().st_size
    return total
