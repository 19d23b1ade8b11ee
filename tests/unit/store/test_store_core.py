from __future__ import annotations

import errno
import json
import os
import socket
import stat
import threading
import time
from pathlib import Path

import pytest

from tests.unit.store.store_helpers import FILES, build, contents, fill, make_key, python
from trtbuild.errors import StoreError
from trtbuild.process import start, stop
from trtbuild.store import Entry, Miss, Store, elect, links, liveness
from trtbuild.store.owner import current_owner, read_owner


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", now=lambda: 1_000_000.0)


def hit(store: Store, key: object, **kwargs: object) -> Entry:
    found = store.get(key, **kwargs)  # type: ignore[arg-type]
    assert isinstance(found, Entry), found
    return found


def miss(store: Store, key: object, **kwargs: object) -> Miss:
    found = store.get(key, **kwargs)  # type: ignore[arg-type]
    assert isinstance(found, Miss), found
    return found


def test_a_cold_store_is_a_miss_and_get_writes_nothing(store: Store) -> None:
    assert "never built" in miss(store, make_key()).reason
    assert not store.root.exists()


def test_what_was_published_is_found_whole(store: Store) -> None:
    key = make_key()
    entry = build(store, key, durations={"build": 12.5}, image="sha256:abc")
    found = hit(store, key, verify="full")
    assert found == entry
    assert found.path == store.root / "engines" / "acme--tiny" / "NVIDIA-L4" / f"tp1-pp1-float16-{key.short}"
    assert contents(found.path) == FILES
    assert found.size_bytes == sum(map(len, FILES.values()))
    by = {"host": socket.gethostname(), "uid": os.geteuid()}
    assert found.manifest.provenance == {"built_by": by, "durations": {"build": 12.5}, "image": "sha256:abc"}
    assert found.key == key
    assert found.last_used == 1_000_000.0
    assert (store.root / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")


def test_published_entries_are_read_only(store: Store) -> None:
    entry = build(store, make_key())
    modes = {stat.S_IMODE(path.stat().st_mode) for path in entry.path.rglob("*") if path.is_file()}
    assert modes == {0o444}
    assert stat.S_IMODE(entry.path.stat().st_mode) == 0o555
    assert stat.S_IMODE((entry.path / "tokenizer").stat().st_mode) == 0o555


def test_nothing_is_left_beside_the_entry(store: Store) -> None:
    build(store, make_key())
    assert list(store.layout.staging.iterdir()) == []
    assert list(store.layout.claims.iterdir()) == []


def _damage(path: Path, data: bytes | None) -> None:
    path.chmod(0o644)
    path.parent.chmod(0o755)
    path.unlink() if data is None else path.write_bytes(data)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    _damage(path, bytes(data))


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("rank0.engine", b"short", "rank0.engine: expected 600 bytes, got 5"),
        ("rank0.engine", None, "rank0.engine: No such file"),
        ("manifest.json", None, "manifest.json is missing"),
        ("manifest.json", b"", "manifest.json: not JSON"),
        ("manifest.json", b"[]", "manifest.json: expected a JSON object"),
        ("manifest.json", b'{"schema": 99}', "manifest.json: expected schema 1, got 99"),
        ("manifest.json", b"\xff\xfe", "manifest.json: not JSON"),
    ],
    ids=["truncated", "file-gone", "no-manifest", "empty-manifest", "list", "other-schema", "not-utf8"],
)
def test_a_damaged_entry_is_a_miss_with_a_reason_and_is_replaced(
    store: Store, name: str, data: bytes | None, reason: str
) -> None:
    key = make_key()
    entry = build(store, key)
    _damage(entry.path / name, data)
    found = miss(store, key)
    assert reason in found.reason
    assert found.path == entry.path
    assert [broken.path for broken in store.broken()] == [entry.path]
    assert contents(build(store, key).path) == FILES
    assert hit(store, key, verify="full")
    assert store.broken() == ()
    assert len(list(store.layout.quarantine.iterdir())) == 1


@pytest.mark.parametrize(("code", "is_miss"), [(errno.EIO, True), (errno.ESTALE, True), (errno.EACCES, False)])
def test_a_manifest_that_the_disk_will_not_give_is_a_miss_and_a_forbidden_one_an_error(
    store: Store, monkeypatch: pytest.MonkeyPatch, code: int, is_miss: bool
) -> None:
    key = make_key()
    build(store, key)

    def fail(path: Path, *, limit_bytes: int) -> bytes:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(links, "read_small", fail)
    if is_miss:
        assert os.strerror(code) in miss(store, key).reason
    else:
        with pytest.raises(StoreError, match="permission denied"):
            store.get(key)


def test_a_flipped_bit_in_a_file_is_found_by_full_verification_only(store: Store) -> None:
    key = make_key()
    entry = build(store, key)
    _flip(entry.path / "rank0.engine")
    assert hit(store, key)
    assert "rank0.engine: expected sha256" in miss(store, key, verify="full").reason
    assert [problem.file for problem in store.verify(entry)] == ["rank0.engine"]


def test_any_flipped_byte_of_a_manifest_is_found(store: Store) -> None:
    key = make_key()
    entry = build(store, key, who="me")
    path = entry.path / "manifest.json"
    whole = path.read_bytes()
    survivors = []
    for position in range(len(whole)):
        if whole[position : position + 1].isspace():
            continue  # a space that became another character is found as well, but may still be JSON's white space
        _damage(path, whole[:position] + bytes([whole[position] ^ 0x02]) + whole[position + 1 :])
        if isinstance(store.get(key), Entry):
            survivors.append((position, whole[position]))
    assert survivors == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda path: (path / "extra").write_text("x"), "extra: is not in the manifest"),
        (lambda path: (path / "link").symlink_to("/etc/passwd"), "'link' is neither a file"),
        (
            lambda path: ((path / "config.json").unlink(), (path / "config.json").symlink_to("/dev/null")),
            "config.json: expected a regular file",
        ),
    ],
    ids=["extra-file", "extra-link", "file-became-link"],
)
def test_full_verification_finds_what_is_not_in_the_manifest(store: Store, change: object, problem: str) -> None:
    entry = build(store, make_key())
    entry.path.chmod(0o755)
    change(entry.path)  # type: ignore[operator]
    assert any(problem in str(found) for found in store.verify(entry))


def test_the_entry_of_another_key_under_this_name_is_a_miss(store: Store) -> None:
    first, second = make_key(1), make_key(2)
    entry = build(store, first)
    target = store.layout.entry(second)
    entry.path.chmod(0o755)
    entry.path.rename(target)
    assert "another key" in miss(store, second).reason
    build(store, second)
    assert hit(store, second, verify="full")


def test_a_peer_that_published_first_wins_and_is_used(store: Store) -> None:
    key = make_key()
    with store.stage(key) as ours:
        fill(ours.path, {**FILES, "rank0.engine": b"ours" * 10})
        theirs = build(store, key)
        published = store.publish(key, ours, {})
    assert published == theirs
    assert contents(published.path) == FILES


def test_a_damaged_peer_is_moved_aside_and_ours_is_used(store: Store) -> None:
    key = make_key()
    with store.stage(key) as ours:
        fill(ours.path, {**FILES, "rank0.engine": b"ours" * 10})
        theirs = build(store, key)
        _flip(theirs.path / "rank0.engine")
        published = store.publish(key, ours, {})
    assert contents(published.path)["rank0.engine"] == b"ours" * 10
    assert len(list(store.layout.quarantine.iterdir())) == 1


def test_an_empty_directory_or_a_file_in_the_way_is_no_obstacle(store: Store) -> None:
    for n, obstacle in enumerate(("directory", "file")):
        key = make_key(n)
        target = store.layout.entry(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        if obstacle == "directory":
            target.mkdir()
        else:
            target.write_text("in the way")
        assert "manifest.json" in miss(store, key).reason or "Not a directory" in miss(store, key).reason
        build(store, key)
        assert hit(store, key, verify="full")


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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "left no files"),
        (lambda path: (path / "rank0.engine").symlink_to("/etc/hostname"), "neither a file nor a directory"),
        (lambda path: os.mkfifo(path / "rank0.engine"), "neither a file nor a directory"),
        (lambda path: (path / "a\nb").write_text("x"), "control characters"),
    ],
    ids=["nothing", "link", "pipe", "newline-in-name"],
)
def test_what_is_not_an_engine_is_not_published(store: Store, make: object, message: str) -> None:
    key = make_key()
    with pytest.raises(StoreError, match=message) as caught, store.stage(key) as staging:
        make(staging.path)  # type: ignore[operator]
        store.publish(key, staging, {})
    assert caught.value.hint
    assert isinstance(store.get(key), Miss)


def test_secrets_never_reach_a_manifest(store: Store) -> None:
    planted = "hf_" + "A1b2C3d4" * 4
    entry = build(
        store,
        make_key(),
        command=f"convert --token {planted}",
        environment={"HF_TOKEN": "plain-words", "AWS_SECRET_ACCESS_KEY": "abcdef", "max_num_tokens": "8192"},
        urls=[f"https://user:{planted}@hub.example/x", "https://bob:hunter2@hub.example/y"],
        header="Bearer abcdefghijklmnop",
        **{f"key {planted}": 1},
    )
    text = (entry.path / "manifest.json").read_text()
    for secret in (planted, "plain-words", "abcdef", "hunter2"):
        assert secret not in text.replace(entry.digest, "").replace(json.loads(text)["seal"], "")
    assert entry.manifest.provenance["environment"]["max_num_tokens"] == "8192"  # type: ignore[index, call-overload]


def test_a_secret_in_a_key_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="looks like a secret"):
        build(store, make_key(option="hf_" + "A1b2C3d4" * 4))


def test_ls_is_sorted_by_last_use_and_find_takes_prefixes_and_paths(tmp_path: Path) -> None:
    clock = [1000.0]
    store = Store(tmp_path / "store", now=lambda: clock[0])
    made = []
    for n in range(3):
        clock[0] += 10
        made.append(build(store, make_key(n)))
    clock[0] += 10
    hit(store, make_key(0))
    assert [entry.digest for entry in store.ls()] == [made[n].digest for n in (0, 2, 1)]
    assert [entry.last_used for entry in store.ls()] == [1040.0, 1030.0, 1020.0]
    assert [entry.path for entry in store.find(made[1].short)] == [made[1].path]
    assert [entry.path for entry in store.find(made[1].digest[:6].upper())] == [made[1].path]
    assert [entry.path for entry in store.find(str(made[2].path / "rank0.engine"))] == [made[2].path]
    assert store.find("zzzz") == store.find("") == store.find("abc") == ()


def test_a_clock_set_back_does_not_put_the_last_use_into_the_future(tmp_path: Path) -> None:
    clock = [5000.0]
    store = Store(tmp_path / "store", now=lambda: clock[0])
    build(store, make_key())
    clock[0] = 100.0
    assert store.ls()[0].last_used == 100.0


def test_remove_frees_the_entry_and_its_empty_parents(store: Store) -> None:
    entry = build(store, make_key())
    assert store.remove([entry]) == entry.size_bytes
    assert isinstance(store.get(make_key()), Miss)
    assert list(store.layout.engines.iterdir()) == []
    assert list(store.layout.trash.iterdir()) == []


def test_remove_refuses_a_root_without_its_tag_and_entries_of_other_stores(store: Store, tmp_path: Path) -> None:
    entry = build(store, make_key())
    other = Store(tmp_path / "other")
    build(other, make_key())
    with pytest.raises(StoreError, match="is not in the store"):
        other.remove([entry])
    (store.root / "CACHEDIR.TAG").unlink()
    with pytest.raises(StoreError, match=r"has no CACHEDIR.TAG"):
        store.remove([entry])
    assert hit(store, make_key(), verify="full")


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
    heard: list[str] = []
    with store.lock(key, on_wait=lambda owner, waited_s: heard.append(owner.describe())) as claim:
        assert claim.is_held
        inherited = len(list(store.layout.claims.iterdir()))
        assert inherited == (1 if record == "unreadable" else 2)
    assert list(store.layout.claims.iterdir()) == []
    if record in {"another-boot", "unreadable"}:
        assert heard, "it did not wait for a sign of life"


def test_waiters_hear_who_builds_and_get_the_entry_without_building(store: Store) -> None:
    key, heard, answers = make_key(), list[str](), list[object]()

    def ask() -> None:
        with store.lock(key, on_wait=lambda owner, waited_s: heard.append(owner.describe())) as claim:
            answers.append((claim.is_held, isinstance(store.get(key), Entry)))

    with store.lock(key), store.stage(key) as staging:
        staging.set_phase("build")
        waiter = threading.Thread(target=ask)
        waiter.start()
        while not heard:
            time.sleep(0.01)
        fill(staging.path)
        store.publish(key, staging, {})
        waiter.join(60)
    assert answers == [(False, True)]
    assert "phase build" in heard[0]
    assert f"pid {os.getpid()}" in heard[0]


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
