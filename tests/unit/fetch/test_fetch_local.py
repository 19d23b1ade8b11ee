"""Local directories: what identifies them, and which are refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trtbuild.errors import FetchError
from trtbuild.fetch import hash_directory, load_config, local, local_snapshot
from trtbuild.model.checkpoint import resolve_weights


def safetensors(count: int = 64) -> bytes:
    header = json.dumps(
        {"__metadata__": {}, "w": {"dtype": "U8", "shape": [count], "data_offsets": [0, count]}}
    ).encode()
    return struct.pack("<Q", len(header)) + header + bytes(count)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    root = tmp_path / "model"
    root.mkdir()
    (root / "config.json").write_text('{"model_type": "llama"}')
    (root / "tokenizer.json").write_text("{}")
    (root / "model.safetensors").write_bytes(safetensors())
    (root / "sub").mkdir()
    (root / "sub" / "code.py").write_text("pass")
    return root


def test_the_hash_is_of_names_and_contents(model: Path, tmp_path: Path) -> None:
    value = hash_directory(model)
    assert re.fullmatch("tree-[0-9a-f]{64}", value)
    copy = tmp_path / "elsewhere"
    shutil.copytree(model, copy)
    os.utime(copy / "config.json", (0, 0))
    assert hash_directory(copy) == value == hash_directory(model)


CHANGES: list[tuple[str, Callable[[Path], object], bool]] = [
    ("content", lambda root: (root / "config.json").write_text('{"model_type": "llamA"}'), True),
    ("new file", lambda root: (root / "extra.json").write_text(""), True),
    ("removed file", lambda root: (root / "tokenizer.json").unlink(), True),
    ("renamed file", lambda root: (root / "tokenizer.json").rename(root / "t.json"), True),
    ("moved file", lambda root: (root / "sub" / "code.py").rename(root / "code.py"), True),
    ("nested content", lambda root: (root / "sub" / "code.py").write_text("fail"), True),
    ("hidden file", lambda root: (root / ".DS_Store").write_text("x"), False),
    ("git directory", lambda root: shutil.copytree(root / "sub", root / ".git" / "x"), False),
    ("bytecode", lambda root: shutil.copytree(root / "sub", root / "__pycache__" / "x"), False),
    ("empty directory", lambda root: (root / "empty").mkdir(), False),
    ("date", lambda root: os.utime(root / "config.json", (0, 0)), False),
]


@pytest.mark.parametrize(("change", "matters"), [pytest.param(c, m, id=name) for name, c, m in CHANGES])
@pytest.mark.parametrize("has_memo", [False, True])
def test_what_changes_the_hash(
    model: Path, tmp_path: Path, change: Callable[[Path], object], matters: bool, has_memo: bool
) -> None:
    memo = tmp_path / "memo" if has_memo else None
    before = hash_directory(model, memo=memo)
    change(model)
    assert (hash_directory(model, memo=memo) != before) is matters
    assert hash_directory(model, memo=memo) == hash_directory(model)


def test_names_and_contents_are_not_mixed_up(tmp_path: Path) -> None:
    values = set()
    for number, files in enumerate([{"ab": "c"}, {"a": "bc"}, {"a": "b", "c": ""}, {"a": "", "b": "c"}]):
        root = tmp_path / str(number)
        root.mkdir()
        for name, text in files.items():
            (root / name).write_text(text)
        values.add(hash_directory(root))
    assert len(values) == 4


def test_links_count_as_what_they_point_to(model: Path, tmp_path: Path) -> None:
    """A snapshot in the Hugging Face cache, which is made of links, is the same model as a copy of it."""
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in model.iterdir():
        (snapshot / path.name).symlink_to(path)
    assert hash_directory(snapshot) == hash_directory(model)


def test_a_memo_saves_reading_unchanged_files(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memo = tmp_path / "memo"
    monkeypatch.setattr(local, "_RACY_NS", -1)
    value = hash_directory(model, memo=memo)
    read: list[Path] = []
    hash_file = local._hash_file
    monkeypatch.setattr(local, "_hash_file", lambda path, *rest: read.append(path) or hash_file(path, *rest))
    assert hash_directory(model, memo=memo) == value
    assert read == []
    (model / "tokenizer.json").write_text("{ }")
    assert hash_directory(model, memo=memo) != value
    assert read == [model / "tokenizer.json"]
    for damage in ("{", "[" * 5000):
        memo.write_text(damage)
        assert hash_directory(model, memo=memo) == hash_directory(model)
    memo.unlink()
    os.mkfifo(memo)
    assert hash_directory(model, memo=memo) == hash_directory(model), "a named pipe is not waited for"


def test_a_file_just_written_is_not_remembered(model: Path, tmp_path: Path) -> None:
    """It could change again within the clock's tick and look the same."""
    memo = tmp_path / "memo"
    later = time.time_ns() - (model / "config.json").stat().st_ctime_ns
    hash_directory(model, memo=memo)
    assert later < local._RACY_NS
    assert json.loads(memo.read_text())["hashes"] == {}


def test_what_cannot_be_hashed_is_named(model: Path, tmp_path: Path) -> None:
    (model / "broken").symlink_to(tmp_path / "nothing")
    with pytest.raises(FetchError, match=r"broken cannot be read: No such file"):
        hash_directory(model)
    (model / "broken").unlink()
    (model / "loop").symlink_to(model)
    with pytest.raises(FetchError, match="loop links back to"):
        hash_directory(model)
    (model / "loop").unlink()
    os.mkfifo(model / "pipe")
    with pytest.raises(FetchError, match="pipe is not a file"):
        hash_directory(model)
    with pytest.raises(FetchError, match="nothing cannot be read"):
        hash_directory(tmp_path / "nothing")


def test_a_good_directory(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    assert local_snapshot(Path("model")) == model
    assert load_config(model) == {"model_type": "llama"}


def sharded(root: Path) -> None:
    (root / "model.safetensors").unlink()
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (root / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    for name in names.values():
        (root / name).write_bytes(safetensors())


def check(model: Path) -> None:
    """Look at a directory as a plan and a build do, as far as damage goes."""
    resolve_weights(local_snapshot(model), {"architectures": ["UnknownForCausalLM"], **load_config(model)})


def test_a_good_sharded_directory(model: Path) -> None:
    sharded(model)
    assert local_snapshot(model) == model
    (model / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FetchError, match="'model-00002-of-00002.safetensors', which is not there"):
        check(model)


def test_shards_whose_names_are_one_on_some_disks(model: Path) -> None:
    sharded(model)
    names = {"a": "Part.safetensors", "b": "part.safetensors"}
    for name in names.values():
        (model / name).write_bytes(safetensors())
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(FetchError, match="which are one where case or Unicode form is ignored"):
        check(model)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 99\n"


@pytest.mark.parametrize(
    ("name", "content", "message", "hint"),
    [
        pytest.param("model.safetensors", LFS, "git-lfs pointer", "lfs pull", id="lfs-pointer"),
        pytest.param(
            "model.safetensors",
            safetensors()[:-1],
            "end at 64 of 63 bytes: cut off or damaged",
            "again",
            id="truncated",
        ),
        pytest.param("model.safetensors", safetensors() + b"x", "end at 64 of 65 bytes", "again", id="too-long"),
        pytest.param("model.safetensors", b"", "claims 0 bytes, the file has 0", "again", id="empty"),
        pytest.param("model.safetensors", b"\xff" * 100, "the header claims", "again", id="noise"),
        pytest.param("config.json", b"{", "cannot be read", "again", id="config-no-json"),
        pytest.param("config.json", b"[]", "is not a JSON object", "Hugging Face format", id="config-list"),
    ],
)
def test_damaged_directories(model: Path, name: str, content: bytes, message: str, hint: str) -> None:
    (model / name).write_bytes(content)
    with pytest.raises(FetchError, match=message) as caught:
        check(model)
    assert hint in caught.value.hint


def test_directories_that_are_no_models(model: Path, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="there is no directory"):
        local_snapshot(tmp_path / "nothing")
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(FetchError, match="only pickled"):
        local_snapshot(model)
    assert local_snapshot(model, allow_pickle=True) == model
    (model / "pytorch_model.bin").write_bytes(LFS)
    with pytest.raises(FetchError, match="pytorch_model.bin is a git-lfs pointer"):
        resolve_weights(model, load_config(model), allow_pickle=True)
    (model / "config.json").unlink()
    with pytest.raises(FetchError, match=r"config\.json is not there"):
        local_snapshot(model)
