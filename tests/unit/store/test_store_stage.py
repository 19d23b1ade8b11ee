"""What is left of a build that failed, and of one that did not."""

from __future__ import annotations

import pytest

from tests.unit.store.store_helpers import fill, make_key
from trtbuild.store import Miss, Store


def _fail_build(store: Store) -> None:
    with store.stage(make_key()) as staging:
        (staging.work_dir / "rank").mkdir()
        (staging.work_dir / "rank" / "build.log").write_text("no kernel found")
        (staging.work_dir / "checkpoint.bin").write_bytes(b"x" * 100)
        raise RuntimeError("the compiler failed")


def test_a_failed_build_leaves_its_logs_and_nothing_else(store: Store) -> None:
    with pytest.raises(RuntimeError, match="the compiler failed"):
        _fail_build(store)
    assert list(store.layout.staging.iterdir()) == []
    (kept,) = store.layout.logs.iterdir()
    assert {path.name: path.read_text() for path in kept.iterdir()} == {"rank-build.log": "no kernel found"}
    assert isinstance(store.get(make_key()), Miss)


def test_the_work_directory_is_removed_unless_it_is_to_be_kept(store: Store) -> None:
    for n, keep in enumerate((False, True)):
        key = make_key(n)
        with store.stage(key) as staging:
            fill(staging.path)
            (staging.work_dir / "rank0.safetensors").write_text("weights")
            store.publish(key, staging, {}, keep_work=keep)
        assert (store.layout.checkpoints / key.relative_path / "rank0.safetensors").exists() == keep
