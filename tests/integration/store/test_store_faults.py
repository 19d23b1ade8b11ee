"""Death and failure before every single change on disk, full disks, read-only roots, other users."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.store.actors import until
from tests.integration.store.test_store_election import actor, namespaces, result
from tests.unit.store.store_helpers import REPOSITORY, build, make_key
from trtbuild.process import Command, run, start, stop
from trtbuild.store import Store

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("before", ["cold", "damaged"])
def test_kill_9_before_every_step_leaves_the_entry_absent_or_whole(tmp_path: Path, before: str) -> None:
    steps: list[dict[str, Any]] = result("walk", tmp_path, "kill", before)
    assert len(steps) >= 20, "too few steps: the hook is not called everywhere"
    assert {step["code"] for step in steps} == {-9}
    assert {step["answer"] for step in steps} == {"absent", "whole"}
    assert [step for step in steps if not step["is_whole_after"] or step["left"] or step["unswept"]] == []


@pytest.mark.parametrize("before", ["cold", "damaged"])
def test_an_io_error_at_every_step_is_an_error_for_people_and_leaves_nothing(tmp_path: Path, before: str) -> None:
    steps: list[dict[str, Any]] = result("walk", tmp_path, "eio", before)
    assert len(steps) >= 20
    assert {step["code"] for step in steps} == {0}
    assert {step["answer"] for step in steps} == {"absent", "whole"}
    assert [step for step in steps if not step["is_whole_after"] or step["left"] or step["unswept"]] == []
    errors = {step["error"] for step in steps if step["error"]}
    assert errors
    assert all("input/output error" in error and "check the disk" in error for error in errors), errors


def test_kill_9_before_every_step_of_a_download_leaves_the_entry_absent_or_whole(tmp_path: Path) -> None:
    steps: list[dict[str, Any]] = result("walk", tmp_path, "kill", "shared")
    assert len(steps) >= 20
    assert {step["answer"] for step in steps} == {"absent", "whole"}
    assert [step for step in steps if not step["is_whole_after"] or step["left"] or step["unswept"]] == []


def test_kill_9_before_every_step_of_a_collection_leaves_entries_absent_or_whole(tmp_path: Path) -> None:
    steps: list[dict[str, Any]] = result("walk_collection", tmp_path)
    assert len(steps) >= 15
    assert [step for step in steps if step["bad"] or step["left"]] == []


@pytest.mark.parametrize("where", ["same-pod", "other-pod"])
def test_a_living_builders_staging_stays_and_goes_with_it(tmp_path: Path, where: str) -> None:
    """Listing and building something else sweep what the dead left; a builder that hangs is not dead."""
    store, prefix = Store(tmp_path / "store"), namespaces() if where == "other-pod" else ()
    ready = tmp_path / "ready"
    child = start(actor("build_for_ever", store.root, ready, prefix=prefix), log_path=tmp_path / "builder.log")
    try:
        until(lambda: ready.exists() and ready.read_text())
        os.kill(child.pid, signal.SIGSTOP)
        before = sorted(store.layout.staging.rglob("*"))
        assert any(path.name == "rank0.engine" for path in before)
        assert store.ls() == ()
        with store.lock(make_key(1)):
            pass
        assert sorted(store.layout.staging.rglob("*")) == before
    finally:
        os.kill(child.pid, signal.SIGKILL)
        stop(child, grace_s=1)

    def is_swept() -> bool:
        store.ls()
        return not list(store.layout.staging.iterdir())

    until(is_swept)


def mounted(tmp_path: Path, options: str, code: str) -> list[str]:
    """Run ``code`` where ``/mnt`` (or ``root`` in it) is a small file system of its own; return its output."""
    script = f"mount -t tmpfs -o {options} none {tmp_path} && exec {sys.executable} -c '{code}'"
    done = run(Command(argv=(*namespaces(), "sh", "-c", script), cwd=REPOSITORY), timeout_s=120)
    assert done.exit_code == 0, done.tail
    return list(done.tail)


def test_a_full_disk_is_an_error_with_the_figures_and_leaves_nothing(tmp_path: Path) -> None:
    lines = mounted(
        tmp_path,
        "size=1m",
        f"""
from pathlib import Path
from tests.unit.store.store_helpers import *
from trtbuild.errors import StoreError
from trtbuild.store import *
store = Store(Path("{tmp_path}/store"))
build(store, make_key(1))
for size in (700_000, 1_500_000):
    try:
        with store.lock(make_key(2)), store.stage(make_key(2)) as staging:
            with (staging.path / "rank0.engine").open("wb") as stream:
                try:
                    stream.write(b"x" * size)
                except OSError:
                    pass
            (staging.work_dir / "fill").write_bytes(b"x" * 100)
            (staging.work_dir / "rest").open("wb").write(b"y" * 2_000_000)
    except OSError as error:
        print("in the build:", error.strerror)
    try:
        with store.stage(make_key(2)) as staging:
            fill(staging.path)
            try:
                with open("{tmp_path}/filler", "wb", buffering=0) as stream:
                    while True:
                        stream.write(b"z" * 4096)
            except OSError:
                pass
            store.publish(make_key(2), staging, {{}})
    except StoreError as error:
        print("in publish:", error.message, "|", error.hint)
    Path("{tmp_path}/filler").unlink()
    kept = store.verify(store.get(make_key(1)))
    print(type(store.get(make_key(2))).__name__, len(list(store.layout.staging.iterdir())), kept)
build(store, make_key(2))
print("then:", store.verify(store.get(make_key(2))))
""",
    )
    assert lines.count("in the build: No space left on device") == 2
    full = [line for line in lines if line.startswith("in publish:")]
    assert len(full) == 2
    assert all("is full" in line and "are free" in line and "--store" in line for line in full)
    assert lines.count("Miss 0 ()") == 2
    assert lines[-1] == "then: ()"


def test_a_read_only_root_still_serves_hits_and_says_why_it_cannot_build(tmp_path: Path) -> None:
    lines = mounted(
        tmp_path,
        "size=4m",
        f"""
import json, os
from pathlib import Path
from tests.unit.store.store_helpers import *
from trtbuild.errors import StoreError
from trtbuild.process import Command, run
from trtbuild.store import lease as leases
from trtbuild.store import *
from trtbuild.store.owner import current_owner
store = Store(Path("{tmp_path}/store"))
entry = build(store, make_key(1))
store.directory.prepare(store.layout.leases)
me = current_owner("other", now=0.0).__dict__
for name, change in (("1", dict(pid=2**22 + 1)), ("2", dict(boot_id="another")), ("3", dict(pid_namespace="another"))):
    (store.layout.leases / (entry.digest + "." + name)).write_text(json.dumps(me | change))
    (store.layout.claims / (make_key(10 + int(name)).digest + ".first")).write_text(json.dumps(me | change))
    (store.layout.staging / (name + ".owner")).write_text(json.dumps(me | change))
assert run(Command(argv=("mount", "-o", "remount,ro", "{tmp_path}"))).exit_code == 0
store = Store(Path("{tmp_path}/store"))
print(store.verify(store.get(make_key(1))))
for action in (lambda: store.lock(make_key(2)).__enter__(), lambda: store.stage(make_key(2)).__enter__()):
    try:
        action()
    except StoreError as error:
        print(error.message, "|", error.hint)
print(store.explain(make_key(2)).is_hit)
builders = [store.explain(make_key(n)).builder for n in (11, 12, 13)]
user = leases.user(store.directory, entry.digest)
print(len(store.ls()), user is not None, [builder is not None for builder in builders])
print(len(collect(store, max_bytes=0, dry_run=True).removals))
with store.lease(store.get(make_key(1))) as lease:
    print(lease.path)
""",
    )
    assert lines[0] == "()"
    assert all("read-only file system" in line and "--store" in line for line in lines[1:3]), lines
    assert lines[3] == "False"
    assert lines[4] == "1 True [False, True, True]", "without trying a lock nothing is proven of another pod"
    assert int(lines[5]) >= 1
    assert "nothing keeps" in lines[6]
    assert lines[7] == "None"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_gets_hits_and_an_error_that_names_uid_and_mode(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    build(store, make_key(1))
    tmp_path.chmod(0o755)
    code = f"""
import os
from pathlib import Path
from tests.unit.store.store_helpers import *
from trtbuild.errors import StoreError
from trtbuild.store import *
import concurrent.futures.thread  # while still allowed to read it
os.setgroups([]); os.setgid(12345); os.setuid(12345)
store = Store(Path("{tmp_path}/store"))
print(store.verify(store.get(make_key(1))))
for action in (
    lambda: build(store, make_key(2)),
    lambda: store.remove(list(store.ls())),
    lambda: store.pin(store.ls()[0]),
):
    try:
        action()
    except StoreError as error:
        print(error.message, "|", error.hint)
print(store.verify(store.get(make_key(1))))
"""
    done = run(Command(argv=(sys.executable, "-c", code), cwd=REPOSITORY), timeout_s=60)
    assert done.exit_code == 0, done.tail
    assert done.tail[0] == done.tail[-1] == "()"
    assert len(done.tail) == 5
    for line in done.tail[1:-1]:
        assert "belongs to uid 0 gid 0 mode 0755, this process is uid 12345 gid 12345" in line
        assert "fsGroup" in line


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_two_users_of_one_group_share_a_store(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    root = tmp_path / "store"
    root.mkdir()
    os.chown(root, 0, 7000)
    root.chmod(0o2775)
    code = """
import os, sys
from pathlib import Path
from tests.unit.store.store_helpers import *
from trtbuild.store import *
uid, n = int(sys.argv[2]), int(sys.argv[3])
import concurrent.futures.thread  # while still allowed to read it
os.setgroups([7000]); os.setgid(uid); os.setuid(uid); os.umask(0o077)
store = Store(Path(sys.argv[1]), group=7000, is_group_writable=True)
build(store, make_key(n))
for entry in store.ls():
    print(entry.key.fields["n"], store.verify(entry))
    assert store.get(entry.key).digest == entry.digest
    store.pin(entry)
    store.unpin(entry)
    with store.lease(entry):
        pass
if n:
    store.remove(store.ls()[1:])
    assert len(store.ls()) == 1
"""
    for n, uid in enumerate((12345, 23456)):
        done = run(
            Command(argv=(sys.executable, "-c", code, str(root), str(uid), str(n)), cwd=REPOSITORY), timeout_s=60
        )
        assert done.exit_code == 0, done.tail
        assert sorted(done.tail) == [f"{m} ()" for m in range(n + 1)]
    shutil.rmtree(root)


def test_the_clock_may_jump_both_ways_during_a_build(tmp_path: Path) -> None:
    clock = iter([1e9, 5e9, 1.0, 2e9, 0.0] * 200)
    store = Store(tmp_path / "store", now=lambda: next(clock))
    entry = build(store, make_key())
    assert store.verify(entry) == ()
    assert store.explain(make_key()).is_hit
    assert json.loads((entry.path / "manifest.json").read_text())["digest"] == entry.digest


def test_the_actor_fails_loudly(tmp_path: Path) -> None:
    assert run(actor("walk", tmp_path / "missing", "kill", "cold")).exit_code == 1
