"""The copy of the Python backend is a program: it is the wheel's, byte for byte, or it is not run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from trtbuild.errors import LaunchError
from trtbuild.serve import wheel_backend
from trtbuild.serve.wheel_backend import choose_directory, is_private, lay_out


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    wheel = tmp_path / "wheel"
    wheel.mkdir()
    for name in ("stub", "library.so"):
        (wheel / name).write_bytes(name.encode() * 1000)
    return [wheel / "stub", wheel / "library.so"]


def _is_right(final: Path, sources: list[Path]) -> bool:
    copies = {path.name: path for path in (final / "python").iterdir()}
    return (
        not final.is_symlink()
        and set(copies) == {source.name for source in sources}
        and all(copies[s.name].read_bytes() == s.read_bytes() and not copies[s.name].is_symlink() for s in sources)
        and os.access(final / "python" / "stub", os.X_OK)
        and all(not path.stat().st_mode & 0o022 for path in (final, final / "python", *copies.values()))
    )


def _rewrite(final: Path) -> None:
    (final / "python" / "stub").write_bytes(b"x" * 4000)  # as long as the right one


def _link_file(final: Path) -> None:
    stub = final / "python" / "stub"
    stub.rename(final.parent / "elsewhere")
    stub.symlink_to(final.parent / "elsewhere")


def _link_directory(final: Path) -> None:
    final.rename(final.parent / "moved")
    final.symlink_to(final.parent / "moved")


def _link_inner(final: Path) -> None:
    (final / "python").rename(final.parent / "moved")
    (final / "python").symlink_to(final.parent / "moved")


FAULTS: list[Callable[[Path], object]] = [
    _rewrite,
    _link_file,
    _link_directory,
    _link_inner,
    lambda final: (final / "python" / "stub").unlink(),
    lambda final: (final / "python" / "sitecustomize.py").write_text("evil"),
    lambda final: (final / "evil").mkdir(),
    lambda final: (final / "python" / "stub").chmod(0o777),
    lambda final: (final / "python").chmod(0o777),
    lambda final: final.chmod(0o775),
]
NAMES = ["rewritten", "file-link", "link", "inner-link", "gone", "added", "added-directory", "writable-file",
         "writable-inner", "writable"]  # fmt: skip


def test_it_is_laid_out_once(tmp_path: Path, sources: list[Path]) -> None:
    cache = tmp_path / "cache"
    final = lay_out(sources, "stub", cache, label="triton")
    assert _is_right(final, sources)
    before = (final / "python" / "stub").stat()
    assert lay_out(sources, "stub", cache, label="triton") == final
    assert (final / "python" / "stub").stat().st_ino == before.st_ino
    assert [path.name for path in cache.iterdir()] == [final.name]


@pytest.mark.parametrize("spoil", FAULTS, ids=NAMES)
def test_what_is_not_the_wheel_s_is_replaced(
    tmp_path: Path, sources: list[Path], spoil: Callable[[Path], object]
) -> None:
    cache = tmp_path / "cache"
    final = lay_out(sources, "stub", cache, label="triton")
    spoil(final)
    assert lay_out(sources, "stub", cache, label="triton") == final
    assert _is_right(final, sources)
    assert not [path for path in cache.iterdir() if path.name.startswith(".")]


def test_a_file_in_its_place_is_replaced(tmp_path: Path, sources: list[Path]) -> None:
    cache = tmp_path / "cache"
    final = lay_out(sources, "stub", tmp_path / "other", label="triton")
    cache.mkdir()
    (cache / final.name).write_text("no directory")
    assert _is_right(lay_out(sources, "stub", cache, label="triton"), sources)


def test_a_link_is_removed_and_not_followed(tmp_path: Path, sources: list[Path]) -> None:
    cache, theirs = tmp_path / "cache", tmp_path / "theirs"
    final = lay_out(sources, "stub", cache, label="triton")
    final.rename(theirs)
    (theirs / "python" / "stub").write_bytes(b"evil")
    final.symlink_to(theirs)
    assert _is_right(lay_out(sources, "stub", cache, label="triton"), sources)
    assert (theirs / "python" / "stub").read_bytes() == b"evil"


def test_another_wheel_gets_another_directory(tmp_path: Path, sources: list[Path]) -> None:
    first = lay_out(sources, "stub", tmp_path / "cache", label="triton")
    sources[0].write_bytes(b"newer")
    second = lay_out(sources, "stub", tmp_path / "cache", label="triton")
    assert first != second
    assert _is_right(second, sources)


def test_what_cannot_be_replaced_is_an_error(
    tmp_path: Path, sources: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheel_backend, "_is_equal", lambda final, digests: False)
    lay_out(sources, "stub", tmp_path / "cache", label="triton")
    real = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name.startswith(".triton-"):
            raise PermissionError(13, "Permission denied")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(LaunchError, match="cannot lay out the server's Python backend"):
        lay_out(sources, "stub", tmp_path / "cache", label="triton")


@pytest.mark.parametrize(
    ("mode", "below", "expected"),
    [(0o755, "", True), (0o700, "x/y", True), (0o775, "", False), (0o775, "x", False), (0o2777, "x", False),
     (0o1777, "x", True), (0o1777, "", False)],
)  # fmt: skip
def test_a_directory_is_private_when_no_other_user_can_write_to_it(
    tmp_path: Path, mode: int, below: str, expected: bool
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    base.chmod(mode)
    assert is_private(base / below if below else base) == expected


def test_a_directory_of_another_user_is_not_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "base").mkdir()
    if os.geteuid() == 0:
        os.chown(tmp_path / "base", 4711, 4711)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert not is_private(tmp_path / "base" / "x")


def test_a_link_is_as_private_as_where_it_is_and_where_it_leads(tmp_path: Path) -> None:
    shared, own = tmp_path / "shared", tmp_path / "own"
    shared.mkdir()
    own.mkdir()
    shared.chmod(0o2775)
    (own / "out").symlink_to(shared)
    (shared / "in").symlink_to(own)
    assert is_private(own)
    assert not is_private(own / "out" / "x")
    assert not is_private(shared / "in" / "x")


def test_the_first_private_directory_is_taken_else_the_first_that_can_be_written(tmp_path: Path) -> None:
    shared, own = tmp_path / "shared", tmp_path / "own"
    shared.mkdir()
    shared.chmod(0o2775)
    own.mkdir()
    assert choose_directory([shared / "servers", own / "servers"]) == own / "servers"
    assert choose_directory([shared / "first", shared / "second"]) == shared / "first"
    assert choose_directory([own / "servers", shared / "servers"]) == own / "servers"
