"""How two keys differ, and which stored engine is most like one that is missing."""

from __future__ import annotations

from collections.abc import Mapping

from trtbuild.plan.key import EngineKey
from trtbuild.spec import JsonValue
from trtbuild.store.entries import Difference, Entry


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
