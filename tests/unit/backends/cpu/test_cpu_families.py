"""What config.json means to the cpu backend, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.data.cpu_parity.checkpoints import CONFIGS
from trtbuild.backends.cpu.families import COVERED, read_decoder, refusal
from trtbuild.catalog import find_model
from trtbuild.errors import FetchError, SpecError

# The parts of the published config.json files that matter here.
# Source: meta-llama/Llama-3.1-8B, mistralai/Mistral-7B-v0.1, Qwen/Qwen2.5-0.5B, google/gemma-2b,
# microsoft/Phi-3.5-mini-instruct on huggingface.co
LLAMA_31: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-05,
    "hidden_act": "silu",
    "rope_theta": 500000.0,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def test_llama_3_1() -> None:
    decoder = read_decoder(LLAMA_31)
    assert (decoder.layers, decoder.heads, decoder.kv_heads, decoder.head_dim) == (32, 32, 8, 128)
    assert (decoder.context_tokens, decoder.context_reason) == (131072, "max_position_embeddings")
    assert not decoder.tied
    assert decoder.rope is not None
    scaled = np.array(decoder.rope.inverse_frequencies)
    plain = 500000.0 ** -(np.arange(0, 128, 2) / 128)
    wavelengths = 2 * np.pi / plain
    np.testing.assert_allclose(scaled[wavelengths < 8192 / 4], plain[wavelengths < 8192 / 4], rtol=1e-5)
    np.testing.assert_allclose(scaled[wavelengths > 8192], plain[wavelengths > 8192] / 8, rtol=1e-5)
    between = (wavelengths > 8192 / 4) & (wavelengths < 8192)
    assert between.any()
    assert np.all((scaled[between] < plain[between]) & (scaled[between] > plain[between] / 8))


def test_both_spellings_of_rope_mean_the_same() -> None:
    new = {key: value for key, value in LLAMA_31.items() if key not in {"rope_theta", "rope_scaling"}}
    new["rope_parameters"] = {**LLAMA_31["rope_scaling"], "rope_theta": 500000.0}
    assert read_decoder(new) == read_decoder(LLAMA_31)


@pytest.mark.parametrize(
    ("change", "context", "reason"),
    [
        pytest.param({}, 131072, "max_position_embeddings", id="no window"),
        pytest.param(
            {"architectures": ["MistralForCausalLM"], "sliding_window": 4096}, 4096, "sliding_window", id="window"
        ),
        pytest.param(
            {"architectures": ["MistralForCausalLM"], "sliding_window": None},
            131072,
            "max_position_embeddings",
            id="window switched off by null",
        ),
        pytest.param(
            {"architectures": ["Qwen2ForCausalLM"], "sliding_window": 32768, "use_sliding_window": False},
            131072,
            "max_position_embeddings",
            id="window of qwen, unused",
        ),
        pytest.param(
            {"architectures": ["Qwen2ForCausalLM"], "sliding_window": 32768, "use_sliding_window": True},
            32768,
            "sliding_window",
            id="window of qwen, used",
        ),
        pytest.param(
            {
                "architectures": ["Phi3ForCausalLM"],
                "original_max_position_embeddings": 4096,
                "rope_scaling": {"type": "su", "short_factor": [1.0] * 64, "long_factor": [2.0] * 64},
            },
            4096,
            "original_max_position_embeddings",
            id="longrope under its first name",
        ),
    ],
)
def test_the_context_ends_where_the_graph_would_differ(change: dict[str, Any], context: int, reason: str) -> None:
    decoder = read_decoder({**LLAMA_31, **change})
    assert (decoder.context_tokens, decoder.context_reason) == (context, reason)


@pytest.mark.parametrize(
    ("name", "attribute", "value"),
    [
        ("gemma", "norm", "rms_plus_one"),
        ("gemma", "activation", "gelu_tanh"),
        ("gemma", "embedding_scale", 8.0),
        ("gemma", "tied", True),
        ("gpt2", "activation", "gelu_tanh"),
        ("gpt2", "tied", True),
        ("gpt2", "rope", None),
        ("opt", "activation", "relu"),
        ("opt", "position_offset", 2),
        ("qwen3", "head_dim", 32),
        ("mistral", "head_dim", 24),
    ],
)
def test_peculiarities_of_families(name: str, attribute: str, value: object) -> None:
    assert getattr(read_decoder(CONFIGS[name]), attribute) == value


REFUSED = [
    pytest.param({"architectures": ["Gemma2ForCausalLM"]}, "caps attention scores with tanh", id="gemma 2"),
    pytest.param({"architectures": ["MixtralForCausalLM"]}, "mixtures of experts", id="mixtral"),
    pytest.param({"architectures": ["BertModel"]}, "does not build BertModel", id="not a decoder"),
    pytest.param({"architectures": []}, "an unnamed architecture", id="no architecture"),
    pytest.param({"architectures": "Llama"}, "an unnamed architecture", id="architectures is text"),
    pytest.param({"hidden_act": "quick_gelu"}, "activation='quick_gelu'", id="activation"),
    pytest.param({"hidden_act": {"a": 1}}, "activation=", id="activation is an object"),
    pytest.param({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_type='yarn'", id="yarn"),
    pytest.param({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "rope_type='dynamic'", id="dynamic"),
    pytest.param(
        {"rope_scaling": {"rope_type": "mrope", "mrope_section": [16, 24, 24]}}, "rope_type='mrope'", id="mrope"
    ),
    pytest.param({"rope_scaling": {"rope_type": "llama3"}}, "has no low_freq_factor", id="llama3 without factors"),
    pytest.param({"rope_scaling": {"rope_type": "linear"}}, "has no factor", id="linear without a factor"),
    pytest.param(
        {"rope_scaling": {"rope_type": "linear", "factor": "4"}}, "factor: expected a positive number", id="text factor"
    ),
    pytest.param({"rope_scaling": "llama3"}, "rope_scaling: expected an object", id="scaling is text"),
    pytest.param({"rope_scaling": {"rope_type": ["yarn"]}}, "rope_type: expected a name", id="type is a list"),
    pytest.param(
        {"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0] * 5}, "original_max_position_embeddings": 64},
        "short_factor: expected a list of 64 numbers, got 5 values",
        id="short list",
    ),
    pytest.param(
        {
            "rope_scaling": {"rope_type": "longrope", "short_factor": [math.nan] * 64},
            "original_max_position_embeddings": 64,
        },
        "expected a positive number, got nan",
        id="factors that are no numbers",
    ),
    pytest.param({"rope_theta": -1}, "rope_theta: expected a positive number, got -1", id="negative theta"),
    pytest.param({"rope_theta": 1e300}, "rope_theta: expected a number up to", id="theta beyond float32"),
    pytest.param({"rms_norm_eps": math.nan}, "rms_norm_eps: expected a positive number", id="epsilon is nan"),
    pytest.param(
        {"rms_norm_eps": "1e-5"}, "rms_norm_eps: expected a positive number, got '1e-5'", id="epsilon is text"
    ),
    pytest.param({"tie_word_embeddings": "false"}, "tie_word_embeddings: expected true or false", id="text for a flag"),
    pytest.param({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5", id="partial rotary"),
    pytest.param({"quantization_config": {"quant_method": "gptq"}}, "quantized already", id="gptq"),
    pytest.param({"intermediate_size": None}, "has no intermediate_size", id="null size"),
    pytest.param({"num_attention_heads": 24}, "24 attention heads do not divide 4096 channels", id="uneven heads"),
    pytest.param({"num_key_value_heads": 5}, "5 key/value heads do not divide 32", id="uneven key/value heads"),
    pytest.param({"head_dim": 127}, "head_dim=127 is not covered", id="odd head size"),
    *(
        pytest.param({name: value}, f"{name}: expected a", id=f"{name} is {str(value)[:8]}")
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings")
        for value in (-1, 0, 1e300, 10**30, "32", True, math.nan, [32])
    ),
    pytest.param({"sliding_window": -4096}, "sliding_window: expected a positive whole number", id="negative window"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_what_has_no_parity_test_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises((SpecError, FetchError), match=message) as caught:
        read_decoder({**LLAMA_31, **change})
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("gpt2", {"reorder_and_upcast_attn": True}),
        ("opt", {"do_layer_norm_before": False}),
        ("opt", {"word_embed_proj_dim": 32}),
        ("opt", {"_remove_final_layer_norm": True}),
    ],
)
def test_variants_of_old_families_are_refused(name: str, change: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=f"{next(iter(change))}="):
        read_decoder({**CONFIGS[name], **change})


def test_a_missing_size_is_named() -> None:
    config = {key: value for key, value in LLAMA_31.items() if key != "num_hidden_layers"}
    with pytest.raises(FetchError, match="num_hidden_layers"):
        read_decoder(config)


def test_every_covered_architecture_has_a_parity_checkpoint() -> None:
    assert {config["architectures"][0] for config in CONFIGS.values()} == set(COVERED)


def test_a_refusal_lists_what_is_built() -> None:
    text = refusal("FalconForCausalLM")
    assert all(name in text for name in COVERED)
    falcon = find_model("falcon-7b")
    assert falcon is not None
    assert falcon.architecture == "FalconForCausalLM"
