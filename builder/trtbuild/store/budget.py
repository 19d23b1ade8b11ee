"""What must go so that a build fits: a plan with its arithmetic, and nothing else.

It decides order and limits. Always taken: what dead processes left (staging directories, stray files), old logs, old
quarantine. Taken when a budget asks for it, cheapest to get again first: quarantine, downloads, logs, checkpoints,
snapshots, and then entries, least recently used first. Never taken: an entry that is in use (leased), pinned, being
built, or was used in the last ``GRACE_S``, which covers the time between a pod's init container and its server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trtbuild.console.log import format_bytes, format_duration
from trtbuild.store.directory import StoreDirectory
from trtbuild.store.items import Item, Usage
from trtbuild.store.usage import measure

QUARANTINE_KEPT_S = 7 * 86400.0
LOGS_KEPT_S = 30 * 86400.0
DOWNLOADS_KEPT_S = 86400.0


@dataclass(frozen=True, kw_only=True)
class Removal:
    """An item that would go, and why."""

    item: Item
    reason: str


@dataclass(frozen=True, kw_only=True)
class Collection:
    """A plan for making room.

    Attributes:
        usage: What there is before.
        removals: What goes, in this order.
        kept: What must stay although room is short.
        needs: Bytes the caller is about to write, by what for.
        max_bytes: Most the store may hold, or None.
        min_free: Bytes that must stay free on the file system.
        short_bytes: What is still missing after all removals; 0 when it fits.
    """

    usage: Usage
    removals: tuple[Removal, ...]
    kept: tuple[Item, ...]
    needs: Mapping[str, int]
    max_bytes: int | None
    min_free: int
    short_bytes: int

    @property
    def frees_bytes(self) -> int:
        """What the removals free."""
        return sum(removal.item.size_bytes for removal in self.removals)

    @property
    def fits(self) -> bool:
        """Whether the budgets hold after the removals."""
        return self.short_bytes == 0

    def arithmetic(self) -> tuple[str, ...]:
        """Return how the figures come about, line by line."""
        used, free, frees = self.usage.total_bytes, self.usage.free_bytes, self.frees_bytes
        lines = [f"in the store: {format_bytes(used)}; free on its disk: {format_bytes(free)}"]
        need = sum(self.needs.values())
        if need:
            parts = " + ".join(f"{name} {format_bytes(size)}" for name, size in self.needs.items() if size)
            lines.append(f"needed: {format_bytes(need)} ({parts})")
        lines.append(f"can be removed: {format_bytes(frees)} in {len(self.removals)} pieces")
        if self.max_bytes is not None:
            after = used - frees + need
            lines.append(
                f"the store would hold {format_bytes(used)} - {format_bytes(frees)} + {format_bytes(need)} = "
                f"{format_bytes(after)} of at most {format_bytes(self.max_bytes)} (max_bytes)"
            )
        left = free + frees - need
        lines.append(
            f"the disk would have {format_bytes(free)} + {format_bytes(frees)} - {format_bytes(need)} = "
            f"{format_bytes(left)} free, at least {format_bytes(self.min_free)} wanted (min_free)"
        )
        if self.short_bytes:
            lines.append(f"short by {format_bytes(self.short_bytes)}")
            lines += [f"kept: {item.path.name}, {format_bytes(item.size_bytes)}, {item.keep}" for item in self.kept]
        return tuple(lines)


def plan(
    directory: StoreDirectory,
    *,
    max_bytes: int | None,
    min_free: int,
    needs: Mapping[str, int],
    hf_cache: Path | None,
    protect: tuple[Path, ...] = (),
) -> Collection:
    """Return what would have to go so that ``needs`` fit into the budgets; changes nothing.

    Raises:
        OSError: A directory of the store is a link, so that what it holds is somebody else's.
    """
    directory.refuse_links()
    items, usage = measure(directory, hf_cache=hf_cache)
    removals, left = [], []
    for item in items:
        reason = None if item.keep or _is_protected(item, protect) else _always(item, directory.now())
        if reason:
            removals.append(Removal(item=item, reason=reason))
        else:
            left.append(item)
    need = sum(needs.values())
    freed = sum(removal.item.size_bytes for removal in removals)
    over = 0 if max_bytes is None else usage.total_bytes + need - max_bytes
    missing = max(0, over - freed, need + min_free - usage.free_bytes - freed)
    order = ("quarantine", "download", "log", "checkpoint", "snapshot", "entry")
    rank = {kind: position for position, kind in enumerate(order)}
    candidates = [item for item in left if item.kind in rank and not item.keep and not _is_protected(item, protect)]
    for item in sorted(candidates, key=lambda item: (rank[item.kind], item.last_used, str(item.path))):
        if missing <= 0:
            break
        removals.append(Removal(item=item, reason=_pressure(item, directory.now())))
        missing = max(0, missing - item.size_bytes)
    return Collection(
        usage=usage,
        removals=tuple(removals),
        kept=tuple(item for item in left if item.keep),
        needs=dict(needs),
        max_bytes=max_bytes,
        min_free=min_free,
        short_bytes=missing,
    )


def _always(item: Item, now: float) -> str | None:
    age_s = now - item.last_used
    if item.kind in {"staging", "debris"}:
        return "left by a process that is dead"
    if item.kind == "broken":
        return "not a whole entry"
    limits = {"quarantine": QUARANTINE_KEPT_S, "log": LOGS_KEPT_S, "download": DOWNLOADS_KEPT_S}
    if age_s > limits.get(item.kind, float("inf")):
        return f"{format_duration(age_s)} old"
    return None


def _pressure(item: Item, now: float) -> str:
    return f"room is short, last used {format_duration(max(0.0, now - item.last_used))} ago"


def _is_protected(item: Item, protect: tuple[Path, ...]) -> bool:
    return any(path == item.path or item.path in path.parents or path in item.path.parents for path in protect)
