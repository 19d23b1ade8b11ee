"""What proves that a process is dead, and what does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.store.store_helpers import build, make_key
from trtbuild.store import Store, beacon, disk, liveness
from trtbuild.store.owner import current_owner, process_is_dead, start_ticks


def test_a_process_is_dead_when_it_is_gone_a_zombie_or_another_one() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    ticks = start_ticks(child.pid)
    assert ticks
    assert process_is_dead(child.pid, ticks) is False
    assert process_is_dead(child.pid, 0) is False, "an unknown start time proves nothing"
    assert process_is_dead(child.pid, ticks + 1) is True, "its id was given to another process"
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process_is_dead(child.pid, ticks) is True, "a zombie"
    child.communicate()
    assert process_is_dead(child.pid, ticks) is True


def test_locks_are_found_to_work_where_they_do(tmp_path: Path) -> None:
    liveness.locks_work.cache_clear()
    assert liveness.locks_work(tmp_path)
    assert not list(tmp_path.iterdir())


def test_locks_that_grant_everything_are_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    liveness.locks_work.cache_clear()
    monkeypatch.setattr(liveness.fcntl, "flock", lambda fd, operation: None)
    assert not liveness.locks_work(tmp_path)


def test_the_kernels_lock_proves_the_death_of_another_pod_on_this_node(tmp_path: Path) -> None:
    owner, path = current_owner("pod", now=0.0), tmp_path / "beacon"
    kept = beacon.create(path, owner)
    assert kept is not None
    other = type(owner)(**{**owner.__dict__, "pid_namespace": "another"})
    assert liveness.proof_of_death(path, other, unchanged_s=1000.0) is None, "it holds its lock"
    kept.close(remove=False)
    assert liveness.proof_of_death(path, other, unchanged_s=0.0) == "the kernel has released its lock"


@pytest.mark.parametrize(("unchanged_s", "is_dead"), [(19.9, False), (20.0, True)])
def test_silence_is_a_proof_only_where_nothing_better_is(tmp_path: Path, unchanged_s: float, is_dead: bool) -> None:
    owner = type(me := current_owner("pod", now=0.0))(**{**me.__dict__, "boot_id": "another"})
    assert (liveness.proof_of_death(tmp_path / "x", owner, unchanged_s=unchanged_s) is not None) == is_dead
    assert liveness.proof_of_death(tmp_path / "x", me, unchanged_s=unchanged_s) is None


def test_every_step_of_a_build_can_be_made_to_fail(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(disk, "fault_hook", lambda step, path: seen.append(step))
    build(store, make_key())
    steps = [step for step in seen if step not in {"mkdir", "fsync", "fsync-dir"}]
    assert steps == [
        *("write", "rename"),  # the tag
        *("beacon-draft", "beacon-link"),  # the claim
        *("beacon-draft", "beacon-link"),  # the owner of the staging directory
        *("write", "rename", "rename", "read-only"),  # the manifest, then the entry
        *("write", "rename"),  # its last use
        *("remove-tree", "unlink", "unlink"),  # the staging directory, its owner, the claim
    ]
    assert seen.count("fsync") == 3, "one for each file"
