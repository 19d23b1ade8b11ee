"""Publishing: an entry is absent or whole, and a peer that was faster is used."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from tests.unit.store.store_helpers import FILES, build, contents, fill, hit, make_key, miss
from trtbuild.errors import StoreError
from trtbuild.store import Miss, Store, disk


def test_published_entries_are_read_only(store: Store) -> None:
    entry = build(store, make_key())
    modes = {stat.S_IMODE(path.stat().st_mode) for path in entry.path.rglob("*") if path.is_file()}
    assert modes == {0o444}
    assert stat.S_IMODE(entry.path.stat().st_mode) == 0o555
    assert stat.S_IMODE((entry.path / "tokenizer").stat().st_mode) == 0o555


def test_nothing_is_left_beside_the_entry(store: Store) -> None:
    build(store, make_key())
    assert list(store.layout.staging.iterdir()) == []
    assert list(store.layout.claims.iterdir()) == []


def _damage(path: Path, data: bytes | None) -> None:
    path.chmod(0o644)
    path.parent.chmod(0o755)
    path.unlink() if data is None else path.write_bytes(data)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    _damage(path, bytes(data))


def test_a_peer_that_published_first_wins_and_is_used(store: Store) -> None:
    key = make_key()
    with store.stage(key) as ours:
        fill(ours.path, {**FILES, "rank0.engine": b"ours" * 10})
        theirs = build(store, key)
        published = store.publish(key, ours, {})
    assert published == theirs
    assert contents(published.path) == FILES


def test_a_damaged_peer_is_moved_aside_and_ours_is_used(store: Store) -> None:
    key = make_key()
    with store.stage(key) as ours:
        fill(ours.path, {**FILES, "rank0.engine": b"ours" * 10})
        theirs = build(store, key)
        _flip(theirs.path / "rank0.engine")
        published = store.publish(key, ours, {})
    assert contents(published.path)["rank0.engine"] == b"ours" * 10
    assert len(list(store.layout.quarantine.iterdir())) == 1


def test_an_empty_directory_or_a_file_in_the_way_is_no_obstacle(store: Store) -> None:
    for n, obstacle in enumerate(("directory", "file")):
        key = make_key(n)
        target = store.layout.entry(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        if obstacle == "directory":
            target.mkdir()
        else:
            target.write_text("in the way")
        assert "manifest.json" in miss(store, key).reason or "Not a directory" in miss(store, key).reason
        build(store, key)
        assert hit(store, key, verify="full")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "left no files"),
        (lambda path: (path / "rank0.engine").symlink_to("/etc/hostname"), "neither a file nor a directory"),
        (lambda path: os.mkfifo(path / "rank0.engine"), "neither a file nor a directory"),
        (lambda path: (path / "a\nb").write_text("x"), "control characters"),
    ],
    ids=["nothing", "link", "pipe", "newline-in-name"],
)
def test_what_is_not_an_engine_is_not_published(store: Store, make: object, message: str) -> None:
    key = make_key()
    with pytest.raises(StoreError, match=message) as caught, store.stage(key) as staging:
        make(staging.path)  # type: ignore[operator]
        store.publish(key, staging, {})
    assert caught.value.hint
    assert isinstance(store.get(key), Miss)


def test_secrets_never_reach_a_manifest(store: Store) -> None:
    planted = "hf_" + "A1b2C3d4" * 4
    entry = build(
        store,
        make_key(),
        command=f"convert --token {planted}",
        environment={"HF_TOKEN": "plain-words", "AWS_SECRET_ACCESS_KEY": "abcdef", "max_num_tokens": "8192"},
        urls=[f"https://user:{planted}@hub.example/x", "https://bob:hunter2@hub.example/y"],
        header="Bearer abcdefghijklmnop",
        **{f"key {planted}": 1},
    )
    text = (entry.path / "manifest.json").read_text()
    for secret in (planted, "plain-words", "abcdef", "hunter2"):
        assert secret not in text.replace(entry.digest, "").replace(json.loads(text)["seal"], "")
    assert entry.manifest.provenance["environment"]["max_num_tokens"] == "8192"  # type: ignore[index, call-overload]


def test_a_secret_in_a_key_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="looks like a secret"):
        build(store, make_key(option="hf_" + "A1b2C3d4" * 4))


def test_a_parent_that_a_collector_removed_is_made_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    target, removed = store.layout.entry(make_key()), []

    def collect_empty(step: str, path: Path) -> None:
        if step == "rename" and path == target and not removed:
            target.parent.rmdir()
            removed.append(target.parent)

    monkeypatch.setattr(disk, "fault_hook", collect_empty)
    assert build(store, make_key()).path == target
    assert removed


def test_a_file_that_goes_while_it_is_hashed_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(step: str, path: Path) -> None:
        if step == "fsync" and path.name == "tokenizer.json":
            (path.parent.parent / "rank0.engine").unlink()

    monkeypatch.setattr(disk, "fault_hook", lose)
    with pytest.raises(StoreError, match="cannot publish an engine: .*rank0.engine"):
        build(store, make_key())
    assert store.ls() == ()
