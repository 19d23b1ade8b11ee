"""Entries, misses, and why the one became the other: the values that looking into a store gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trtbuild.plan.key import EngineKey
from trtbuild.spec import JsonValue
from trtbuild.store.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A published engine.

    Attributes:
        path: Directory with the manifest, the engine's files and ``tokenizer/``.
        digest: The whole key, 64 hex digits.
        manifest: What it says of itself.
        size_bytes: Sum of its files' sizes.
        last_used: Last hit, in seconds since 1970.
        is_pinned: Never collected.
    """

    path: Path
    digest: str
    manifest: Manifest
    size_bytes: int
    last_used: float
    is_pinned: bool

    @property
    def key(self) -> EngineKey:
        """The key it was built for."""
        return self.manifest.key

    @property
    def short(self) -> str:
        """The first 12 hex digits of the key."""
        return self.digest[:12]


@dataclass(frozen=True, kw_only=True)
class Miss:
    """There is no usable entry.

    Attributes:
        reason: Why, for people.
        path: The entry that cannot be used, when there is one; ``publish`` moves it aside.
    """

    reason: str
    path: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Broken:
    """A directory among the entries that is none.

    Attributes:
        path: The directory.
        reason: What is wrong with it.
    """

    path: Path
    reason: str


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One field in which two keys differ; None stands for a field that one of them lacks.

    Attributes:
        field: Dotted name, e.g. ``versions.tensorrt``.
        wanted: Value in the key that was asked for.
        stored: Value in the key of the stored entry.
    """

    field: str
    wanted: JsonValue
    stored: JsonValue

    def __str__(self) -> str:
        return f"{self.field}: {_show(self.wanted)} here, {_show(self.stored)} in the store"


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why a key is a hit or a miss.

    Attributes:
        key: The key that was asked for.
        local: The entry or why there is none.
        shared: What the shared tier says; None when there is no shared tier.
        nearest: The stored entry most like the key, when the key itself is a miss.
        differences: How the nearest entry's key differs.
        builder: Who builds the key right now, if anybody.
        estimate_s: Seconds a build is expected to take, from recorded builds.
    """

    key: EngineKey
    local: Entry | Miss
    shared: str | None = None
    nearest: Entry | None = None
    differences: tuple[Difference, ...] = ()
    builder: str | None = None
    estimate_s: float | None = None

    @property
    def is_hit(self) -> bool:
        """Whether the local store has a usable entry."""
        return isinstance(self.local, Entry)


def _show(value: JsonValue) -> str:
    return "nothing" if value is None else str(value)
