"""Who builds, and how the others wait."""

from __future__ import annotations

import json
import os
import threading
import time

import pytest

from tests.unit.store.store_helpers import fill, make_key, python
from trtbuild.process import start, stop
from trtbuild.store import Entry, Store, elect, liveness
from trtbuild.store.owner import current_owner, read_owner


@pytest.mark.parametrize("record", ["another-boot", "unreadable", "reused-pid", "dead-pid"])
def test_a_claim_whose_owner_is_dead_is_taken_over(store: Store, monkeypatch: pytest.MonkeyPatch, record: str) -> None:
    monkeypatch.setattr(liveness, "STALE_S", 0.3)
    key, me = make_key(), current_owner("before-the-reboot", now=0.0).__dict__
    store.directory.prepare(store.layout.claims)
    text = {
        "another-boot": json.dumps(me | {"boot_id": "another"}),
        "unreadable": "half a bea",
        "reused-pid": json.dumps(me | {"start_ticks": 1}),
        "dead-pid": json.dumps(me | {"pid": 2**22 + 1}),
    }[record]
    (store.layout.claims / f"{key.digest}.first").write_text(text)
    notices: list[str] = []
    with store.lock(key, on_wait=lambda owner, waited_s: notices.append(owner.describe())) as claim:
        assert claim.is_held
        inherited = len(list(store.layout.claims.iterdir()))
        assert inherited == (1 if record == "unreadable" else 2)
    assert list(store.layout.claims.iterdir()) == []
    if record in {"another-boot", "unreadable"}:
        assert notices, "it did not wait for a sign of life"


def test_waiters_hear_who_builds_and_get_the_entry_without_building(store: Store) -> None:
    key, notices, answers = make_key(), list[str](), list[object]()

    def ask() -> None:
        with store.lock(key, on_wait=lambda owner, waited_s: notices.append(owner.describe())) as claim:
            answers.append((claim.is_held, isinstance(store.get(key), Entry)))

    with store.lock(key), store.stage(key) as staging:
        staging.set_phase("build")
        waiter = threading.Thread(target=ask)
        waiter.start()
        while not notices:
            time.sleep(0.01)
        fill(staging.path)
        store.publish(key, staging, {})
        waiter.join(60)
    assert answers == [(False, True)]
    assert "phase build" in notices[0]
    assert f"pid {os.getpid()}" in notices[0]


def test_the_default_report_names_the_builder(store: Store, capfd: pytest.CaptureFixture[str]) -> None:
    elect.report_wait(current_owner("pod-a", now=0.0), 75.0)
    assert "waiting for pod-a pid" in capfd.readouterr().err


def test_a_forked_child_does_not_keep_its_parents_claim(store: Store) -> None:
    key = make_key()
    code = """
        import os, sys, time
        from pathlib import Path
        from tests.unit.store.store_helpers import make_key
        from trtbuild.store import Store
        store = Store(Path(sys.argv[1]))
        with store.lock(make_key()) as claim:
            read, write = os.pipe()
            if os.fork() == 0:
                claim.set_phase("not mine")
                os.close(read)
                os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
                os.dup2(1, 2)
                os.write(write, b"x")
                time.sleep(600)
            os.read(read, 1)
            os._exit(0)
    """
    child = start(python(code, store.root), log_path=store.root.parent / "log")
    try:
        assert child.wait(60) == 0
        claim = store.layout.claims / f"{key.digest}.first"
        owner = read_owner(claim)
        assert owner
        assert owner.phase == ""
        assert liveness.flock_is_free(claim, owner.token)
    finally:
        stop(child, grace_s=0)
