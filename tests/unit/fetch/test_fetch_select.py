"""Which files of a repository are needed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtbuild.errors import FetchError
from trtbuild.fetch.select import Selection, select, shards
from trtbuild.model.files import PICKLE_INDEX, SAFETENSORS_INDEX

BASE = {"config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json"}
JUNK = {
    "README.md", ".gitattributes", "LICENSE", "tf_model.h5", "flax_model.msgpack", "rust_model.ot", "64.tflite",
    "onnx/model.onnx", "original/consolidated.00.pth", "original/tokenizer.model", "consolidated.safetensors",
    "consolidated-00001-of-00002.safetensors", "model.fp16.safetensors", "model-Q4_K_M.gguf", "training_args.bin",
    "openvino/config.json", "params.json", "figures/a.png", "adapter_model.safetensors",
}  # fmt: skip
SHARDS = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
PICKLES = {"pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"}


def choose(names: set[str], **options: bool) -> Selection:
    return select(names, model_id="org/model", **{"allow_pickle": False, "allow_code": False, **options})


@pytest.mark.parametrize(
    ("extra", "options", "index", "weights"),
    [
        pytest.param({"model.safetensors"}, {}, None, {"model.safetensors"}, id="single"),
        pytest.param({"model.safetensors", "pytorch_model.bin"}, {}, None, {"model.safetensors"}, id="both-formats"),
        pytest.param(
            {"model.safetensors", "pytorch_model.bin"}, {"allow_pickle": True}, None, {"model.safetensors"}, id="better"
        ),
        pytest.param({SAFETENSORS_INDEX, *SHARDS}, {}, SAFETENSORS_INDEX, set(), id="sharded"),
        pytest.param({"model.safetensors", SAFETENSORS_INDEX, *SHARDS}, {}, None, {"model.safetensors"}, id="twice"),
        pytest.param({"pytorch_model.bin"}, {"allow_pickle": True}, None, {"pytorch_model.bin"}, id="pickle"),
        pytest.param({PICKLE_INDEX, *PICKLES}, {"allow_pickle": True}, PICKLE_INDEX, set(), id="pickle-sharded"),
    ],
)
def test_one_set_of_weights(extra: set[str], options: dict[str, bool], index: str | None, weights: set[str]) -> None:
    chosen = choose(BASE | JUNK | extra, **options)
    assert (chosen.index, set(chosen.weights)) == (index, weights)
    assert set(chosen.metadata) == BASE
    assert set(chosen.first) == BASE | ({index} if index else set())


@pytest.mark.parametrize(
    "name",
    ["chat_template.jinja", "tokenizer.model", "vocab.json", "merges.txt", "qwen.tiktoken", "hf_quant_config.json"],
)
def test_metadata_that_is_needed(name: str) -> None:
    assert name in choose(BASE | {"model.safetensors", name}).metadata


def test_code_only_when_allowed() -> None:
    names = BASE | {"model.safetensors", "modeling_x.py", "sub/evil.py"}
    assert "modeling_x.py" not in choose(names).metadata
    assert set(choose(names, allow_code=True).metadata) == BASE | {"modeling_x.py"}


@pytest.mark.parametrize(
    ("names", "message", "hint"),
    [
        pytest.param(
            {"pytorch_model.bin"}, r"only pickled weights \(pytorch_model.bin\)", "--allow-pickle", id="pickle"
        ),
        pytest.param(
            {"m.gguf", "b.onnx"}, "no weights in safetensors format.*it has b.onnx, m.gguf", "format", id="gguf"
        ),
        pytest.param(
            SHARDS, "neither model.safetensors nor", "write model.safetensors.index", id="sharded-without-index"
        ),
        pytest.param({"w.safetensors"}, "has w.safetensors, but neither", "rename w.safetensors to", id="other-name"),
        pytest.param(
            {"model.safetensors", "adapter_config.json", "adapter_model.safetensors"},
            "holds weights and an adapter",
            "merge_and_unload",
            id="weights-and-adapter",
        ),
        pytest.param({"adapter_model.safetensors"}, "no weights.*adapter_model", "format", id="adapter"),
        pytest.param({"consolidated.safetensors"}, "no weights.*consolidated", "format", id="mistral-only"),
        pytest.param(set(), "no weights in safetensors format at the top of the repository$", "format", id="nothing"),
    ],
)
def test_no_usable_weights(names: set[str], message: str, hint: str) -> None:
    with pytest.raises(FetchError, match=message) as caught:
        choose(BASE | names)
    assert hint in caught.value.hint


def test_no_config() -> None:
    with pytest.raises(FetchError, match=r"no config\.json"):
        choose({"model.safetensors"})


def test_shards_are_those_that_the_index_names() -> None:
    index = json.dumps(
        {"weight_map": {"a": "model-00002-of-00002.safetensors", "b": "model-00001-of-00002.safetensors"}}
    )
    found = shards(index, SHARDS | {"model-extra.safetensors"}, index=SAFETENSORS_INDEX, model_id="org/model")
    assert set(found) == SHARDS


@pytest.mark.parametrize(
    ("index", "message"),
    [
        pytest.param("{", "cannot be read", id="no-json"),
        pytest.param("[]", "weight_map: expected the file", id="list"),
        pytest.param('{"weight_map": []}', "weight_map: expected the file", id="map-is-a-list"),
        pytest.param('{"weight_map": {}}', "weight_map: expected the file", id="empty"),
        pytest.param('{"weight_map": {"a": "x.safetensors"}}', "'x.safetensors', which is not there", id="missing"),
        pytest.param('{"weight_map": {"a": "../x.safetensors"}}', "'../x.safetensors'", id="escape"),
        pytest.param('{"weight_map": {"a": "pytorch_model.bin"}}', "'pytorch_model.bin'", id="a-pickle"),
    ],
)
def test_an_index_that_cannot_be_used(index: str, message: str) -> None:
    with pytest.raises(FetchError, match=message):
        shards(index, SHARDS | {"pytorch_model.bin"}, index=SAFETENSORS_INDEX, model_id="org/model")


names = st.one_of(st.text(max_size=40), st.sampled_from(sorted(BASE | JUNK | SHARDS | PICKLES | {SAFETENSORS_INDEX})))


@given(st.sets(names, max_size=12), st.booleans(), st.booleans())
def test_what_is_chosen_is_there_at_the_top_and_no_pickle(listed: set[str], pickle: bool, code: bool) -> None:
    try:
        chosen = choose(listed | {"config.json"}, allow_pickle=pickle, allow_code=code)
    except FetchError:
        return
    everything = {*chosen.first, *chosen.weights}
    assert everything <= listed | {"config.json"}
    assert not any("/" in name for name in everything)
    assert pickle or not any(name.endswith((".bin", ".pt", ".pth")) for name in everything)
    assert code or not any(name.endswith(".py") for name in everything)
    assert chosen.index or chosen.weights
