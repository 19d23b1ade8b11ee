"""Room: what is counted, what goes first, what never goes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.unit.store.store_helpers import build, fill, make_key
from trtbuild.errors import StoreError
from trtbuild.store import Entry, Miss, Store, beacon, collect, lease, make_room
from trtbuild.store.owner import current_owner
from trtbuild.store.usage import measure

SIZE = 1000
ONE = {"rank0.engine": b"x" * SIZE}


class Clock:
    def __init__(self) -> None:
        self.t = 1_000_000.0

    def __call__(self) -> float:
        return self.t


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Store:
    """Four entries of 1000 bytes, number 0 the oldest, all last used long ago."""
    store = Store(tmp_path / "store", now=clock)
    for n in range(4):
        build(store, make_key(n), ONE)
        clock.t += 3600
    clock.t += 86400
    return store


def there(store: Store) -> set[int]:
    return {int(str(entry.key.fields["n"])) for entry in store.ls()}


def entries_bytes(store: Store) -> int:
    return measure(store.directory, hf_cache=None)[1].by_kind["entry"]


def limit(store: Store, entries: int) -> int:
    """Return the budget in which ``entries`` entries fit beside what else there is."""
    usage = measure(store.directory, hf_cache=None)[1]
    return usage.total_bytes - usage.by_kind["entry"] + entries * SIZE


def test_the_least_recently_used_goes_first(store: Store) -> None:
    assert entries_bytes(store) == 4 * SIZE
    store.get(make_key(0))
    store.directory.now.t += 86400  # type: ignore[attr-defined]
    done = collect(store, max_bytes=limit(store, 2))
    assert there(store) == {0, 3}
    assert [removal.item.kind for removal in done.removals] == ["entry", "entry"]
    assert done.frees_bytes == 2 * SIZE
    assert done.fits


def test_a_dry_run_says_the_same_and_changes_nothing(store: Store) -> None:
    told = collect(store, max_bytes=limit(store, 1), dry_run=True)
    assert there(store) == {0, 1, 2, 3}
    done = collect(store, max_bytes=limit(store, 1))
    assert done.removals == told.removals
    assert there(store) == {3}


def test_pinned_leased_recent_and_building_entries_stay(store: Store, clock: Clock) -> None:
    (pinned,) = store.find(make_key(0).short)
    store.pin(pinned)
    (leased,) = store.find(make_key(1).short)
    clock.t += 10 * 86400
    store.get(make_key(2))
    with store.lease(leased), store.lock(make_key(3)):
        done = collect(store, max_bytes=0)
        assert there(store) == {0, 1, 2, 3}
        assert not done.fits
        reasons = sorted(str(item.keep).split(" ")[0] for item in done.kept if item.kind == "entry")
        assert reasons == ["being", "in", "pinned", "used"]
    clock.t += 3600
    collect(store, max_bytes=0)
    assert there(store) == {0}
    store.unpin(pinned)
    collect(store, max_bytes=0)
    assert there(store) == set()


def test_an_entry_that_came_into_use_after_the_plan_stays(store: Store) -> None:
    from trtbuild.store import budget, gc

    told = budget.plan(store.directory, max_bytes=0, min_free=0, needs={}, hf_cache=None)
    assert len([removal for removal in told.removals if removal.item.kind == "entry"]) == 4
    (entry,) = store.find(make_key(1).short)
    store.get(make_key(2))
    (third,) = store.find(make_key(3).short)
    store.pin(third)
    with store.lease(entry):
        gc.act(store.directory, told, hf_cache=None)
    assert there(store) == {1, 2, 3}


def test_a_build_that_cannot_fit_is_refused_with_the_arithmetic_and_nothing_is_removed(store: Store) -> None:
    for entry in store.ls():
        store.pin(entry)
    with pytest.raises(StoreError) as caught:
        make_room(store, {"snapshot": 5 << 30, "engine": 6 << 30}, max_bytes=10 << 30)
    assert "needed: 11.0 GiB (snapshot 5.0 GiB + engine 6.0 GiB)" in caught.value.message
    assert "of at most 10.0 GiB (max_bytes)" in caught.value.message
    assert "pinned" in caught.value.message
    assert "--max-bytes" in caught.value.hint
    assert there(store) == {0, 1, 2, 3}


def test_a_build_that_leaves_too_little_free_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match=r"at least 8\.\d EiB|at least [0-9.]+ TiB wanted \(min_free\)"):
        make_room(store, {"engine": 1}, min_free=1 << 60)
    assert there(store) == {0, 1, 2, 3}


def test_room_is_made_for_a_build_that_fits(store: Store) -> None:
    done = make_room(store, {"engine": 2 * SIZE}, max_bytes=limit(store, 4))
    assert there(store) == {2, 3}
    assert done.needs == {"engine": 2 * SIZE}
    assert make_room(store, {"engine": 2 * SIZE}, max_bytes=limit(store, 4)).removals == ()


def test_an_empty_store_has_room(tmp_path: Path) -> None:
    assert make_room(Store(tmp_path / "new"), {"engine": 10}).fits
    assert not (tmp_path / "new").exists()


def test_collection_refuses_a_root_without_its_tag(store: Store) -> None:
    (store.root / "CACHEDIR.TAG").unlink()
    with pytest.raises(StoreError, match=r"no CACHEDIR\.TAG"):
        collect(store, max_bytes=0)
    assert there(store) == {0, 1, 2, 3}


def _old(path: Path, clock: Clock, age_s: float) -> None:
    os.utime(path, (clock.t - age_s, clock.t - age_s))


def test_logs_quarantine_downloads_and_checkpoints_are_counted_and_go_before_entries(
    store: Store, clock: Clock
) -> None:
    made = {
        "quarantine": store.layout.quarantine / "bad.1",
        "download": store.layout.downloads / ("a" * 64),
        "log": store.layout.logs / "build.1",
        "checkpoint": store.layout.checkpoints / make_key(3).relative_path,
    }
    for path in made.values():
        fill(path, {"data": b"y" * 500})
        _old(path, clock, 3600)
    usage = measure(store.directory, hf_cache=None)[1]
    assert {kind: usage.by_kind[kind] for kind in made} == dict.fromkeys(made, 500)
    collect(store, max_bytes=usage.total_bytes - 2000)
    assert there(store) == {0, 1, 2, 3}
    assert not any(path.exists() for path in made.values())


@pytest.mark.parametrize(
    ("where", "days", "stays"),
    [
        ("quarantine", 6, True),
        ("quarantine", 8, False),
        ("logs", 29, True),
        ("logs", 31, False),
        (".downloads", 2, False),
    ],
)
def test_old_leftovers_go_without_any_budget(store: Store, clock: Clock, where: str, days: int, stays: bool) -> None:
    path = store.root / (".quarantine" if where == "quarantine" else where) / "x"
    fill(path, {"data": b"y"})
    _old(path, clock, days * 86400)
    collect(store)
    assert path.exists() == stays
    assert there(store) == {0, 1, 2, 3}


def test_broken_entries_go(store: Store) -> None:
    (entry,) = store.find(make_key(1).short)
    entry.path.chmod(0o755)
    (entry.path / "rank0.engine").unlink()
    assert [removal.item.kind for removal in collect(store).removals] == ["broken"]
    assert not entry.path.exists()
    assert isinstance(store.get(make_key(1)), Miss)


def _hub_cache(cache: Path, *names: str) -> None:
    for name in names:
        repo, commit = cache / f"models--acme--{name}", "a" * 39 + name[-1]
        fill(repo, {f"blobs/{name}": b"w" * 400, "refs/main": commit.encode()})
        (repo / "snapshots" / commit).mkdir(parents=True)
        (repo / "snapshots" / commit / "model.safetensors").symlink_to(f"../../blobs/{name}")


def test_snapshots_inside_the_store_are_counted_and_collected_before_entries(store: Store) -> None:
    cache = store.root / "hub"
    other = measure(store.directory, hf_cache=None)[1].by_kind["other"]
    _hub_cache(cache, "m1", "m2")
    (cache / "models--acme--m1" / "blobs" / "x.incomplete").write_bytes(b"p" * 5000)
    usage = measure(store.directory, hf_cache=cache)[1]
    assert usage.by_kind["snapshot"] == 800
    assert 5000 <= usage.by_kind["other"] - other < 5500
    protected = cache / "models--acme--m1" / "snapshots" / ("a" * 39 + "1")
    make_room(store, {"engine": 1}, max_bytes=usage.total_bytes - 399, hf_cache=cache, protect=(protected,))
    assert (protected / "model.safetensors").read_bytes() == b"w" * 400
    assert not (cache / "models--acme--m2").exists()
    assert there(store) == {0, 1, 2, 3}


def test_snapshots_are_not_collected_while_anything_is_being_built(store: Store) -> None:
    cache = store.root / "hub"
    _hub_cache(cache, "m1")
    with store.lock(make_key(9)):
        collect(store, max_bytes=0, hf_cache=cache)
    assert (cache / "models--acme--m1").exists()


def test_the_claim_of_a_build_that_ended_with_the_node_keeps_nothing_for_ever(store: Store) -> None:
    cache = store.root / "hub"
    _hub_cache(cache, "m1")
    claim = store.layout.claims / f"{make_key(9).digest}.first"
    claim.write_text(json.dumps(current_owner("before-the-reboot", now=0.0).__dict__ | {"boot_id": "another"}))
    assert "before-the-reboot" in (store.explain(make_key(9)).builder or "")
    collect(store, max_bytes=0, hf_cache=cache)
    assert (cache / "models--acme--m1").exists()
    os.utime(claim, (1, 1))
    assert store.explain(make_key(9)).builder is None
    collect(store, max_bytes=0, hf_cache=cache)
    assert not (cache / "models--acme--m1").exists()
    assert not claim.exists()


def test_snapshots_outside_the_store_are_counted_but_never_collected(store: Store, tmp_path: Path) -> None:
    _hub_cache(tmp_path / "hub", "m1")
    done = collect(store, max_bytes=0, hf_cache=tmp_path / "hub")
    assert done.usage.outside_bytes == 400
    assert "snapshot" not in done.usage.by_kind
    assert (tmp_path / "hub" / "models--acme--m1").exists()


def test_a_live_staging_directory_stays_and_a_dead_one_goes(store: Store) -> None:
    dead = store.layout.staging / "dead.1"
    fill(dead, {"engine/rank0.engine": b"x" * 10})
    gone = current_owner("pod", now=0.0).__dict__ | {"pid": 2**22 + 1}
    dead.with_name("dead.1.owner").write_text(json.dumps(gone))
    ownerless = store.layout.staging / "ownerless.1"
    fill(ownerless, {"engine/rank0.engine": b"x" * 10})
    with store.stage(make_key(7)) as staging:
        fill(staging.path, ONE)
        collect(store)
        assert not dead.exists()
        assert not ownerless.exists()
        assert isinstance(store.publish(make_key(7), staging, {}), Entry)
    assert list(store.layout.staging.iterdir()) == []


def test_the_staging_of_another_node_goes_only_after_long_silence_and_watching(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beacon, "HEARTBEAT_S", 0.05)
    other = store.layout.staging / "other.1"
    fill(other, {"engine/rank0.engine": b"x"})
    owner = other.with_name("other.1.owner")
    owner.write_text(json.dumps(current_owner("node-b", now=0.0).__dict__ | {"boot_id": "another"}))
    collect(store)
    assert other.exists()
    os.utime(owner, (1, 1))
    collect(store)
    assert not other.exists()
    assert not owner.exists()


def test_leases_of_the_dead_do_not_count_and_unprovable_ones_count_for_a_day(store: Store) -> None:
    (entry,) = store.find(make_key(0).short)
    store.lease(entry).release()
    file = store.layout.leases / f"{entry.digest}.x1"
    me = current_owner("pod", now=0.0).__dict__
    for change, in_use in (({"pid": 2**22 + 1}, False), ({"start_ticks": 1}, False), ({"boot_id": "another"}, True)):
        file.write_text(json.dumps(me | change))
        assert (lease.user(store.directory, entry.digest) is not None) == in_use, change
    os.utime(file, (1, 1))
    assert lease.user(store.directory, entry.digest) is None
    assert not file.exists()


def test_a_log_that_is_being_written_stays(store: Store, clock: Clock) -> None:
    path = store.layout.logs / "serve-1.log"
    fill(store.layout.logs, {"serve-1.log": b"y" * 500})
    _old(path, clock, 60)
    collect(store, max_bytes=0)
    assert path.exists()


def test_remove_refuses_what_is_pinned_or_in_use(store: Store) -> None:
    (first,), (second,) = store.find(make_key(0).short), store.find(make_key(1).short)
    store.pin(first)
    with pytest.raises(StoreError, match="is pinned"):
        store.remove([second, first])
    with store.lease(second), pytest.raises(StoreError, match="is in use by .* pid"):
        store.remove([second])
    assert there(store) == {0, 1, 2, 3}
    store.remove([second])
    assert there(store) == {0, 2, 3}


def test_a_lease_on_an_entry_that_was_collected_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from trtbuild.store import lease

    monkeypatch.setattr(lease, "_PUT_BACK_S", 0.0)
    (entry,) = store.find(make_key(0).short)
    store.remove([entry])
    with pytest.raises(StoreError, match="was collected before it could be used"):
        store.lease(entry)
    assert [path for path in store.layout.leases.iterdir() if path.suffix != ".tmp"] == []


def test_what_was_known_of_a_collected_entry_goes_with_it(store: Store, clock: Clock) -> None:
    half_an_hour_ago = clock() - 1800.0  # not in use any more, and too young for a stray stamp
    for entry in store.ls():
        os.utime(store.layout.used / entry.digest, (half_an_hour_ago, half_an_hour_ago))
    collect(store, max_bytes=0)
    assert not list(store.layout.used.iterdir())
    assert not list(store.layout.engines.iterdir())
