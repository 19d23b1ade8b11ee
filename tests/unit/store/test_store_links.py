"""A link in the place of any directory that the store writes to or removes from: refused by name, and not followed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from tests.unit.store.store_helpers import build, contents, fill, make_key
from trtbuild.errors import StoreError
from trtbuild.store import Entry, Miss, Store, collect, lease, leftovers, publish, remove
from trtbuild.store.bundle import export_bundle, import_bundle
from trtbuild.store.layout import Part

DIRECTORIES = (
    "engines", ".staging", ".claims", ".leases", ".downloads", ".quarantine", ".trash", ".state", ".state/used",
    ".state/pins", ".state/durations", "logs", "checkpoints", "hashes", "models", "repositories", "servers",
    "timing",
)  # fmt: skip


PARTS = get_args(Part)


def test_the_table_is_that_of_the_store(tmp_path: Path) -> None:
    own = {path.relative_to(tmp_path).as_posix() for path in Store(tmp_path).layout.own()}
    assert own | {".state"} == set(DIRECTORIES)


OPERATIONS: dict[str, Callable[[Store, Entry], object]] = {
    "build": lambda store, _: build(store, make_key(1)),
    "replace": lambda store, _: build(store, make_key()),  # of a damaged entry, which is moved aside
    "collect": lambda store, _: collect(store, max_bytes=0),
    "plan": lambda store, _: collect(store, max_bytes=0, dry_run=True),
    "remove": lambda store, entry: store.remove([entry]),
    "pin": lambda store, entry: store.pin(entry),
    "unpin": lambda store, entry: store.unpin(entry),
    "lease": lambda store, entry: store.lease(entry),
    "import": lambda store, _: import_bundle(store, store.root.parent / "bundle.tar"),
    "set-aside": lambda store, entry: publish.set_aside(store.directory, entry.path, "broken"),
    "take-out": lambda store, entry: remove.move_to_trash(store.directory, entry.path),
}


def _state(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return names, modes, times and contents of all below a directory."""
    found = {}
    for path in (directory, *sorted(directory.rglob("*"))):
        info = path.lstat()
        data = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(directory))] = (info.st_mode, info.st_mtime_ns, data)
    return found


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", DIRECTORIES)
def test_a_link_in_the_place_of_a_directory_is_refused_by_name(
    tmp_path: Path, name: str, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "TRASH_KEPT_S", -1.0)
    store = Store(tmp_path / "store")
    entry = build(store, make_key(), durations={"build_s": 1.0})
    other = Store(tmp_path / "other")
    export_bundle(other, build(other, make_key(2)), tmp_path / "bundle.tar")
    if operation == "replace":
        manifest = entry.path / "manifest.json"
        manifest.chmod(0o644)
        manifest.write_text("{}")
    place, outside = store.root / name, tmp_path / "outside"
    if place.exists():
        place.rename(outside)  # so that what the store looks for is there
    else:
        outside.mkdir()
    fill(outside, {"precious": b"1", "dead.1/precious": b"2", ".x.tmp": b"3"})
    os.utime(outside / ".x.tmp", (0, 0))
    place.symlink_to(outside)
    before = _state(outside)
    if operation in {"set-aside", "take-out"} and name not in {"engines", ".quarantine", ".trash"}:
        OPERATIONS[operation](store, entry)  # a move within the store, which touches none of the others
    elif (operation, name) in {("set-aside", ".trash"), ("take-out", ".quarantine")}:
        OPERATIONS[operation](store, entry)
    elif operation in {"set-aside", "take-out"}:
        with pytest.raises(OSError, match="symbolic link") as refused:
            OPERATIONS[operation](store, entry)
        assert refused.value.filename == str(place)
    else:
        with pytest.raises(StoreError) as caught:
            OPERATIONS[operation](store, entry)
        assert f"{place} is a symbolic link, and links are not followed there" in caught.value.message
        assert f"rm {place}" in caught.value.hint
    assert _state(outside) == before


@pytest.mark.parametrize("name", PARTS)
def test_what_others_put_into_the_store_does_not_go_through_a_link(tmp_path: Path, name: Part) -> None:
    store = Store(tmp_path / "store")
    assert store.part(name) == tmp_path / "store" / name
    (tmp_path / "store").mkdir()
    store.part(name).symlink_to(tmp_path)
    with pytest.raises(StoreError, match=f"cannot use the store's {name}: .*/{name} is a symbolic link"):
        store.part(name)


@pytest.mark.parametrize("name", DIRECTORIES)
def test_looking_at_a_store_with_a_link_changes_nothing_behind_it(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path / "store")
    entry = build(store, make_key())
    place, outside = store.root / name, tmp_path / "outside"
    if place.exists():
        place.rename(outside)
    else:
        outside.mkdir()
    place.symlink_to(outside)
    before = _state(outside)
    store.ls()
    assert isinstance(store.get(make_key()), Entry | Miss)
    store.verify(entry)
    if name == ".claims":
        with pytest.raises(StoreError, match="symbolic link"):
            store.explain(make_key())
    else:
        store.explain(make_key(1))
    if name == ".leases":
        with pytest.raises(StoreError, match="symbolic link"):
            lease.user(store.directory, entry.digest)
    assert _state(outside) == before


def test_a_link_below_the_recorded_durations_is_not_followed(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    outside = tmp_path / "outside"
    outside.mkdir()
    store.directory.prepare(store.layout.durations)
    build(store, make_key(), durations={"build_s": 1.0})
    (model,) = store.layout.durations.iterdir()
    model.rename(tmp_path / "before")
    model.symlink_to(outside)
    build(store, make_key(1), durations={"build_s": 1.0})
    assert list(outside.iterdir()) == []


def test_a_cache_behind_a_link_is_counted_and_never_collected(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    build(store, make_key())
    commit, outside = "a" * 40, tmp_path / "outside"
    repo = outside / "models--org--name"
    fill(repo, {"blobs/b": b"x" * 1000, "refs/main": commit.encode()})
    (repo / "snapshots" / commit).mkdir(parents=True)
    (repo / "snapshots" / commit / "model.safetensors").symlink_to("../../blobs/b")
    (store.root / "hub").symlink_to(outside)
    before = contents(outside)
    done = collect(store, max_bytes=0, hf_cache=store.root / "hub")
    assert not [removal for removal in done.removals if removal.item.kind == "snapshot"]
    assert contents(outside) == before
    (store.root / "hub").unlink()
    (store.root / "hub").mkdir()
    (store.root / "hub" / repo.name).symlink_to(repo)
    done = collect(store, max_bytes=0, hf_cache=store.root / "hub")
    assert not [removal for removal in done.removals if removal.item.kind == "snapshot"]
    assert contents(outside) == before


@pytest.mark.parametrize("place", [".state/durations/org/sku/.k.json.1.tmp", ".state/used/.k.tmp", ".state/.x.tmp",
                                   ".state/pins/.p.tmp", "hashes.ab12.tmp", ".claims/.t.tmp"])  # fmt: skip
def test_a_collection_takes_drafts_wherever_they_lie(tmp_path: Path, place: str) -> None:
    store = Store(tmp_path / "store")
    build(store, make_key(), durations={"build_s": 1.0})
    draft = store.root / place
    fill(store.root, {place: b"half", f"{place}.new.tmp": b"half"})
    young = draft.with_name(draft.name + ".new.tmp")
    os.utime(draft, (0, 0))
    collect(store)
    assert not draft.exists()
    assert young.exists()
    assert list(store.layout.durations.rglob("*.json"))
