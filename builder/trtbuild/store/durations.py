"""How long builds took, for the estimate of the next one.

It decides which recorded build is most like a key. Records outlive the entries they belong to.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from trtbuild.console import log
from trtbuild.plan.key import EngineKey, path_part
from trtbuild.spec import JsonValue
from trtbuild.store import disk, links
from trtbuild.store.compare import flatten
from trtbuild.store.sharing import Sharing

_MAX_RECORD_BYTES = 1 << 20


def phases_of(provenance: Mapping[str, JsonValue]) -> dict[str, float]:
    """Return the seconds per phase that provenance has under ``durations``; empty when it has none."""
    durations = provenance.get("durations")
    if not isinstance(durations, Mapping):
        return {}
    return {
        name: float(value)
        for name, value in durations.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
    }


def record(
    directory: Path,
    key: EngineKey,
    provenance: Mapping[str, JsonValue],
    *,
    sharing: Sharing,
) -> None:
    """Keep the durations of a build; one that cannot be kept is no reason to fail."""
    phases = phases_of(provenance)
    if not phases:
        return
    target = _group(directory, key) / f"{key.digest}.json"
    body = json.dumps({"fields": dict(key.fields), "seconds": phases}, sort_keys=True)
    try:
        links.refuse_links(target.parent, below=directory)
        disk.make_dir(target.parent, mode=sharing.dir_mode, group=sharing.group)
        disk.write_file(target, body.encode(), mode=sharing.file_mode)
    except OSError as error:
        log.get().debug("store-durations", f"durations not recorded: {error}")


def estimate(directory: Path, key: EngineKey) -> float | None:
    """Return the median seconds of the recorded builds of this model on this SKU whose keys differ least, or None."""
    wanted = flatten(key.fields)
    nearest: dict[int, list[float]] = {}
    for fields, seconds in _records(_group(directory, key)):
        other = flatten(fields)
        distance = sum(wanted.get(name) != other.get(name) for name in {*wanted, *other})
        nearest.setdefault(distance, []).append(seconds)
    import statistics  # a tenth of a warm start, and a hit asks for no estimate

    return statistics.median(nearest[min(nearest)]) if nearest else None


def _group(directory: Path, key: EngineKey) -> Path:
    return directory / path_part(key.model_part) / path_part(key.sku_part)


def _records(directory: Path) -> Iterator[tuple[Mapping[str, JsonValue], float]]:
    for path in sorted(directory.glob("*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
            body = json.loads(links.read_small(path, limit_bytes=_MAX_RECORD_BYTES))
            seconds = sum(float(value) for value in body["seconds"].values())
            if isinstance(body["fields"], dict) and math.isfinite(seconds):
                yield body["fields"], seconds
