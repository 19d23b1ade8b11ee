"""Who builds: many processes, several pods, and builders that die."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.store.actors import until
from tests.unit.store.store_helpers import REPOSITORY, build, make_key
from trtbuild.process import Command, run, start, stop
from trtbuild.store import Store, collect, lease

pytestmark = pytest.mark.integration


def actor(*args: object, prefix: tuple[str, ...] = (), **env: str) -> Command:
    argv = (*prefix, sys.executable, "-m", "tests.integration.store.actors", *map(str, args))
    return Command(argv=argv, env=env, cwd=REPOSITORY)


def result(*args: object, **env: str) -> Any:
    done = run(actor(*args, **env), timeout_s=240)
    assert done.exit_code == 0, done.tail
    return json.loads(done.tail[-1])


def namespaces() -> tuple[str, ...]:
    """Return the command that starts a program as a pod of its own: other process ids, another host name."""
    if not shutil.which("unshare"):
        pytest.skip("unshare (util-linux) is not installed")
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    prefix = ("unshare", *user, "--pid", "--fork", "--kill-child", "--mount-proc", "--mount", "--uts")
    if run(Command(argv=(*prefix, "true"))).exit_code != 0:
        pytest.skip("this machine allows no new namespaces")
    return prefix


def test_64_processes_that_ask_for_one_key_get_one_build_and_one_answer(tmp_path: Path) -> None:
    assert result("crowd", tmp_path, 64, "sound") == {
        "failed": 0,
        "builds": 1,
        "answers": 64,
        "different": 1,
        "is_whole": True,
        "is_mixed": False,
        "left": 0,
    }


def test_never_do_two_processes_have_a_claim_whoever_is_killed(tmp_path: Path) -> None:
    outcome = result("contend", tmp_path, 100)
    assert outcome["killed"] >= 5, "hardly anybody was killed: the test proves nothing"
    assert (outcome["failed"], outcome["violations"]) == (0, "")


def test_without_any_exclusion_builds_repeat_but_entries_never_mix(tmp_path: Path) -> None:
    outcome = result("crowd", tmp_path, 12, "broken")
    assert outcome["builds"] > 1, "the broken lock did not let anybody in twice: the test proves nothing"
    assert (outcome["failed"], outcome["answers"], outcome["is_whole"], outcome["is_mixed"]) == (0, 12, True, False)
    assert outcome["different"] == 1
    assert outcome["left"] == 0


def test_where_flock_grants_everything_there_is_still_one_build(tmp_path: Path) -> None:
    outcome = result("crowd", tmp_path, 16, "sound", ACTOR_NO_LOCKS="1")
    assert (outcome["builds"], outcome["answers"], outcome["different"]) == (1, 16, 1)


def test_many_keys_many_processes_and_a_collector(tmp_path: Path) -> None:
    outcome = result("hammer", tmp_path, 8, 200, 1)
    assert outcome["failed"] == 0
    assert outcome["problems"] == []
    assert outcome["broken"] == outcome["left"] == 0
    assert outcome["builds"] >= 200
    assert outcome["collected"] > 0, "the collector never had anything to do: the test proves nothing"


@pytest.fixture
def builder(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Any, Path]]:
    prefix = namespaces() if request.param == "other-pod" else ()
    child = start(
        actor("build_for_ever", tmp_path / "store", tmp_path / "ready", prefix=prefix),
        log_path=tmp_path / "builder.log",
    )
    until(lambda: (tmp_path / "ready").exists() and (tmp_path / "ready").read_text())
    yield child, tmp_path
    stop(child, grace_s=1)


def _waiter(tmp_path: Path, *, stale_s: float, **env: str) -> Any:
    return start(
        actor("take_over", tmp_path / "store", tmp_path / "reports", stale_s, **env), log_path=tmp_path / "waiter.log"
    )


@pytest.mark.parametrize(
    ("builder", "stale_s", "env"),
    [
        ("same-pod", 10_000, {}),
        ("other-pod", 10_000, {}),
        ("other-pod", 8, {"ACTOR_NO_LOCKS": "1"}),
    ],
    ids=["same-pod-by-proc", "other-pod-by-lock", "other-pod-without-locks-by-silence"],
    indirect=["builder"],
)
def test_a_waiter_says_who_builds_and_takes_over_when_the_builder_is_killed(
    builder: tuple[Any, Path], stale_s: float, env: dict[str, str]
) -> None:
    child, tmp_path = builder
    waiter = _waiter(tmp_path, stale_s=stale_s, **env)
    try:
        until(lambda: (tmp_path / "reports").exists())
        report = (tmp_path / "reports").read_text()
        assert report.startswith("pod-a pid ")
        assert "phase convert" in report
        time.sleep(2 * 2.0 + 0.5)  # longer than two heartbeats: a living builder is never taken for dead
        assert waiter.poll() is None
        assert child.poll() is None
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        until(lambda: waiter.poll() is not None)
        assert waiter.returncode == 0, (tmp_path / "waiter.log").read_text()
    finally:
        stop(waiter, grace_s=1)
    store = Store(tmp_path / "store")
    (entry,) = store.ls()
    assert store.verify(entry) == ()


@pytest.mark.parametrize("builder", ["same-pod"], indirect=True)
def test_a_builder_that_hangs_is_not_robbed(builder: tuple[Any, Path]) -> None:
    child, tmp_path = builder
    os.kill(child.pid, signal.SIGSTOP)
    waiter = _waiter(tmp_path, stale_s=0.5)
    try:
        until(lambda: (tmp_path / "reports").exists())
        time.sleep(2.0)
        assert waiter.poll() is None
    finally:
        os.kill(child.pid, signal.SIGCONT)
        stop(waiter, grace_s=1)


@pytest.mark.parametrize("where", ["same-pod", "other-pod"])
def test_a_lease_lives_with_the_program_that_the_process_became(tmp_path: Path, where: str) -> None:
    prefix = namespaces() if where == "other-pod" else ()
    store = Store(tmp_path / "store")
    entry = build(store, make_key())
    child = start(actor("serve", store.root, tmp_path / "ready", prefix=prefix), log_path=tmp_path / "log")
    try:
        until((tmp_path / "ready").exists)
        collect(store, max_bytes=0)
        assert "pod-s" in (lease.user(store.directory, entry.digest) or "")
        assert store.ls()
    finally:
        stop(child, grace_s=1)
    until(lambda: lease.user(store.directory, entry.digest) is None)
    assert not any(path.suffix != ".tmp" for path in store.layout.leases.iterdir())
