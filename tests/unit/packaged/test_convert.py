"""A GGUF file as a Hugging Face directory: every value where transformers has it, and what is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import gguf as fake
from trtbuild.catalog import ModelInfo
from trtbuild.errors import ConvertError, FetchError
from trtbuild.fetch import check_tokenizer, hash_directory, local_snapshot
from trtbuild.model.checkpoint import resolve_weights
from trtbuild.packaged import gguf
from trtbuild.packaged.convert import convert


def converted(root: Path, **changes: Any) -> Path:
    directory = root / "model"
    directory.mkdir(parents=True)
    fake.write_gguf(root / "tiny.gguf", **changes)
    convert(root / "tiny.gguf", directory)
    return directory


def safetensors(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__")
    found = {}
    for name, entry in header.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        assert entry["dtype"] == "F16"
        found[name] = np.frombuffer(data[start:end], "<f2").reshape(entry["shape"])
    return found


def test_every_weight_is_where_transformers_has_it(tmp_path: Path) -> None:
    made = safetensors(converted(tmp_path) / "model.safetensors")
    expected = fake.hf_tensors()
    assert set(made) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(made[name], values.astype(np.float16), err_msg=name)


@pytest.mark.parametrize(
    ("kind", "most"),
    [
        pytest.param(fake.F16, 0.002, id="F16"),
        pytest.param(fake.Q8_0, 0.03, id="Q8_0"),
        pytest.param(fake.Q4_1, 0.5, id="Q4_1"),
    ],
)
def test_quantized_weights_come_near(kind: int, most: float, tmp_path: Path) -> None:
    made = safetensors(converted(tmp_path, kind=kind) / "model.safetensors")
    for name, values in fake.hf_tensors().items():
        assert np.abs(made[name] - values).max() < most, name


def test_a_block_is_decoded_value_by_value(tmp_path: Path) -> None:
    """A Q4_1 block goes up and down from 2 to 17, one of Q8_0 holds whole numbers: both are exact."""
    ramp = np.array([*range(16), *reversed(range(16))], np.float32) + 2
    signed = np.arange(-16, 16, dtype=np.float32) * 7
    signed[-1] = 127.0
    for kind, block in ((fake.Q4_1, ramp), (fake.Q8_0, signed)):
        path = tmp_path / f"{kind}.gguf"
        fake.write_gguf(path, tensors={"one": np.stack([block, block])}, kind=kind)
        np.testing.assert_array_equal(gguf.read(path).load("one"), np.stack([block, block]))


def test_the_directory_is_a_model_to_the_rest_of_the_program(tmp_path: Path) -> None:
    directory = converted(tmp_path)
    config = json.loads((directory / "config.json").read_text())
    info = ModelInfo.from_hf_config("local/tiny", config)
    assert (info.layers, info.heads, info.kv_heads, info.head_dim) == (2, 4, 2, 16)
    assert (config["rms_norm_eps"], config["rope_theta"]) == (1e-05, 10000.0)
    local_snapshot(directory)
    check_tokenizer(directory)
    assert not resolve_weights(directory, config, allow_pickle=False).warnings()
    assert hash_directory(directory) == hash_directory(converted(tmp_path / "again"))


def test_the_tokenizer_splits_digits_and_keeps_special_tokens_whole(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer.from_file(str(converted(tmp_path) / "tokenizer.json"))
    assert made.encode("<|im_start|>the 12").tokens == ["<|im_start|>", "t", "he", "Ġ", "1", "2"]
    text = "naïve 日本 🙂\n\t12"
    assert made.decode(made.encode(text).ids) == text


WITHOUT = fake.gguf_tensors()
del WITHOUT["blk.1.ffn_up.weight"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metadata": fake.METADATA | {"general.architecture": "qwen2"}}, "architecture 'qwen2', expected 'llama'"),
        ({"metadata": fake.METADATA | {"tokenizer.ggml.pre": "qwen2"}}, "split 'qwen2'"),
        ({"metadata": fake.METADATA | {"tokenizer.ggml.model": "llama"}}, "tokenizer is 'llama'"),
        ({"metadata": fake.METADATA | {"tokenizer.ggml.eos_token_id": 99999}}, "incomplete"),
        ({"metadata": {k: v for k, v in fake.METADATA.items() if k != "llama.vocab_size"}}, "'llama.vocab_size'"),
        ({"tensors": WITHOUT}, "lacks 'blk.1.ffn_up.weight'"),
        ({"tensors": fake.gguf_tensors() | {"output.weight": np.zeros((2, 64))}}, "unknown tensor 'output.weight'"),
    ],
    ids=["architecture", "split", "tokenizer", "token-id", "key", "missing-tensor", "unknown-tensor"],
)
def test_another_kind_of_model_is_refused_by_name(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match=said) as caught:
        converted(tmp_path, **changes)
    assert caught.value.hint


def test_another_storage_type_is_refused_by_name(tmp_path: Path) -> None:
    fake.write_gguf(tmp_path / "x.gguf", tensors={"one": np.arange(256.0).reshape(1, 256)}, kind=fake.Q4_1)
    data = (tmp_path / "x.gguf").read_bytes()
    q4_1, q4_k = (struct.pack("<QQIQ", 256, 1, kind, 0) for kind in (fake.Q4_1, fake.Q4_K))
    assert q4_1 in data
    data = data.replace(q4_1, q4_k)
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(FetchError, match="ggml type 12, expected one of F32, F16, Q4_1, Q8_0"):
        gguf.read(tmp_path / "x.gguf").load("one")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "tiny.gguf"
    fake.write_gguf(path)
    return path.read_bytes()


@given(data=st.data())
def test_a_damaged_file_is_an_error_and_no_crash(
    data: st.DataObject, whole: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cut = data.draw(st.integers(1, len(whole) - 1))
    at, byte = data.draw(st.integers(0, min(cut, 9000) - 1)), data.draw(st.integers(0, 255))
    mangled = bytearray(whole[:cut])
    mangled[at] = byte
    root = tmp_path_factory.mktemp("mangled")
    (root / "x.gguf").write_bytes(mangled)
    (root / "model").mkdir()
    with pytest.raises((FetchError, ConvertError)):
        convert(root / "x.gguf", root / "model")
