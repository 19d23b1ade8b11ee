"""Timings of earlier builds are lent to a build and kept after it; whatever goes wrong with them fails nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.machines import gpu_host, resolved
from trtbuild import backends
from trtbuild.backends.tensorrt_llm.timing import kept_timings
from trtbuild.plan import BuildPlan
from trtbuild.spec import EngineSpec


def planned() -> BuildPlan:
    return backends.get("tensorrt_llm").plan(EngineSpec(model="llama-3-8b"), resolved("llama-3-8b"), gpu_host())


def test_a_build_begins_with_what_the_one_before_left(tmp_path: Path) -> None:
    plan, cache, hints = planned(), tmp_path / "cache", tmp_path / "hints"
    with kept_timings(plan, cache, hints):
        assert not cache.exists()
        cache.write_text("first")
    cache.unlink()
    with kept_timings(plan, cache, hints):
        assert cache.read_text() == "first"
        cache.write_text("first and second")
    [kept] = [path for path in hints.rglob("*") if path.is_file()]
    assert kept.read_text() == "first and second"
    assert kept.relative_to(hints).parts == (plan.sku, f"{plan.key.fields['tensorrt']}.cache")


def test_a_build_that_fails_leaves_the_timings_as_they_were(tmp_path: Path) -> None:
    cache, hints = tmp_path / "cache", tmp_path / "hints"
    with pytest.raises(ZeroDivisionError), kept_timings(planned(), cache, hints):
        cache.write_text("half")
        raise ZeroDivisionError
    assert not hints.exists()


def test_nothing_is_kept_without_a_place_and_no_fault_of_the_place_fails_a_build(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with kept_timings(planned(), cache, None):
        cache.write_text("x")
    (tmp_path / "file").write_text("in the way")
    with kept_timings(planned(), cache, tmp_path / "file"):
        cache.write_text("y")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "file"]
