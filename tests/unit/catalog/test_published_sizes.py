"""Sizes of published models, recomputed from their config.json: experts, latent attention, hybrids, pruned layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trtbuild import catalog
from trtbuild.catalog import ModelInfo
from trtbuild.plan.memory import Layout, Limits, gpu_memory, host_room, kv_bytes_per_token

DATA = json.loads((Path(__file__).parents[2] / "data" / "published_sizes.json").read_text(encoding="utf-8"))
MODELS = DATA["models"]
IDS = [row["model_id"] for row in MODELS]


def read(row: dict[str, Any]) -> ModelInfo:
    return ModelInfo.from_hf_config(row["model_id"], row["config"])


@pytest.mark.parametrize("row", MODELS, ids=IDS)
def test_parameters(row: dict[str, Any]) -> None:
    model = read(row)
    assert model.stored_parameters == pytest.approx(row["parameters"], rel=0.03)
    if model.is_exact:
        assert abs(model.stored_parameters - row["parameters"]) < 10_000
    else:
        assert model.tower_parameters > 0, "only what is around a decoder may make these models' counts estimates"


@pytest.mark.parametrize("row", [row for row in MODELS if row["bytes"]], ids=lambda row: row["model_id"])
def test_bytes(row: dict[str, Any]) -> None:
    model = read(row)
    assert model.stored_bytes == pytest.approx(row["bytes"], rel=0.03 if model.tower_parameters else 0.0001)


@pytest.mark.parametrize("row", MODELS, ids=IDS)
def test_key_value_cache(row: dict[str, Any]) -> None:
    assert kv_bytes_per_token(read(row)) == row["kv_bytes_per_token"]


@pytest.mark.parametrize("row", MODELS, ids=IDS)
def test_ranks_hold_the_model_and_estimates_are_marked(row: dict[str, Any]) -> None:
    """Eight ranks hold at least the weights that are served, and no line of an estimate claims to be exact."""
    model = read(row)
    layout = Layout(dtype="bfloat16", preset=catalog.preset("none"), tp_size=8, storage=model.storage)
    limits = Limits(max_batch_size=8, max_seq_len=4096, max_num_tokens=4096)
    found = gpu_memory(model, layout, limits, gpu_bytes=1 << 42)
    served = model.stored_bytes * model.parameters / model.stored_parameters
    assert 8 * found.weights_bytes >= 0.98 * served
    lines = {line.label: line for line in (*found.lines, *host_room(model, layout).lines)}
    assert lines["layers"].is_exact == model.is_exact
    assert lines["disk: snapshot"].is_exact == model.are_sizes_known


def test_a_latent_is_whole_on_every_rank() -> None:
    model = read(MODELS[0])
    one, eight = (
        gpu_memory(
            model,
            Layout(dtype="bfloat16", preset=catalog.preset("none"), tp_size=tp, storage=model.storage),
            Limits(max_batch_size=1, max_seq_len=4096, max_num_tokens=4096),
            gpu_bytes=1 << 42,
        )
        for tp in (1, 8)
    )
    assert one.kv_bytes_per_token == eight.kv_bytes_per_token == 61 * 576 * 2
    assert 670e9 < one.weights_bytes < 676e9, "stored as published: fp8, and 16 bits for the tables"


def spelled(**changes: object) -> ModelInfo:
    config: dict[str, object] = {
        "architectures": ["DeepseekV3ForCausalLM"], "hidden_size": 1024, "intermediate_size": 4096,
        "num_attention_heads": 8, "num_key_value_heads": 8, "num_hidden_layers": 8, "vocab_size": 1000,
        "max_position_embeddings": 2048, "torch_dtype": "bfloat16",
    } | changes  # fmt: skip
    return ModelInfo.from_hf_config("x/y", config)


@pytest.mark.parametrize("key", ["n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts"])
def test_every_spelling_of_experts_counts(key: str) -> None:
    dense, sparse = spelled(), spelled(**{key: 16, "moe_intermediate_size": 512})
    expected = 8 * (3 * 1024 * (16 * 512 - 4096) + 16 * 1024 + 16)
    assert sparse.parameters - dense.parameters == expected
    assert sparse.experts == 16


@pytest.mark.parametrize(
    ("changes", "sparse"),
    [
        ({"first_k_dense_replace": 3}, [3, 4, 5, 6, 7]),
        ({"first_k_dense_replace": 0}, range(8)),
        ({"moe_layer_freq": 2}, [0, 2, 4, 6]),
        ({"moe_layer_freq": [0, 1, 1, 0, 0, 0, 0, 1]}, [1, 2, 7]),
        ({"decoder_sparse_step": 2}, [1, 3, 5, 7]),
        ({"mlp_only_layers": [0, 7]}, [1, 2, 3, 4, 5, 6]),
        ({"interleave_moe_layer_step": 4}, [3, 7]),
        ({"moe_layers": [2, 5]}, [2, 5]),
        ({"mlp_layer_types": ["dense"] * 6 + ["sparse"] * 2}, [6, 7]),
    ],
    ids=str,
)
def test_every_spelling_of_sparse_layers(changes: dict[str, object], sparse: list[int]) -> None:
    model = spelled(n_routed_experts=16, moe_intermediate_size=512, **changes)
    assert [layer for layer, block in enumerate(model.blocks) if block.experts] == list(sparse)
    assert {block.inner for block in model.blocks if not block.experts} <= {4096}


@pytest.mark.parametrize(
    ("changes", "width"),
    [
        ({"n_shared_experts": 2}, 1024),
        ({"n_shared_experts": 0}, 0),
        ({"shared_expert_intermediate_size": 768}, 768),
        ({"shared_intermediate_size": 256}, 256),
    ],
    ids=str,
)
def test_every_spelling_of_shared_experts(changes: dict[str, object], width: int) -> None:
    model = spelled(n_routed_experts=16, moe_intermediate_size=512, **changes)
    assert {block.shared_inner for block in model.blocks} == {width}


@pytest.mark.parametrize(
    ("architecture", "changes", "windows"),
    [
        ("MistralForCausalLM", {"sliding_window": 64}, [64] * 8),
        ("MistralForCausalLM", {"sliding_window": None}, [0] * 8),
        ("Gemma2ForCausalLM", {"sliding_window": 64}, [64, 0] * 4),
        ("Gemma3ForCausalLM", {"sliding_window": 64}, [64, 64, 64, 64, 64, 0, 64, 64]),
        ("Gemma3ForCausalLM", {"sliding_window": 64, "sliding_window_pattern": 4}, [64, 64, 64, 0] * 2),
        ("Cohere2ForCausalLM", {"sliding_window": 64}, [64, 64, 64, 0] * 2),
        ("Qwen2ForCausalLM", {"sliding_window": 64}, [0] * 8),
        ("Qwen2ForCausalLM", {"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 6},
         [0] * 6 + [64] * 2),
        ("GptOssForCausalLM", {"sliding_window": 64, "layer_types": ["full_attention", "sliding_attention"] * 4},
         [0, 64] * 4),
    ],
    ids=str,
)  # fmt: skip
def test_windows_layer_by_layer(architecture: str, changes: dict[str, object], windows: list[int]) -> None:
    model = spelled(architectures=[architecture], **changes)
    assert [block.window_tokens for block in model.blocks] == windows
    assert model.sliding_window_tokens == max(windows)


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": ["BrandNewForCausalLM"]},
        {"architectures": ["LlamaForCausalLM"], "layer_types": ["something_new"] * 8},
        {"architectures": ["LlamaForCausalLM"], "mamba_d_state": 16},
        {"architectures": ["NemotronHForCausalLM"], "hybrid_override_pattern": "????????"},
        {
            "architectures": ["DeciLMForCausalLM"],
            "block_configs": [{"attention": {"no_op": True}, "ffn": {"ffn_mult": 1}}],
        },
    ],
    ids=["architecture", "layer-types", "state-space", "pattern", "fewer-blocks-than-layers"],
)
def test_what_is_not_known_is_an_estimate(changes: dict[str, object]) -> None:
    model = spelled(**changes)
    assert not model.is_exact
    assert not model.are_sizes_known


def test_the_listing_tells_what_config_json_does_not() -> None:
    import dataclasses

    awq = spelled(architectures=["LlamaForCausalLM"], quantization_config={"quant_method": "awq", "bits": 4})
    assert not awq.are_sizes_known
    listed = dataclasses.replace(awq, listed_bytes=40_000_000)
    assert (listed.stored_bytes, listed.are_sizes_known) == (40_000_000, True)
    layout = Layout(dtype="bfloat16", preset=catalog.preset("none"))
    limits = Limits(max_batch_size=1, max_seq_len=64, max_num_tokens=64)
    found = gpu_memory(listed, layout, limits, gpu_bytes=1 << 40)
    assert found.weights_bytes == pytest.approx(40_000_000, rel=0.01)
    layers = next(line for line in found.lines if line.label == "layers")
    assert not layers.is_exact
