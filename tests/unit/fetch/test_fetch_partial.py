"""The journal of an unfinished download: what it lets one trust."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtbuild.fetch import RemoteFile, partial
from trtbuild.fetch.partial import LEASE_S, Partial, WrongContentError, is_leased, kernel_id

CONTENT = bytes(range(256)) * 10
FILE = RemoteFile(path="w.safetensors", size=len(CONTENT), oid="0" * 40, sha256=hashlib.sha256(CONTENT).hexdigest())


def open_partial(folder: Path, file: RemoteFile = FILE, *, range_bytes: int = 1000, sync_bytes: int = 500) -> Partial:
    blob = folder / file.etag
    return Partial(blob, file, range_bytes=range_bytes, sync_bytes=sync_bytes, journal_bytes=100)


def put(download: Partial, index: int, count: int) -> None:
    part = download.ranges[index]
    first = part.start + part.done
    for at in range(first, first + count, 50):
        download.write(index, CONTENT[at : min(at + 50, first + count)])


def done(download: Partial) -> list[int]:
    return [part.done for part in download.ranges]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_download_becomes_the_blob_and_leaves_nothing(tmp_path: Path) -> None:
    download = open_partial(tmp_path)
    for index in (2, 0, 1):
        put(download, index, download.ranges[index].length)
        download.advance_hash()
    assert download.is_complete
    download.publish()
    assert names(tmp_path) == {FILE.etag}
    assert (tmp_path / FILE.etag).read_bytes() == CONTENT


def test_data_that_was_removed_meanwhile_is_no_success(tmp_path: Path) -> None:
    download = open_partial(tmp_path)
    for index in range(3):
        put(download, index, download.ranges[index].length)
    download.data.unlink()
    with pytest.raises(FileNotFoundError):
        download.publish()
    again = open_partial(tmp_path)
    for index in range(3):
        put(again, index, again.ranges[index].length)
    again.data.rename(again.blob)  # a peer that the lock did not keep out was first
    again.publish()
    assert (tmp_path / FILE.etag).read_bytes() == CONTENT


def test_small_files_are_checked_by_their_git_id(tmp_path: Path) -> None:
    oid = hashlib.sha1(b"blob 2\0{}").hexdigest()
    download = open_partial(tmp_path, RemoteFile(path="a.json", size=2, oid=oid))
    download.write(0, b"{}")
    download.publish()
    assert names(tmp_path) == {oid}


def test_an_empty_file(tmp_path: Path) -> None:
    oid = hashlib.sha1(b"blob 0\0").hexdigest()
    download = open_partial(tmp_path, RemoteFile(path="merges.txt", size=0, oid=oid))
    assert download.is_complete
    download.publish()
    assert (tmp_path / oid).read_bytes() == b""


def test_wrong_content_is_discarded(tmp_path: Path) -> None:
    download = open_partial(tmp_path)
    for index in range(3):
        put(download, index, download.ranges[index].length)
    download.restart(1)
    download.write(1, bytes(1000))
    with pytest.raises(WrongContentError, match=f"expected sha256 {FILE.etag}, got "):
        download.publish()
    assert names(tmp_path) == set()


def test_a_killed_process_loses_what_was_not_journaled(tmp_path: Path) -> None:
    first = open_partial(tmp_path)
    put(first, 0, 1000)
    put(first, 1, 330)
    second = open_partial(tmp_path)  # the first one was never closed
    assert done(second) == [1000, 300, 0]
    put(second, 1, 700)
    put(second, 2, 560)
    second.publish()
    assert (tmp_path / FILE.etag).read_bytes() == CONTENT


def test_another_kernel_is_believed_what_it_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_partial(tmp_path)
    put(first, 0, 500)  # reaches sync_bytes
    put(first, 1, 400)
    monkeypatch.setattr(partial, "kernel_id", lambda: "after the power failure")
    assert done(open_partial(tmp_path)) == [500, 0, 0]


def damaged(text: str) -> list[str]:
    header = text.splitlines(keepends=True)[0]
    other = json.dumps({**json.loads(header), "size": 1}) + "\n"
    return ["", "{", "null\n", "[]\n", other, header.replace('"format": 1', '"format": 0'), header + "x\n"]


@pytest.mark.parametrize("number", range(7))
def test_a_damaged_journal_starts_over(tmp_path: Path, number: int) -> None:
    first = open_partial(tmp_path)
    put(first, 0, 400)
    first.journal.write_text(damaged(first.journal.read_text())[number])
    second = open_partial(tmp_path)
    assert done(second) == [0, 0, 0]
    for index in range(3):
        put(second, index, second.ranges[index].length)
    second.publish()
    assert (tmp_path / FILE.etag).read_bytes() == CONTENT


def test_a_torn_last_line_costs_that_line(tmp_path: Path) -> None:
    first = open_partial(tmp_path)
    put(first, 0, 400)
    text = first.journal.read_text()
    first.journal.write_text(text[:-2])
    assert done(open_partial(tmp_path)) == [300, 0, 0]


def test_data_of_another_length_starts_over(tmp_path: Path) -> None:
    first = open_partial(tmp_path)
    put(first, 0, 400)
    os.truncate(first.data, 100)
    assert done(open_partial(tmp_path)) == [0, 0, 0]


@given(st.lists(st.tuples(st.sampled_from("sw"), st.integers(-5, 9), st.integers(-5, 2000)), max_size=8))
def test_no_journal_claims_more_than_there_can_be(
    tmp_path_factory: pytest.TempPathFactory, lines: list[object]
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    first = open_partial(folder)
    with first.journal.open("a") as stream:
        stream.writelines(f"{kind} {index} {count}\n" for kind, index, count in lines)  # type: ignore[misc]
    second = open_partial(folder)
    assert all(0 <= part.done <= part.length for part in second.ranges)
    second.discard()
    first.close()


@pytest.mark.parametrize(
    ("age_s", "is_lock_trusted", "kernel", "expected"),
    [
        pytest.param(5.0, True, kernel_id(), False, id="lock-works-here"),
        pytest.param(5.0, False, kernel_id(), True, id="lock-without-effect"),
        pytest.param(5.0, True, "another node", True, id="another-node-is-at-it"),
        pytest.param(LEASE_S + 1, True, "another node", False, id="another-node-is-gone"),
        pytest.param(LEASE_S + 1, False, kernel_id(), False, id="old"),
    ],
)
def test_leases(tmp_path: Path, age_s: float, is_lock_trusted: bool, kernel: str, expected: bool) -> None:
    download = open_partial(tmp_path)
    now = download.journal.stat().st_mtime + age_s
    download.journal.write_text(download.journal.read_text().replace(kernel_id(), kernel))
    os.utime(download.journal, (now - age_s, now - age_s))
    assert is_leased(download.blob, now=now, is_lock_trusted=is_lock_trusted) is expected
    download.close()  # gives it up: the next one need not wait
    assert not is_leased(download.blob, now=now, is_lock_trusted=is_lock_trusted)


def test_a_range_that_starts_over_is_hashed_anew(tmp_path: Path) -> None:
    content = noise_bytes = bytes(range(256)) * 8
    file = RemoteFile(path="f", size=len(content), oid="0" * 40, sha256=hashlib.sha256(content).hexdigest())
    partial = Partial(tmp_path / "blob", file, range_bytes=1024, sync_bytes=1 << 20, journal_bytes=1)
    partial.write(0, content[:1024])
    partial.advance_hash()
    assert partial.restart(0) == 1024
    partial.write(0, b"\xff" + noise_bytes[1:1024])  # other bytes than those that were hashed
    partial.write(1, content[1024:])
    with pytest.raises(WrongContentError):
        partial.publish()
