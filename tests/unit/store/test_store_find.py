"""What counts as a hit, and why something is none."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from tests.unit.store.store_helpers import FILES, build, contents, hit, make_key, miss
from trtbuild.errors import StoreError
from trtbuild.store import Entry, Store, links
from trtbuild.store.files import list_files


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


def test_without_verification_the_manifest_alone_decides(store: Store) -> None:
    entry = build(store, make_key())
    entry.path.chmod(0o755)
    (entry.path / "rank0.engine").unlink()
    assert hit(store, make_key(), verify="none").path == entry.path
    assert store.verify(entry, "none") == ()
    assert "rank0.engine" in miss(store, make_key()).reason


def test_a_directory_that_cannot_be_listed_is_an_error_and_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list_files(tmp_path / "gone")
