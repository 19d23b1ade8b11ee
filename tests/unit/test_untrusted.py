"""What others wrote is read within bounds, and refused by file and field."""

from __future__ import annotations

import json
import math
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtbuild.catalog import ModelInfo
from trtbuild.errors import FetchError
from trtbuild.untrusted import Fields, outward_links, parse, read, read_bytes

LIMIT = 1 << 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("[" * 200_000, "nested too deeply", id="nested lists"),
        pytest.param('{"a":' * 100_000, "nested too deeply", id="nested objects"),
        pytest.param('{"n": ' + "9" * 5000 + "}", "4300 digits", id="a number of 5000 digits"),
        pytest.param("{", "Expecting", id="cut off"),
        pytest.param('{"a": "\udcff"}', "codec", id="no UTF-8"),
        pytest.param(" " * (LIMIT + 1), "1,048,577 bytes, expected at most 1,048,576", id="too large"),
    ],
)
def test_a_hostile_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=message):
        read(path, LIMIT)


def test_a_file_of_gigabytes_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.touch()
    os.truncate(path, 10 << 30)  # sparse
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="10,737,418,240 bytes"):
            read(path, LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ValueError, match="expected a regular file"):
        read(tmp_path / "config.json", LIMIT)


def test_a_name_that_is_there_twice() -> None:
    assert parse('{"a": 1, "a": 2}') == {"a": 2}
    with pytest.raises(ValueError, match="holds 'a' twice"):
        parse('{"a": 1, "a": 2}', unique=True)


@pytest.mark.parametrize("link", ["../elsewhere/secret", "inner"], ids=["outward", "inward"])
def test_links_that_lead_out_are_named(link: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "inner").write_text("")
    for name in ("tokenizer.json", "model.safetensors"):
        (model / name).symlink_to(link)
    expected = [f"tokenizer.json -> {tmp_path}/elsewhere/secret"] if link.startswith("..") else []
    assert outward_links(model) == expected


def test_the_links_of_a_hugging_face_cache_are_its_own(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").symlink_to("../../blobs/abc")
    assert not outward_links(snapshot)
    (snapshot / "vocab.json").symlink_to("../../../models--c--d/blobs/abc")
    assert outward_links(snapshot) == [f"vocab.json -> {tmp_path}/models--c--d/blobs/abc"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(json_values)
def test_a_field_is_what_it_must_be_or_refused_by_name(value: Any) -> None:
    fields = Fields("config.json", {"f": value})
    for read_field in (lambda: fields.size("f"), lambda: fields.number("f"), lambda: fields.numbers("f", 2)):
        try:
            found = read_field()
        except FetchError as error:
            assert "config.json" in error.message
            assert "f" in error.message
            assert len(error.message) < 400
            assert error.message.isprintable()
        else:
            numbers = found if isinstance(found, tuple) else (found,)
            assert all(0 < number < math.inf for number in numbers)


NAMES = (
    "hidden_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "intermediate_size", "head_dim",
    "vocab_size", "max_position_embeddings", "sliding_window", "rope_scaling", "rope_parameters", "text_config",
    "quantization_config", "auto_map", "architectures", "tie_word_embeddings", "torch_dtype", "num_experts",
    "original_max_position_embeddings", "word_embed_proj_dim", "use_sliding_window",
)  # fmt: skip
GOOD = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
    "intermediate_size": 128, "vocab_size": 320, "max_position_embeddings": 512,
}  # fmt: skip


@given(st.dictionaries(st.sampled_from(NAMES), json_values, max_size=3))
def test_any_config_is_read_or_refused(changes: dict[str, Any]) -> None:
    config = json.loads(json.dumps({**GOOD, **changes}))
    try:
        model = ModelInfo.from_hf_config("org/model", config)
    except FetchError as error:
        assert error.message.startswith("org/model")
        assert error.hint
    else:
        assert min(model.layers, model.heads, model.head_dim, model.vocab_size, model.parameters) > 0


def test_links_are_followed_only_where_that_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"{}")
    (tmp_path / "link").symlink_to("file")
    assert read_bytes(tmp_path / "link", 2) == b"{}"
    assert read_bytes(tmp_path / "file", 2, follow_links=False) == b"{}"
    with pytest.raises(ValueError, match="expected a regular file"):
        read_bytes(tmp_path / "link", 2, follow_links=False)


def test_a_file_that_grows_while_it_is_read_is_held_to_the_limit() -> None:
    """Files of /proc have size 0 and hold something all the same, as one that grows does."""
    status = Path("/proc/self/status")
    assert read_bytes(status, 1 << 16).startswith(b"Name:")
    with pytest.raises(ValueError, match="more than 16 bytes"):
        read_bytes(status, 16)
