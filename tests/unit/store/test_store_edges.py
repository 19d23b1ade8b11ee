"""Endings of the store that are rare, and what is said then."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from tests.unit.store.store_helpers import build, make_key
from trtbuild.errors import StoreError
from trtbuild.store import Store, disk, lease, publish, remove


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_an_entry_without_manifest_is_a_problem_of_the_manifest(store: Store) -> None:
    entry = build(store, make_key())
    entry.path.chmod(0o755)
    (entry.path / "manifest.json").unlink()
    assert [str(problem) for problem in store.verify(entry)] == ["manifest.json: is missing"]


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ENOSPC, errno.EXDEV])
def test_a_rename_that_fails_is_not_taken_for_a_peer(
    store: Store, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(step: str, path: Path) -> None:
        if step == "rename" and path == store.layout.entry(make_key()):
            raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(disk, "fault_hook", fail)
    with pytest.raises(StoreError, match="cannot publish an engine"):
        build(store, make_key())
    monkeypatch.undo()
    assert store.ls() == ()
    assert not list(store.layout.staging.iterdir())


def test_an_entry_that_a_collector_puts_back_is_leased(store: Store) -> None:
    entry = build(store, make_key())
    moved = remove.move_to_trash(store.directory, entry.path)
    assert moved is not None

    def put_back() -> None:
        time.sleep(0.3)
        moved.rename(entry.path)

    thread = threading.Thread(target=put_back)
    thread.start()
    with store.lease(entry):
        assert lease.user(store.directory, entry.digest) is not None
    thread.join()


def test_an_entry_that_is_gone_for_good_is_not_leased(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_PUT_BACK_S", 0.2)
    entry = build(store, make_key())
    store.remove([entry])
    with pytest.raises(StoreError, match="was collected before it could be used"):
        store.lease(entry)
    assert not list(store.layout.leases.iterdir())


def test_a_bad_entry_is_set_aside_with_a_warning(store: Store, capfd: pytest.CaptureFixture[str]) -> None:
    entry = build(store, make_key())
    publish.set_aside(store.directory, entry.path, "its hash is wrong")
    (moved,) = store.layout.quarantine.iterdir()
    assert f"moved {entry.path} aside to {moved}: its hash is wrong" in capfd.readouterr().err


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match=f"{tmp_path}/file is a file, where a directory is expected") as caught:
            build(Store(root), make_key())
        assert "--store" in caught.value.hint


def test_a_file_system_that_takes_no_files_is_no_store() -> None:
    with pytest.raises(StoreError, match="the file system of /proc takes no new files"):
        build(Store(Path("/proc/store")), make_key())


def test_a_removal_that_fails_names_the_whole_path(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = build(store, make_key())
    unlink = os.unlink

    def fail(path: str | Path, **options: object) -> None:
        if str(path).endswith("manifest.json") and options.get("dir_fd") is not None:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        unlink(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "unlink", fail)
    with pytest.raises(StoreError) as caught:
        store.remove([entry])
    monkeypatch.undo()
    assert f"the disk under {store.root}/.trash/" in caught.value.message
    assert "/manifest.json reports an input/output error" in caught.value.message
