"""What the hub lists is used for sizes that config.json does not tell, before anything is downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fakes.machines import gpu_host
from tests.hub_stub import HubStub
from trtbuild.fetch import Hub, weight_bytes
from trtbuild.pipeline import Context
from trtbuild.resolve import resolve_model
from trtbuild.spec import EngineSpec
from trtbuild.store import Store

pytestmark = pytest.mark.integration

CONFIG = {
    "architectures": ["BrandNewForCausalLM"], "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 4, "vocab_size": 1000, "torch_dtype": "bfloat16",
    "max_position_embeddings": 512,
}  # fmt: skip
SHARD = bytes(300_000)


def files(config: dict[str, object]) -> dict[str, bytes]:
    return {
        "config.json": json.dumps(config).encode(),
        "model-00001-of-00002.safetensors": SHARD,
        "model-00002-of-00002.safetensors": SHARD,
        "consolidated.safetensors": SHARD,
        "pytorch_model.bin": SHARD,
        "original/model.safetensors": SHARD,
    }


@pytest.mark.parametrize(
    ("changes", "listed"),
    [
        ({}, 600_000),
        ({"architectures": ["LlamaForCausalLM"]}, 0),
        ({"architectures": ["LlamaForCausalLM"], "quantization_config": {"quant_method": "modelopt"}}, 600_000),
        ({"architectures": ["LlamaForCausalLM"], "quantization_config": {"quant_method": "mxfp4"}}, 0),
    ],
    ids=["unknown", "counted", "stored-in-an-unknown-way", "stored-in-a-known-way"],
)
def test_sizes_are_listed_where_they_are_not_counted(
    hub: HubStub, tmp_path: Path, changes: dict[str, object], listed: int
) -> None:
    hub.add_repo("org/model", files(CONFIG | changes))
    context = Context(
        host=gpu_host(), hub=Hub(endpoint=hub.endpoint), store=Store(tmp_path / "s"), hf_cache=tmp_path / "hub"
    )
    model = resolve_model(EngineSpec(model="org/model"), context.models)
    assert model.info.listed_bytes == listed
    assert model.info.are_sizes_known
    assert hub.bytes_sent("/storage/") == 0, "only the listing was asked for"


def test_sizes_of_a_directory(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG))
    (directory / "model.safetensors").write_bytes(SHARD)
    context = Context(
        host=gpu_host(), hub=Hub(endpoint="http://127.0.0.1:9"), store=Store(tmp_path / "s"), hf_cache=tmp_path / "hub"
    )
    model = resolve_model(EngineSpec(model=str(directory)), context.models)
    assert (model.info.listed_bytes, model.info.is_exact) == (300_000, False)


def test_one_file_wins_over_shards() -> None:
    assert weight_bytes({"model.safetensors": 5, "model-00001-of-00001.safetensors": 7}) == 5
    assert weight_bytes({"a.safetensors": 5, "sub/b.safetensors": 7, "adapter_model.safetensors": 9}) == 5
    assert weight_bytes({"pytorch_model.bin": 5}) == 0
