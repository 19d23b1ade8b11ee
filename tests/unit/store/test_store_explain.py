"""Why a key is a miss, and how long a build should take."""

from __future__ import annotations

import os

import pytest

from tests.unit.store.store_helpers import build, make_key
from trtbuild.store import Store


def test_explain_names_the_fields_in_which_the_nearest_entry_differs(store: Store) -> None:
    build(store, make_key(1, model="other/model"))
    build(store, make_key(1, versions={"tensorrt": "10.11.0.33"}), durations={"fetch": 10, "build": 200})
    told = store.explain(make_key(1))
    assert not told.is_hit
    assert [str(difference) for difference in told.differences] == [
        "versions.tensorrt: 10.9.0.34 here, 10.11.0.33 in the store"
    ]
    assert told.estimate_s == 210
    assert told.builder is None
    build(store, make_key(1))
    assert store.explain(make_key(1)).is_hit


def test_explain_says_who_builds_now(store: Store) -> None:
    with store.lock(make_key()) as claim:
        claim.set_phase("convert")
        assert f"pid {os.getpid()} " in (store.explain(make_key()).builder or "")
        assert "phase convert" in (store.explain(make_key()).builder or "")


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        ([], None),
        ([("acme/tiny", "NVIDIA-L4", 0, 100.0)], 100.0),
        ([("acme/tiny", "NVIDIA-L4", 1, 300.0), ("acme/tiny", "NVIDIA-L4", 2, 100.0)], 200.0),
        ([("acme/tiny", "NVIDIA-H100", 0, 100.0), ("acme/large", "NVIDIA-L4", 0, 100.0)], None),
        ([("acme/tiny", "NVIDIA-L4", 0, 50.0), ("acme/tiny", "NVIDIA-L4", 1, 300.0)], 50.0),
    ],
    ids=["nothing", "same", "median-of-alike", "other-sku-or-model", "nearest-first"],
)
def test_estimates_come_from_the_builds_most_alike(
    store: Store, recorded: list[tuple[str, str, int, float]], expected: float | None
) -> None:
    for model, sku, n, seconds in recorded:
        entry = build(store, make_key(n, model=model, sku=sku), durations={"build": seconds})
        store.remove([entry])
    assert store.estimate(make_key(0)) == expected


@pytest.mark.parametrize(
    "record",
    [
        '{"fields": [1], "seconds": {"build": 1}}',
        '{"fields": {}, "seconds": {"build": NaN}}',
        "[]",
        "",
        '{"fields": {}}',
    ],
)
def test_a_damaged_record_of_a_build_counts_for_nothing(store: Store, record: str) -> None:
    build(store, make_key(), durations={"build": 60.0})
    (good,) = store.layout.durations.rglob("*.json")
    good.with_name("damaged.json").write_text(record)
    assert store.estimate(make_key(1)) == 60.0
