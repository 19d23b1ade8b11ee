"""Removing entries by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.store.store_helpers import build, hit, make_key
from trtbuild.errors import StoreError
from trtbuild.store import Miss, Store


def test_remove_frees_the_entry_and_its_empty_parents(store: Store) -> None:
    entry = build(store, make_key())
    assert store.remove([entry]) == entry.size_bytes
    assert isinstance(store.get(make_key()), Miss)
    assert list(store.layout.engines.iterdir()) == []
    assert list(store.layout.trash.iterdir()) == []


def test_remove_refuses_a_root_without_its_tag_and_entries_of_other_stores(store: Store, tmp_path: Path) -> None:
    entry = build(store, make_key())
    other = Store(tmp_path / "other")
    build(other, make_key())
    with pytest.raises(StoreError, match="is not in the store"):
        other.remove([entry])
    (store.root / "CACHEDIR.TAG").unlink()
    with pytest.raises(StoreError, match=r"has no CACHEDIR.TAG"):
        store.remove([entry])
    assert hit(store, make_key(), verify="full")
