"""Why a key is a hit or a miss, in full."""

from __future__ import annotations

from trtbuild.plan.key import EngineKey
from trtbuild.store import durations, find, links
from trtbuild.store.compare import nearest
from trtbuild.store.directory import StoreDirectory
from trtbuild.store.disk_errors import explained
from trtbuild.store.entries import Entry, Explanation


def explain(directory: StoreDirectory, key: EngineKey, *, shared: str | None = None) -> Explanation:
    """Say why ``key`` is a hit or a miss, and what the store has that is most like it."""
    found = find.get(directory, key, "sizes")
    closest, differing = (None, ()) if isinstance(found, Entry) else nearest(key, find.entries(directory))
    with explained("read the claims", directory.layout.claims):
        links.refuse_links(directory.layout.claims, below=directory.root)
        builder = directory.claims.holder(key.digest)
    return Explanation(
        key=key,
        local=found,
        shared=shared,
        nearest=closest,
        differences=differing,
        builder=builder.describe() if builder else None,
        estimate_s=durations.estimate(directory.layout.durations, key),
    )
