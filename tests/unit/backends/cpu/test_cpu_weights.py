"""Checkpoints are read exactly, and files that contradict themselves are refused."""

from __future__ import annotations

import contextlib
import json
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.cpu_parity.checkpoints import CONFIGS, make_tensors, safetensors_bytes, write_checkpoint
from trtbuild.backends.cpu.weights import Checkpoint, Tensor, open_checkpoint
from trtbuild.errors import FetchError
from trtbuild.model.checkpoint import resolve_weights


def opened(directory: Path) -> Checkpoint:
    """Map a checkpoint of a class that is not known."""
    return open_checkpoint(resolve_weights(directory, {"architectures": ["SomeForCausalLM"]}).places)


TENSORS = {"a.weight": np.array([[1.5, -2.25], [0.0, 3e-3]], np.float32), "b": np.arange(3, dtype=np.float32)}


@pytest.mark.parametrize(("dtype", "rtol"), [("F32", 0.0), ("F16", 1e-3), ("BF16", 8e-3)])
def test_values_come_back(dtype: str, rtol: float, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(TENSORS, dtype))
    checkpoint = opened(tmp_path)
    for name, values in TENSORS.items():
        assert checkpoint.get(name).dtype == dtype
        np.testing.assert_allclose(checkpoint.get(name).float32(), values, rtol=rtol, atol=0)


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=50))
def test_bfloat16_is_the_upper_half_of_a_float(values: list[float]) -> None:
    halves = (np.array(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    widened = Tensor(dtype="BF16", data=halves).float32()
    assert np.array_equal(widened.view(np.uint32) >> 16, halves)
    assert not np.any(widened.view(np.uint32) & 0xFFFF)


def test_shards_hold_together(tmp_path: Path) -> None:
    write_checkpoint("opt", tmp_path, shards=4)
    checkpoint = opened(tmp_path)
    expected = make_tensors(CONFIGS["opt"], seed=__import__("zlib").crc32(b"opt"))
    for name, values in expected.items():
        assert np.array_equal(checkpoint.get(name).float32(), values)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(TENSORS))
    with pytest.raises(FetchError, match="no tensor 'c'"):
        opened(tmp_path).get("c")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def _claim(length: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])

    return write


def _header(path: Path, text: bytes) -> None:
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])


def _edit(path: Path, **entry: object) -> None:
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    header["b"].update(entry)
    _header(path, json.dumps(header).encode())


def _large_header(path: Path) -> None:
    with path.open("wb") as file:
        file.write((1 << 30).to_bytes(8, "little"))
        file.truncate(8 + (1 << 30))  # sparse


TWICE = b'{"a": {"dtype": "F32", "shape": [7], "data_offsets": [0, 28]}, "a": {}}'


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(_cut, "tensors end at 28 of 24 bytes", id="cut off"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes() + b"more"), "end at 28 of 32", id="more behind"),
        pytest.param(_claim(1 << 60), "header claims 1152921504606846976 bytes", id="header of 2**60"),
        pytest.param(_claim((1 << 64) - 1), "header claims", id="header of 2**64"),
        pytest.param(_large_header, "header claims .* expected at most 16777216", id="header of a gigabyte"),
        pytest.param(lambda path: _header(path, b"oops"), "cannot be read", id="no JSON"),
        pytest.param(lambda path: _header(path, b"[]"), "expected an object", id="a list"),
        pytest.param(lambda path: _header(path, b'{"a":' * 99999), "nested too deeply", id="nested"),
        pytest.param(lambda path: _header(path, TWICE), "holds 'a' twice", id="a name twice"),
        pytest.param(lambda path: _header(path, b'{"a": 5}'), "'a': shape: expected", id="no entry"),
        pytest.param(lambda path: path.write_bytes(b"123"), "header claims", id="too short"),
        pytest.param(lambda path: _edit(path, shape=[4]), "'b' needs 16 bytes, its place is 16..28", id="shape"),
        pytest.param(lambda path: _edit(path, shape=[-3]), r"'b': shape: expected .* got \[-3\]", id="negative size"),
        pytest.param(lambda path: _edit(path, shape=[1e300]), "'b': shape", id="size beyond all"),
        pytest.param(lambda path: _edit(path, shape=[1 << 59] * 8), "'b' needs", id="product beyond all"),
        pytest.param(lambda path: _edit(path, shape=[1] * 100000), "'b': shape: expected up to 8", id="axes"),
        pytest.param(lambda path: _edit(path, shape="3"), "'b': shape", id="shape is text"),
        pytest.param(lambda path: _edit(path, data_offsets=[-8, 4]), "'b': data_offsets", id="negative offset"),
        pytest.param(lambda path: _edit(path, data_offsets=None), "'b': data_offsets", id="no offsets"),
        pytest.param(lambda path: _edit(path, data_offsets=[0, 12]), "overlaps", id="overlap"),
        pytest.param(lambda path: _edit(path, data_offsets=[20, 32]), "leaves a gap after", id="gap"),
        pytest.param(lambda path: _edit(path, data_offsets=[28, 16]), "its place is 28..16", id="backwards"),
        pytest.param(
            lambda path: _edit(path, data_offsets=[1 << 50, (1 << 50) + 12]), "leaves a gap", id="beyond the file"
        ),
        pytest.param(lambda path: _edit(path, dtype="Q4_K"), "'b' has type 'Q4_K'", id="type"),
        pytest.param(lambda path: _edit(path, dtype=["F32"]), "'b' has type", id="type is a list"),
    ],
)
def test_a_damaged_file_is_refused(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes(TENSORS))
    damage(path)
    tracemalloc.start()
    try:
        with pytest.raises(FetchError, match=f"^model.safetensors: .*{message}") as caught:
            opened(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert caught.value.hint
    assert len(caught.value.message) < 400


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "model.safetensors").write_bytes(len(data).to_bytes(8, "little") + data)
        with contextlib.suppress(FetchError):
            opened(Path(directory))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        pytest.param("[" * 99999, "nested too deeply", id="nested"),
        pytest.param("[]", "weight_map: expected", id="a list"),
        pytest.param('{"weight_map": {}}', "weight_map: expected", id="empty"),
        pytest.param('{"weight_map": ["a"]}', "weight_map: expected", id="no object"),
        *(
            pytest.param(json.dumps({"weight_map": {"a": name}}), "weight_map: 'a': expected the name", id=str(name))
            for name in ("../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "pytorch_model.bin", 5, None, "")
        ),
        pytest.param('{"weight_map": {"a": "gone.safetensors"}}', "'gone.safetensors', which is not", id="not there"),
    ],
)
def test_an_index_names_files_beside_it(index: str, message: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (tmp_path / "x.safetensors").write_bytes(safetensors_bytes(TENSORS))
    (model / "model.safetensors.index.json").write_text(index)
    with pytest.raises(FetchError, match=f"^model.safetensors.index.json.*{message}") as caught:
        opened(model)
    assert caught.value.hint


def test_a_tensor_is_in_one_shard_only(tmp_path: Path) -> None:
    for name in "xy":
        (tmp_path / f"{name}.safetensors").write_bytes(safetensors_bytes(TENSORS))
    weight_map = {"a.weight": "x.safetensors", "b": "y.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(FetchError, match=r"y.safetensors: tensor 'a.weight' is in another shard too, x.safetensors"):
        opened(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_checkpoint("opt", tmp_path, shards=3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FetchError, match="model-00002-of-00003"):
        opened(tmp_path)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FetchError, match=r"only pickled weights \(pytorch_model.bin"):
        opened(tmp_path)
