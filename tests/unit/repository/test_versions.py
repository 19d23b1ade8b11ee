"""How versions of a repository replace each other on disk."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.repository.conftest import _tree
from trtbuild.errors import RepositoryError
from trtbuild.repository import ServedModel, write_repository


def test_equal_models_give_equal_bytes_and_no_new_version(
    make_model: Callable[..., ServedModel], tmp_path: Path
) -> None:
    root = write_repository(tmp_path / "a" / "repository", [make_model(layout="full")])
    other = write_repository(tmp_path / "b" / "repository", [make_model(layout="full")])
    assert _tree(root) == _tree(other) and len(_tree(root)) > 30
    target, inode = root.readlink(), root.resolve().stat().st_ino
    (root / "chat" / "1" / "__pycache__").mkdir()  # a server may leave these behind
    (root / "chat" / "1" / "__pycache__" / "model.pyc").write_bytes(b"x")
    write_repository(root, [make_model(layout="full")])
    assert (root.readlink(), root.resolve().stat().st_ino) == (target, inode)
    assert root.name == "repository" and (root / "chat" / "config.pbtxt").is_file()


def test_a_changed_version_is_written_again(make_model: Callable[..., ServedModel], tmp_path: Path) -> None:
    root = write_repository(tmp_path / "repository", [make_model()])
    good = _tree(root)
    (root / "chat" / "1" / "model.py").write_text("broken")
    (root / "tensorrt_llm" / "config.pbtxt").unlink()
    assert _tree(write_repository(root, [make_model()])) == good


def test_a_reader_sees_whole_repositories_only(make_model: Callable[..., ServedModel], tmp_path: Path) -> None:
    root = tmp_path / "repository"
    models = [make_model(max_queue_size=number) for number in range(3)]
    whole = []
    for model in models:
        write_repository(root, [model])
        whole.append(_tree(root))
    stop = threading.Event()
    counts = {"begun": 0, "done": 0}

    def rewrite() -> None:
        while not stop.is_set():
            for model in models:
                counts["begun"] += 1
                write_repository(root, [model])
                counts["done"] += 1

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        seen = 0
        while seen < 60:
            before = counts["done"]
            version = root.resolve()  # what a server does once, at its start
            try:
                tree = _tree(version)
            except FileNotFoundError:
                tree = {}
            if counts["begun"] <= before + 1:  # the version before the last one stays; two newer ones may remove it
                assert tree in whole
                seen += 1
    finally:
        stop.set()
        writer.join()
    assert not list((tmp_path / ".repository.versions").glob(".staging-*"))


def test_old_versions_go_but_the_last_one_stays(make_model: Callable[..., ServedModel], tmp_path: Path) -> None:
    root = tmp_path / "repository"
    targets = []
    for number in range(4):
        write_repository(root, [make_model(max_queue_size=number)])
        os.utime(root.resolve(), (number, number))
        targets.append(root.resolve())
    assert [target.exists() for target in targets] == [False, False, True, True]


def test_others_can_be_kept_and_replaced(make_model: Callable[..., ServedModel], tmp_path: Path) -> None:
    root = tmp_path / "repository"
    write_repository(root, [make_model("one", layout="full")])
    one = {path: data for path, data in _tree(root).items() if path.startswith(("one/", "tensorrt_llm/", "ensemble/"))}
    write_repository(root, [make_model("two")], keep_others=True)
    assert (root / "ensemble" / "1").is_dir()  # an empty version directory is kept too
    assert one.items() <= _tree(root).items()
    assert "two-tensorrt_llm/config.pbtxt" in _tree(root)
    write_repository(root, [make_model("two", max_queue_size=3)], keep_others=True)
    assert one.items() <= _tree(root).items()
    assert "two-two-tensorrt_llm/config.pbtxt" not in _tree(root)
    write_repository(root, [make_model("two")])
    assert {path.name for path in root.iterdir() if path.is_dir()} == {"two", "tensorrt_llm"}


def test_foreign_directories_are_left_alone(make_model: Callable[..., ServedModel], tmp_path: Path) -> None:
    root = tmp_path / "mine"
    root.mkdir()
    (root / "notes.txt").write_text("keep")
    with pytest.raises(RepositoryError, match="was not written by trtbuild") as caught:
        write_repository(root, [make_model()])
    assert str(root / "repository") in caught.value.hint
    assert (root / "notes.txt").read_text() == "keep"
    write_repository(root / "repository", [make_model()])


def test_a_foreign_link_is_left_alone(make_model: Callable[..., ServedModel], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    with pytest.raises(RepositoryError, match="symbolic link to elsewhere"):
        write_repository(tmp_path / "link", [make_model()])


def test_an_empty_directory_may_be_replaced(make_model: Callable[..., ServedModel], tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    assert write_repository(tmp_path / "repository", [make_model()]).is_symlink()


def test_a_mount_point_is_not_replaced_but_may_be_the_parent(
    make_model: Callable[..., ServedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda self: self == mount)
    with pytest.raises(RepositoryError, match="is a mount point") as caught:
        write_repository(mount, [make_model()])
    assert str(mount / "repository") in caught.value.hint
    assert write_repository(mount / "repository", [make_model()]).exists()


def test_a_damaged_record_is_named(make_model: Callable[..., ServedModel], tmp_path: Path) -> None:
    root = write_repository(tmp_path / "repository", [make_model("one")])
    (root / "trtbuild-repository.json").write_text("{")
    with pytest.raises(RepositoryError, match="is damaged"):
        write_repository(root, [make_model("two")], keep_others=True)
    write_repository(root, [make_model("two")])


def test_a_repository_can_be_moved_as_a_whole(make_model: Callable[..., ServedModel], tmp_path: Path) -> None:
    write_repository(tmp_path / "a" / "repository", [make_model()])
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / "repository" / "chat" / "config.pbtxt").is_file()
