"""Checkpoints are read exactly, and files that contradict themselves are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.cpu_parity.checkpoints import CONFIGS, make_tensors, safetensors_bytes, write_checkpoint
from trtbuild.backends.cpu_weights import Tensor, open_checkpoint
from trtbuild.errors import ConvertError

TENSORS = {"a.weight": np.array([[1.5, -2.25], [0.0, 3e-3]], np.float32), "b": np.arange(3, dtype=np.float32)}


@pytest.mark.parametrize(("dtype", "rtol"), [("F32", 0.0), ("F16", 1e-3), ("BF16", 8e-3)])
def test_values_come_back(dtype: str, rtol: float, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(TENSORS, dtype))
    checkpoint = open_checkpoint(tmp_path)
    for name, values in TENSORS.items():
        assert checkpoint.get(name).dtype == dtype
        np.testing.assert_allclose(checkpoint.get(name).float32(), values, rtol=rtol, atol=0)
    assert checkpoint.dtype() == dtype
    assert checkpoint.unused() == ()


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=50))
def test_bfloat16_is_the_upper_half_of_a_float(values: list[float]) -> None:
    halves = (np.array(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    widened = Tensor(dtype="BF16", data=halves).float32()
    assert np.array_equal(widened.view(np.uint32) >> 16, halves)
    assert not np.any(widened.view(np.uint32) & 0xFFFF)


def test_shards_hold_together(tmp_path: Path) -> None:
    write_checkpoint("opt", tmp_path, shards=4)
    checkpoint = open_checkpoint(tmp_path)
    expected = make_tensors(CONFIGS["opt"], seed=__import__("zlib").crc32(b"opt"))
    assert set(checkpoint.unused()) == set(expected)
    for name, values in expected.items():
        assert np.array_equal(checkpoint.get(name).float32(), values)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(TENSORS))
    with pytest.raises(ConvertError, match="no tensor 'c'"):
        open_checkpoint(tmp_path).get("c")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def _huge_header(path: Path) -> None:
    path.write_bytes((1 << 40).to_bytes(8, "little") + path.read_bytes()[8:])


def _no_json(path: Path) -> None:
    path.write_bytes((4).to_bytes(8, "little") + b"oops")


def _edit(path: Path, **entry: object) -> None:
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header["b"].update(entry)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(_cut, "needs .* bytes", id="cut off"),
        pytest.param(_huge_header, "header claims", id="huge header"),
        pytest.param(_no_json, "cannot be read", id="no JSON"),
        pytest.param(lambda path: path.write_bytes(b"123"), "header claims", id="too short"),
        pytest.param(lambda path: _edit(path, shape=[4]), "needs 16 bytes, its place is", id="shape"),
        pytest.param(lambda path: _edit(path, data_offsets=[-8, 4]), "its place is -8", id="negative offset"),
        pytest.param(lambda path: _edit(path, data_offsets=None), "cannot be read", id="no offsets"),
        pytest.param(lambda path: _edit(path, dtype="F8_E4M3"), "type F8_E4M3", id="type"),
    ],
)
def test_a_damaged_file_is_refused(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes(TENSORS))
    damage(path)
    with pytest.raises(ConvertError, match=message) as caught:
        open_checkpoint(tmp_path)
    assert caught.value.hint


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_checkpoint("opt", tmp_path, shards=3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ConvertError, match="model-00002-of-00003"):
        open_checkpoint(tmp_path)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ConvertError, match="only pickled weights: pytorch_model.bin"):
        open_checkpoint(tmp_path)
