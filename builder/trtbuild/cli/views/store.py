"""Entries of the store and what a collection removes, as people and as programs read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trtbuild.console.log import format_bytes, format_duration
from trtbuild.registry import version_names

if TYPE_CHECKING:
    from trtbuild.store import Collection, Entry, Removal

Row = tuple[str, ...]


def entry_rows(entries: Sequence[Entry], *, now: float) -> list[Row]:
    """Return the table of entries with its heading; ``now`` is the time that the last use is counted back from."""
    rows: list[Row] = [("KEY", "MODEL", "SKU", "SHAPE", "VERSIONS", "SIZE", "LAST USE", "PIN")]
    for entry in entries:
        shape = entry.key.shape_part
        used = format_duration(max(0.0, now - entry.last_used)) + " ago"
        size, pin = format_bytes(entry.size_bytes), "pinned" if entry.is_pinned else ""
        rows.append((entry.short, entry.key.model_part, entry.key.sku_part, shape, _versions(entry), size, used, pin))
    return rows


def removal_rows(removals: Sequence[Removal]) -> list[Row]:
    """Return the table of what a collection removes, with its heading."""
    rows = [(r.item.kind, format_bytes(r.item.size_bytes), r.reason, str(r.item.path)) for r in removals]
    return [("KIND", "SIZE", "WHY", "PATH"), *rows]


def entry_document(entry: Entry) -> dict[str, object]:
    """Return an entry as JSON values."""
    return {
        "key": entry.digest,
        "path": str(entry.path),
        "model": entry.key.model_part,
        "sku": entry.key.sku_part,
        "shape": entry.key.shape_part,
        "size_bytes": entry.size_bytes,
        "last_used": entry.last_used,
        "pinned": entry.is_pinned,
        "created_at": entry.manifest.created_at,
    }


def provenance_document(entry: Entry) -> dict[str, object]:
    """Return an entry with where it came from and the hash of every file, as JSON values."""
    return entry_document(entry) | {
        "key_fields": dict(entry.key.fields),
        "provenance": dict(entry.manifest.provenance),
        "files": {name: {"size": f.size, "sha256": f.sha256} for name, f in sorted(entry.manifest.files.items())},
    }


def collection_document(done: Collection) -> dict[str, object]:
    """Return what a collection removes, or would, as JSON values."""
    removals = [
        {"path": str(r.item.path), "kind": r.item.kind, "size_bytes": r.item.size_bytes, "reason": r.reason}
        for r in done.removals
    ]
    return {"removals": removals, "frees_bytes": done.frees_bytes, "short_bytes": done.short_bytes}


def _versions(entry: Entry) -> str:
    versions = entry.manifest.provenance.get("versions")
    known = versions if isinstance(versions, dict) else {}
    return " ".join(f"{n} {known[n]}" for n in version_names() if n in known)
