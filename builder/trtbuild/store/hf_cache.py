"""The Hugging Face cache as part of a store: its snapshots take room, and can be downloaded again.

It decides which snapshots are the store's own. A cache elsewhere, or one behind a link, belongs to others, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from trtbuild.store import links
from trtbuild.store.directory import StoreDirectory
from trtbuild.store.items import Item


def snapshots(directory: StoreDirectory, hf_cache: Path) -> Iterator[Item]:
    """Yield the revisions in a Hugging Face cache; while anything is being built none of them may go."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        info = scan_cache_dir(hf_cache)
    except (CacheNotFound, ValueError):
        return
    builders = [owner for owner in map(directory.claims.holder, directory.claims.digests()) if owner]
    keep = f"{builders[0].describe()} may read it" if builders else None
    for repo in info.repos:
        if not is_own(Path(os.path.abspath(hf_cache)), repo.repo_path / "snapshots"):  # noqa: PTH100
            continue
        for revision in repo.revisions:
            size = info.delete_revisions(revision.commit_hash).expected_freed_size
            yield Item(
                path=revision.snapshot_path,
                kind="snapshot",
                size_bytes=size,
                last_used=max(repo.last_accessed, revision.last_modified),
                keep=keep,
                name=revision.commit_hash,
            )


def is_own(root: Path, directory: Path) -> bool:
    """Say whether a directory lies below the root, and not behind a link that leads elsewhere."""
    path = Path(os.path.abspath(directory))  # noqa: PTH100 - the path as named, links kept
    if root not in path.parents:
        return False
    try:
        links.refuse_links(path, below=root)
    except OSError:
        return False
    return True


def remove_snapshot(item: Item, hf_cache: Path | None) -> bool:
    """Remove a snapshot and the files that only it uses; return whether it was there."""
    from huggingface_hub import scan_cache_dir

    if hf_cache is None or not item.path.exists():
        return False
    scan_cache_dir(hf_cache).delete_revisions(item.name).execute()
    return True
