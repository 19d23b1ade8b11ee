"""What another user of a shared store may leave in it: links, pipes, gigabytes, beacons that no process wrote."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.store.store_helpers import build, contents, fill, make_key
from trtbuild.errors import StoreError
from trtbuild.store import Entry, Miss, Store, collect, leftovers, liveness
from trtbuild.store.owner import current_owner, read_owner


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def within(seconds: float, work: Callable[[], object]) -> object:
    """Return what ``work`` returns; fail when it hangs, which no test runner would tell."""
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, "it hangs, or failed"
    return found[0]


def _huge(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(1 << 30)


def _socket(path: Path) -> None:
    here = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


PLANTED = [
    pytest.param(_huge, "expected at most", id="a-gigabyte"),
    pytest.param(os.mkfifo, "expected a regular file", id="a-pipe"),
    pytest.param(lambda path: path.symlink_to("/dev/zero"), "expected a regular file", id="a-link-to-a-device"),
    pytest.param(lambda path: path.symlink_to(path.name), "expected a regular file", id="a-link-to-itself"),
    pytest.param(_socket, "expected a regular file", id="a-socket"),
    pytest.param(lambda path: path.mkdir(), "expected a regular file", id="a-directory"),
    pytest.param(lambda path: path.write_text("[" * 2000), "not JSON|recursion", id="a-deep-nest"),
]


@pytest.mark.parametrize(("plant", "reason"), PLANTED)
def test_a_planted_manifest_is_a_miss_that_costs_neither_time_nor_memory(
    store: Store, plant: Callable[[Path], None], reason: str
) -> None:
    entry = build(store, make_key())
    entry.path.chmod(0o755)
    (entry.path / "manifest.json").unlink()
    plant(entry.path / "manifest.json")
    found = within(60, lambda: store.get(make_key()))
    assert isinstance(found, Miss)
    assert any(part in found.reason for part in reason.split("|"))
    assert within(60, store.ls) == ()
    assert within(60, lambda: [broken.path for broken in store.broken()]) == [entry.path]
    assert contents(build(store, make_key()).path) == contents(build(store, make_key(1)).path)


@pytest.mark.parametrize(("plant", "reason"), PLANTED)
def test_a_planted_beacon_is_unreadable_and_no_more(
    store: Store, plant: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "beacon"
    plant(path)
    with pytest.raises(ValueError, match=f"not a whole beacon.*({reason})"):
        read_owner(path)
    store.directory.prepare(store.layout.claims)
    plant(store.layout.claims / f"{make_key().digest}.first")
    explained = within(60, lambda: store.explain(make_key()).builder)
    assert "unreadable beacon" in str(explained)


@pytest.mark.parametrize(
    "change",
    [
        {"since": "x"}, {"since": 1e300}, {"since": -1.0}, {"elapsed_s": None}, {"label": "\x1b[2J"}, {"label": 7},
        {"phase": "\n"}, {"phase": ["x"]}, {"pid_namespace": 1}, {"uid": "root"}, {"beats": 1.5}, {"token": "../x"},
        {"token": "x" * 65}, {"token": ""}, {"pid": True},
    ],
    ids=lambda change: f"{next(iter(change))}-{str(next(iter(change.values())))[:8]!r}",
)  # fmt: skip
def test_no_field_of_a_beacon_is_believed_unchecked(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "beacon"
    good = current_owner("pod", now=5.0).__dict__
    path.write_text(json.dumps(good))
    found = read_owner(path)
    assert found is not None
    assert "pod pid" in found.describe()
    path.write_text(json.dumps(good | change))
    with pytest.raises(ValueError, match="expected"):
        read_owner(path)


def test_a_name_that_no_terminal_should_see_is_shown_without_it(store: Store) -> None:
    other = Store(store.root, label="pod\x1b[2J")
    with other.lock(make_key()):
        assert "pod?[2J pid" in (store.explain(make_key()).builder or "")


@pytest.mark.parametrize("tokens", [["first"], ["aa", "first"], ["aa", "bb", "aa"]], ids="-".join)
def test_a_chain_of_claims_that_leads_back_into_itself_ends(
    store: Store, tokens: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "STALE_S", 0.2)
    store.directory.prepare(store.layout.claims)
    gone = current_owner("pod", now=0.0).__dict__ | {"pid": 2**22 + 1}
    for name, token in zip(["first", *tokens], tokens, strict=False):
        (store.layout.claims / f"{make_key().digest}.{name}").write_text(json.dumps(gone | {"token": token}))
    assert isinstance(within(60, lambda: build(store, make_key())), Entry)


@pytest.mark.parametrize("record", ["{}", "[]", '{"seconds": {}}', "[" * 2000], ids=["empty", "list", "half", "deep"])
def test_a_damaged_record_of_a_build_time_is_no_estimate(store: Store, record: str) -> None:
    build(store, make_key(), durations={"build_s": 5.0})
    (path,) = store.layout.durations.rglob("*.json")
    path.with_name("other.json").write_text(record)
    os.mkfifo(path.with_name("pipe.json"))
    assert within(60, lambda: store.estimate(make_key(1))) == 5.0


def _of_another_user(tmp_path: Path) -> Path:
    """Return a directory that looks like what is swept, and belongs to another user."""
    precious = tmp_path / "precious"
    fill(precious, {"a/b/c/file": b"x", "thesis.txt": b"x", "dead.1/file": b"x"})
    gone = current_owner("pod", now=0.0).__dict__ | {"pid": 2**22 + 1}
    (precious / "dead.1.owner").write_text(json.dumps(gone))
    for path in precious.rglob("*"):
        os.utime(path, (1, 1))
    return precious


@pytest.mark.parametrize(
    "name",
    [
        "engines",
        ".staging",
        ".trash",
        ".quarantine",
        ".claims",
        ".leases",
        ".downloads",
        "logs",
        "checkpoints",
        ".state",
    ],
)
def test_what_is_behind_a_link_is_never_removed(
    store: Store, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "TRASH_KEPT_S", -1.0)
    build(store, make_key())
    if (store.root / name).exists():
        (store.root / name).rename(tmp_path / "before")
    precious = _of_another_user(tmp_path)
    before = contents(precious)
    (store.root / name).symlink_to(precious)
    store.ls()
    try:
        collect(store, max_bytes=0)
        build(store, make_key(1))
    except StoreError as error:
        assert f"{store.root / name} is a symbolic link" in error.message
        assert f"rm {store.root / name}" in error.hint
    assert before.items() <= contents(precious).items()


def test_the_root_itself_may_be_a_link(store: Store, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    store.root.symlink_to(tmp_path / "disk")
    build(store, make_key())
    assert len(store.ls()) == 1


def test_listing_sweeps_only_a_directory_that_is_marked_as_a_cache(store: Store) -> None:
    gone = current_owner("pod", now=0.0).__dict__ | {"pid": 2**22 + 1}
    fill(store.layout.staging, {"dead.1/engine/file": b"x", "dead.1.owner": json.dumps(gone).encode()})
    store.ls()
    assert (store.layout.staging / "dead.1").exists()
    store.directory.prepare(store.root)
    store.ls()
    assert list(store.layout.staging.iterdir()) == []


def test_listing_takes_drafts_of_the_dead_and_old_trash_and_leaves_the_rest(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(store, make_key())
    me = current_owner("pod", now=0.0).__dict__
    dead, alive, unknown = (store.layout.claims / f".{name}.tmp" for name in ("dead", "alive", "unknown"))
    dead.write_text(json.dumps(me | {"pid": 2**22 + 1}))
    alive.write_text(json.dumps(me))
    unknown.write_bytes(b"")
    fill(store.layout.staging, {"other.1/file": b"x", "ownerless.1/file": b"x"})
    (store.layout.staging / "other.1.owner").write_text(json.dumps(me | {"boot_id": "another"}))
    fill(store.layout.trash, {"moved.1/file": b"x"})
    store.ls()
    assert [path.exists() for path in (dead, alive, unknown)] == [False, True, True]
    assert sorted(path.name for path in store.layout.staging.iterdir()) == ["other.1", "other.1.owner", "ownerless.1"]
    assert (store.layout.trash / "moved.1").exists(), "its collector may still put it back"
    assert all(removal.item.path.name != "moved.1" for removal in collect(store, dry_run=True).removals)
    monkeypatch.setattr(leftovers, "TRASH_KEPT_S", -1.0)
    store.ls()
    assert not (store.layout.trash / "moved.1").exists()
