"""Reading what is in the store: entries, misses, and why the one became the other.

It decides what counts as a hit. It changes nothing on disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from trtbuild.plan.key import EngineKey
from trtbuild.spec import JsonValue, VerifyMode
from trtbuild.store import links
from trtbuild.store.files import check_files
from trtbuild.store.manifest import MANIFEST, MAX_MANIFEST_BYTES, Manifest, parse_manifest

# What a damaged entry, a failing sector or a replaced NFS directory answers; anything else is no entry's fault.
_UNREADABLE = {errno.EIO, errno.ESTALE, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EUCLEAN}


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


def read_manifest(directory: Path) -> Manifest:
    """Return the manifest of an entry's directory.

    Raises:
        ValueError: It is not a valid manifest; the message is for people.
        OSError: There is none, or it cannot be read.
    """
    try:
        return parse_manifest(links.read_small(directory / MANIFEST, limit_bytes=MAX_MANIFEST_BYTES))
    except ValueError as error:
        raise ValueError(f"{MANIFEST}: {error}") from None


def look(directory: Path, key: EngineKey, mode: VerifyMode) -> Manifest | Miss:
    """Return the manifest of ``directory`` when it holds exactly the engine that ``key`` describes."""
    try:
        manifest = read_manifest(directory)
    except FileNotFoundError:
        if not directory.is_dir():
            return Miss(reason="it was never built here, or has been collected")
        return Miss(reason=f"{MANIFEST} is missing", path=directory)
    except ValueError as error:
        return Miss(reason=str(error), path=directory)
    except OSError as error:
        if error.errno not in _UNREADABLE:
            raise
        return Miss(reason=f"{MANIFEST}: {error.strerror}", path=directory)
    if manifest.key.digest != key.digest:
        return Miss(reason=f"{directory.name} holds the engine of another key, {manifest.key.short}...", path=directory)
    problems = check_files(directory, manifest, mode)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return Miss(reason=f"{problems[0]}{more}", path=directory)
    return manifest


def entry_directories(engines: Path) -> Iterator[Path]:
    """Yield every directory at the depth of entries, ``<model>/<sku>/<entry>``; what is behind a link is no entry."""
    level = [path for path in links.children(engines, below=engines.parent) if _is_own_directory(path)]
    for _ in range(2):
        below: list[Path] = []
        for parent in level:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(parent) as found:
                below += [Path(item.path) for item in found if item.is_dir(follow_symlinks=False)]
        level = sorted(below)
    yield from level


def _is_own_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def flatten(fields: Mapping[str, JsonValue], prefix: str = "") -> dict[str, JsonValue]:
    """Return nested fields as one level with dotted names."""
    flat: dict[str, JsonValue] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def differences(wanted: EngineKey, stored: EngineKey) -> tuple[Difference, ...]:
    """Return every field in which two keys differ, in the order of their names."""
    left, right = flatten(wanted.fields), flatten(stored.fields)
    return tuple(
        Difference(field=name, wanted=left.get(name), stored=right.get(name))
        for name in sorted({*left, *right})
        if left.get(name) != right.get(name) or (name in left) != (name in right)
    )


def nearest(key: EngineKey, entries: tuple[Entry, ...]) -> tuple[Entry | None, tuple[Difference, ...]]:
    """Return the entry most like ``key``: the same model first, then the same SKU, then the fewest other fields."""

    def distance(entry: Entry) -> tuple[bool, bool, int, float]:
        other = entry.key
        return (
            other.model_part != key.model_part,
            other.sku_part != key.sku_part,
            len(differences(key, other)),
            -entry.last_used,
        )

    candidates = [entry for entry in entries if entry.digest != key.digest]
    if not candidates:
        return None, ()
    best = min(candidates, key=distance)
    return best, differences(key, best.key)
