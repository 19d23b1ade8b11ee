"""What the processes of the store's tests do. Each function runs in a process of its own."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.unit.store.store_helpers import FILES, build, contents, fill, make_key
from trtbuild.errors import StoreError
from trtbuild.plan import EngineKey
from trtbuild.store import (
    Entry,
    Shared,
    Store,
    beacon,
    collect,
    disk,
    elect,
    leftovers,
    liveness,
    open_tier,
    usage,
)
from trtbuild.store.claims import Claims, Held
from trtbuild.store.owner import Owner, process_is_dead


def fork(work: Callable[[], None]) -> int:
    """Run ``work`` in a new process and return its pid."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException:  # noqa: BLE001 - a forked child must not return into the test
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def wait(pid: int) -> int:
    """Return the exit code of a child, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def until(is_true: Callable[[], object], timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > deadline:
            raise TimeoutError("what was waited for did not happen")
        time.sleep(0.02)


def fingerprint(entry: Entry) -> str:
    return hashlib.sha256(json.dumps({k: v.hex() for k, v in contents(entry.path).items()}).encode()).hexdigest()


def get_or_build(store: Store, key: EngineKey, builds: Path, *, files: dict[str, bytes] = FILES) -> Entry:
    """Do what the pipeline does, and leave a file in ``builds`` for each build."""
    found = store.get(key)
    if isinstance(found, Entry):
        return found
    with store.lock(key):
        found = store.get(key)
        if isinstance(found, Entry):
            return found
        with store.stage(key) as staging:
            (builds / f"{key.short}.{os.getpid()}.{time.monotonic_ns()}").touch()
            staging.set_phase("build")
            fill(staging.path, files)
            return store.publish(key, staging, {})


def crowd(root: str, count: str, mode: str) -> None:
    """``count`` processes ask for one key at once; print what each got and how many built.

    With ``mode`` broken, every process gets every claim at once, as with a lock that never excludes, and each builds
    other bytes, as engine compilers do.
    """
    top = Path(root)
    builds, results, go = top / "builds", top / "results", top / "go"
    for path in (builds, results):
        path.mkdir()
    if mode == "broken":
        Claims.try_claim = lambda self, digest: Held(  # type: ignore[method-assign]
            beacon=beacon.create(self._directory / f"{digest}.{os.getpid()}", self._make_owner()),  # type: ignore[arg-type]
            ancestors=(),
        )

    def ask(n: int) -> None:
        until(go.exists)
        own = {**FILES, "rank0.engine": b"%04d" % n * 1000, "rank1.engine": b"%04d" % n * 1000}
        entry = get_or_build(Store(top / "store"), make_key(), builds, files=own if mode == "broken" else FILES)
        (results / str(n)).write_text(fingerprint(entry))

    pids = [fork(lambda n=n: ask(n)) for n in range(int(count))]  # type: ignore[misc]
    go.touch()
    codes = [wait(pid) for pid in pids]
    store = Store(top / "store")
    entry = store.get(make_key(), verify="full")
    ranks = {contents(entry.path).get(f"rank{n}.engine") for n in (0, 1)} if isinstance(entry, Entry) else set()
    print(
        json.dumps(
            {
                "failed": sum(code != 0 for code in codes),
                "builds": len(list(builds.iterdir())),
                "answers": len(list(results.iterdir())),
                "different": len({path.read_text() for path in results.iterdir()}),
                "is_whole": isinstance(entry, Entry),
                "is_mixed": mode == "broken" and len(ranks) != 1,
                "left": len(list(store.layout.staging.iterdir())),
            }
        )
    )


def contend(root: str, sections: str) -> None:
    """Processes take one claim again and again and are often killed while they have it; never do two have it."""
    top, key = Path(root), make_key()
    inside, count, violations = top / "inside", top / "count", top / "violations"
    inside.mkdir()
    elect._POLL_S = (0.001, 0.005)

    def work(seed: int) -> None:
        store, chance = Store(top / "store"), random.Random(seed)
        while not count.exists() or count.stat().st_size < int(sections):
            with store.lock(key):
                for other in inside.iterdir():
                    if process_is_dead(int(other.name), 0) is False and other.exists():
                        with violations.open("a") as stream:
                            stream.write(f"{os.getpid()} met {other.name}\n")
                    other.unlink(missing_ok=True)
                mine = inside / str(os.getpid())
                mine.touch()
                time.sleep(chance.random() * 0.003)
                with count.open("a") as stream:
                    stream.write("x")
                if chance.random() < 0.2:
                    os.kill(os.getpid(), signal.SIGKILL)
                mine.unlink(missing_ok=True)

    codes, running, started = [], set[int](), 0
    while running or started == 0:
        while len(running) < 8 and (not count.exists() or count.stat().st_size < int(sections)):
            started += 1
            running.add(fork(lambda seed=started: work(seed)))  # type: ignore[misc]
        pid, status = os.wait()
        running.discard(pid)
        codes.append(os.waitstatus_to_exitcode(status))
    told = violations.read_text() if violations.exists() else ""
    print(
        json.dumps(
            {"killed": codes.count(-9), "failed": sum(code not in {0, -9} for code in codes), "violations": told}
        )
    )


def hammer(root: str, processes: str, keys: str, rounds: str) -> None:
    """Several processes ask for many keys while a collector removes what it may; no process ever sees half an entry."""
    top = Path(root)
    builds = top / "builds"
    builds.mkdir()
    usage.GRACE_S = 0.0
    every = [make_key(n) for n in range(int(keys))]

    def work(n: int) -> None:
        store = Store(top / "store")
        for turn in range(int(rounds)):
            for position in range(len(every)):
                key = every[(position * (n + 3) + turn + n * 7) % len(every)]
                for _ in range(20):
                    entry = get_or_build(store, key, builds)
                    try:
                        lease = store.lease(entry)
                    except StoreError:
                        continue  # collected between the answer and the lease: ask again
                    with lease:
                        problems = store.verify(entry)
                        if problems or contents(entry.path) != FILES:
                            raise AssertionError(f"a leased entry is bad: {problems}")
                    break
                else:
                    raise AssertionError("never got a lease")

    pids = [fork(lambda n=n: work(n)) for n in range(int(processes))]  # type: ignore[misc]
    store, collected, codes = Store(top / "store"), 0, []
    while pids:
        before = len(store.ls())
        room = sum(map(len, FILES.values())) * int(keys) // 4
        if before:
            collected += len(collect(store, max_bytes=room).removals)
        for pid in list(pids):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                pids.remove(pid)
                codes.append(os.waitstatus_to_exitcode(status))
        time.sleep(0.05)
    problems = [str(problem) for entry in store.ls() for problem in store.verify(entry)]
    print(
        json.dumps(
            {
                "failed": sum(code != 0 for code in codes),
                "builds": len(list(builds.iterdir())),
                "collected": collected,
                "problems": problems,
                "broken": len(store.broken()),
                "left": len(list(store.layout.staging.iterdir())),
            }
        )
    )


def _faulty(store: Store, step: int, *, kill: bool, seen: list[str]) -> None:
    """Make the ``step``-th change on disk fail: by SIGKILL, or with an input/output error."""

    def hook(name: str, path: Path) -> None:
        seen.append(f"{name} {path.relative_to(store.root) if path.is_relative_to(store.root) else path.name}")
        if len(seen) - 1 == step:
            if kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(errno.EIO, "Input/output error", str(path))

    disk.fault_hook = hook


def _damage(store: Store, key: EngineKey) -> None:
    entry = build(store, key)
    entry.path.chmod(0o755)
    (entry.path / "rank0.engine").chmod(0o644)
    (entry.path / "rank0.engine").write_bytes(b"truncated")


def walk(root: str, fault: str, before: str) -> None:
    """Die (or fail) before each single change in turn; after each the entry is absent or whole and can be had.

    Whoever comes next, to list or to build something else, finds and removes what is left of the build.
    """
    usage.DEBRIS_AGE_S = -1.0  # sweep drafts at once
    steps: list[dict[str, object]] = []
    for step in range(1000):
        top = Path(root) / str(step)
        top.mkdir()
        store, key = Store(top / "store"), make_key()
        if before == "damaged":
            _damage(store, key)
        if before == "shared":
            (top / "tier").mkdir()
            origin = Store(top / "origin")
            assert Shared(origin, open_tier(str(top / "tier"))).push(build(origin, key))

        def work(store: Store = store, step: int = step, top: Path = top) -> None:
            seen: list[str] = []
            _faulty(store, step, kill=fault == "kill", seen=seen)
            try:
                if before == "shared":
                    with store.lock(make_key()):
                        Shared(store, open_tier(str(top / "tier"))).pull(make_key())
                else:
                    get_or_build(store, make_key(), top)
            except StoreError as error:
                (top / "error").write_text(f"{error.message} | {error.hint}")
            finally:
                (top / "seen").write_text(json.dumps(seen))

        code = wait(fork(work))
        is_over = (top / "seen").exists() and len(json.loads((top / "seen").read_text())) <= step
        if is_over:
            print(json.dumps(steps))
            return
        found = store.get(key, verify="full")
        answer = "whole" if isinstance(found, Entry) else "absent" if found.path is None else f"bad: {found.reason}"
        if before == "damaged" and answer.startswith("bad: rank0.engine: expected 600 bytes, got 9"):
            answer = "absent"  # still the damaged one, a miss with its reason
        if step % 2:
            store.ls()
        else:
            with store.lock(make_key(1)):
                pass
        unswept = [path.name for path in store.layout.staging.iterdir()] if store.layout.staging.exists() else []
        again = get_or_build(store, key, top)
        collect(store)
        left = [path.name for path in store.layout.staging.iterdir()] + [p.name for p in store.layout.claims.iterdir()]
        steps.append(
            {
                "step": step,
                "code": code,
                "answer": answer,
                "error": (top / "error").read_text() if (top / "error").exists() else "",
                "is_whole_after": not store.verify(again) and contents(again.path) == FILES,
                "left": left,
                "unswept": unswept,
            }
        )
    raise AssertionError("the steps did not end")


def walk_collection(root: str) -> None:
    """Die before each single change of a collection; every entry is absent or whole, and the next one ends it."""
    usage.GRACE_S, usage.DEBRIS_AGE_S, leftovers.TRASH_KEPT_S = 0.0, -1.0, -1.0
    steps: list[dict[str, object]] = []
    for step in range(1000):
        top = Path(root) / str(step)
        top.mkdir()
        store, keys = Store(top / "store"), [make_key(n) for n in range(3)]
        for key in keys:
            build(store, key)
        fill(store.layout.staging / "dead.1", FILES)
        fill(store.layout.trash / "dead.2", FILES)
        _damage(store, keys[2])

        def work(store: Store = store, step: int = step, top: Path = top) -> None:
            seen: list[str] = []
            _faulty(store, step, kill=True, seen=seen)
            collect(store, max_bytes=0)
            (top / "seen").write_text(json.dumps(seen))

        wait(fork(work))
        if (top / "seen").exists():
            print(json.dumps(steps))
            return
        found = [store.get(key, verify="full") for key in keys[:2]]
        bad = [miss.reason for miss in found if not isinstance(miss, Entry) and miss.path]
        collect(store, max_bytes=0)
        left = [
            str(path)
            for path in (store.layout.engines, store.layout.staging, store.layout.trash)
            if any(path.iterdir())
        ]
        steps.append({"step": step, "bad": bad, "left": left, "there": sum(isinstance(one, Entry) for one in found)})
    raise AssertionError("the steps did not end")


def serve(root: str, ready: str) -> None:
    """Lease an entry and become another program."""
    store = Store(Path(root), label="pod-s")
    entry = store.get(make_key())
    assert isinstance(entry, Entry)
    store.lease(entry).keep_over_exec()
    os.execvp("sh", ["sh", "-c", f"echo > {ready}; exec sleep 1000"])


def build_for_ever(root: str, ready: str) -> None:
    """Claim the key, say so, and never finish."""
    store = Store(Path(root), label="pod-a")
    with store.lock(make_key()), store.stage(make_key()) as staging:
        staging.set_phase("convert")
        fill(staging.path)
        Path(ready).write_text(str(os.getpid()))
        while True:
            time.sleep(0.1)


def take_over(root: str, reports: str, stale_s: str) -> None:
    """Ask for the key that another builds; write each report of who that is."""
    liveness.STALE_S = float(stale_s)
    store = Store(Path(root), label="pod-b")
    log = Path(reports)

    def on_wait(owner: Owner, waited_s: float) -> None:
        with log.open("a") as stream:
            stream.write(f"{owner.describe()}\n")

    with store.lock(make_key(), on_wait=on_wait) as claim:
        assert claim.is_held
        with store.stage(make_key()) as staging:
            fill(staging.path)
            entry = store.publish(make_key(), staging, {})
    print(fingerprint(entry))


def no_locks() -> None:
    """Make this process find a file system on which every lock is granted to every process."""
    beacon.fcntl.flock = lambda fd, operation: None  # type: ignore[attr-defined, assignment]


if __name__ == "__main__":
    if os.environ.get("ACTOR_NO_LOCKS"):
        no_locks()
    globals()[sys.argv[1]](*sys.argv[2:])
