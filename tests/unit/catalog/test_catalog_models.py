"""The catalog's models: every number follows from the others, every accepted name finds its model."""

from __future__ import annotations

import dataclasses

import pytest

from trtbuild import catalog
from trtbuild.catalog import ModelInfo
from trtbuild.errors import FetchError

MODELS = catalog.models()

REQUIRED_ALIASES = [
    "gpt2", "opt-125m", "llama-2-7b", "llama-2-7b-chat", "llama-2-13b", "llama-2-13b-chat", "llama-2-70b",
    "llama-2-70b-chat", "llama-3-8b", "llama-3-8b-instruct", "llama-3-70b", "llama-3-70b-instruct", "llama-3.1-8b",
    "llama-3.1-8b-instruct", "llama-3.1-70b", "llama-3.1-70b-instruct", "llama-3.2-1b", "llama-3.2-1b-instruct",
    "llama-3.2-3b", "llama-3.2-3b-instruct", "llama-3.3-70b-instruct", "mistral-7b", "mistral-7b-instruct",
    "mixtral-8x7b-instruct", "qwen2.5-0.5b-instruct", "qwen2.5-1.5b-instruct", "qwen2.5-3b-instruct",
    "qwen2.5-7b-instruct", "qwen2.5-14b-instruct", "qwen2.5-32b-instruct", "qwen2.5-72b-instruct", "qwen3-0.6b",
    "qwen3-1.7b", "qwen3-4b", "qwen3-8b", "qwen3-14b", "qwen3-32b", "gemma-2-2b-it", "gemma-2-9b-it",
    "gemma-2-27b-it", "phi-3.5-mini", "phi-4", "falcon-7b",
]  # fmt: skip


@pytest.mark.parametrize("alias", REQUIRED_ALIASES)
def test_every_documented_alias_is_an_entry(alias: str) -> None:
    model = catalog.find_model(alias)
    assert model is not None
    assert model.name == alias


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_parameters_follow_from_the_shape(model: ModelInfo) -> None:
    assert catalog.count_parameters(model).total == model.parameters


# Totals the makers or the hub publish, independent of the catalog's file. The bytes are metadata.total_size of
# model.safetensors.index.json, the parameters the hub's "Safetensors" figure.
@pytest.mark.parametrize(
    ("alias", "parameters", "stored_bytes"),
    [
        ("gpt2", 124_439_808, 548_090_880),
        ("opt-125m", 125_239_296, 250_478_592),
        ("llama-3-8b", 8_030_261_248, 16_060_522_496),
        ("llama-3-70b-instruct", 70_553_706_496, 141_107_412_992),
        ("llama-3.2-1b", 1_235_814_400, 2_471_628_800),
        ("mistral-7b-v0.1", 7_241_732_096, 14_483_464_192),
        ("mistral-7b-instruct", 7_248_023_552, 14_496_047_104),
        ("mixtral-8x7b-instruct", 46_702_792_704, 93_405_585_408),
        ("qwen2.5-7b-instruct", 7_615_616_512, 15_231_233_024),
        ("gemma-2-9b-it", 9_241_705_984, 18_483_411_968),
        ("phi-3.5-mini", 3_821_079_552, 7_642_159_104),
        ("phi-4", 14_659_507_200, 29_319_014_400),
        ("falcon-7b", 6_921_720_704, 14_434_379_520),
    ],
)
def test_published_totals(alias: str, parameters: int, stored_bytes: int) -> None:
    model = catalog.find_model(alias)
    assert model is not None
    assert (model.parameters, model.stored_bytes) == (parameters, stored_bytes)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_every_entry_is_complete(model: ModelInfo) -> None:
    assert "/" in model.model_id
    assert model.licence
    assert model.dtype in {"float32", "float16", "bfloat16"}
    assert model.heads % model.kv_heads == 0
    assert min(model.layers, model.hidden_size, model.intermediate_size, model.head_dim, model.context_tokens) > 0
    assert model.stored_parameters >= model.parameters
    assert model.architecture in catalog.exact_architectures()
    assert (model.experts > 0) == (model.experts_per_token > 0)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_every_name_finds_its_model(model: ModelInfo) -> None:
    for name in (model.name, model.model_id, *model.aliases, model.model_id.lower(), model.name.upper()):
        assert catalog.find_model(name) is model


# Source: triton_cli 0.1.3, KNOWN_MODEL_SOURCES. mistral-7b differs on purpose; its entry's note says so.
@pytest.mark.parametrize(
    ("spelling", "model_id"),
    [
        ("llama-2-7b", "meta-llama/Llama-2-7b-hf"),
        ("llama-2-7b-chat", "meta-llama/Llama-2-7b-chat-hf"),
        ("llama-3-8b", "meta-llama/Meta-Llama-3-8B"),
        ("llama-3-8b-instruct", "meta-llama/Meta-Llama-3-8B-Instruct"),
        ("llama-3.1-8b", "meta-llama/Llama-3.1-8B"),
        ("gpt2", "openai-community/gpt2"),
        ("opt125m", "facebook/opt-125m"),
        ("falcon-7b", "tiiuae/falcon-7b"),
    ],
)
def test_spellings_of_other_tools(spelling: str, model_id: str) -> None:
    model = catalog.find_model(spelling)
    assert model is not None
    assert model.model_id == model_id


def test_mistral_is_the_base_model_and_says_so() -> None:
    model = catalog.find_model("mistral-7b")
    assert model is not None
    assert model.model_id == "mistralai/Mistral-7B-v0.3"
    assert "triton_cli" in model.note


def test_unknown_names() -> None:
    assert catalog.find_model("llama-9-1t") is None
    assert catalog.find_model("") is None
    assert "llama-3-8b" in catalog.closest_models("lama-3-8b")
    assert "qwen2.5-7b-instruct" in catalog.closest_models("qwen25-7b-instruct")
    assert catalog.closest_models("zzzzzzzz") == ()


def llama_config(**changes: object) -> dict[str, object]:
    config: dict[str, object] = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 8192,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "rope_theta": 500000.0,
    }
    config.update(changes)
    return {name: value for name, value in config.items() if value is not None}


@pytest.mark.parametrize(
    "config",
    [
        llama_config(),
        llama_config(torch_dtype=None, dtype="bfloat16", rope_theta=None, rope_parameters={"rope_theta": 500000.0}),
        llama_config(head_dim=128, attention_bias=False),
    ],
    ids=["transformers-4", "transformers-5", "explicit-head-dim"],
)
def test_config_json_gives_the_catalogs_numbers(config: dict[str, object]) -> None:
    read = ModelInfo.from_hf_config("meta-llama/Meta-Llama-3-8B", config)
    known = catalog.find_model("llama-3-8b")
    assert known is not None
    same = ("architecture", "parameters", "layers", "kv_heads", "head_dim", "vocab_size", "dtype", "context_tokens")
    assert {name: getattr(read, name) for name in same} == {name: getattr(known, name) for name in same}
    assert read.is_exact


CONFIGS = {
    "gpt2": {
        "architectures": ["GPT2LMHeadModel"], "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024,
        "n_ctx": 1024, "vocab_size": 50257,
    },
    "opt-125m": {
        "architectures": ["OPTForCausalLM"], "hidden_size": 768, "ffn_dim": 3072, "num_attention_heads": 12,
        "num_hidden_layers": 12, "max_position_embeddings": 2048, "vocab_size": 50272, "word_embed_proj_dim": 768,
        "do_layer_norm_before": True, "torch_dtype": "float16",
    },
    "falcon-7b": {
        "architectures": ["FalconForCausalLM"], "hidden_size": 4544, "num_attention_heads": 71, "num_hidden_layers": 32,
        "num_kv_heads": 71, "multi_query": True, "new_decoder_architecture": False, "vocab_size": 65024,
        "torch_dtype": "bfloat16", "parallel_attn": True, "bias": False,
    },
    "mixtral-8x7b-instruct": {
        "architectures": ["MixtralForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336,
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8,
        "num_experts_per_tok": 2, "vocab_size": 32000, "max_position_embeddings": 32768, "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
    },
    "qwen2.5-0.5b-instruct": {
        "architectures": ["Qwen2ForCausalLM"], "hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14,
        "num_hidden_layers": 24, "num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 32768,
        "tie_word_embeddings": True, "torch_dtype": "bfloat16", "sliding_window": 32768, "use_sliding_window": False,
    },
    "qwen3-8b": {
        "architectures": ["Qwen3ForCausalLM"], "hidden_size": 4096, "intermediate_size": 12288, "head_dim": 128,
        "num_attention_heads": 32, "num_hidden_layers": 36, "num_key_value_heads": 8, "vocab_size": 151936,
        "max_position_embeddings": 40960, "tie_word_embeddings": False, "dtype": "bfloat16", "attention_bias": False,
    },
    "gemma-2-2b-it": {
        "architectures": ["Gemma2ForCausalLM"], "hidden_size": 2304, "intermediate_size": 9216, "head_dim": 256,
        "num_attention_heads": 8, "num_hidden_layers": 26, "num_key_value_heads": 4, "vocab_size": 256000,
        "max_position_embeddings": 8192, "sliding_window": 4096, "torch_dtype": "bfloat16",
    },
}  # fmt: skip


@pytest.mark.parametrize("alias", CONFIGS)
def test_config_json_of_every_style_gives_the_catalogs_entry(alias: str) -> None:
    known = catalog.find_model(alias)
    assert known is not None
    read = ModelInfo.from_hf_config(known.model_id, CONFIGS[alias])
    told = ("name", "gated", "licence", "aliases", "stored_parameters", "note", "safetensors")
    expected = dataclasses.replace(known, **{name: getattr(read, name) for name in told})
    assert read == expected


def test_wrapped_decoders_and_quantized_weights() -> None:
    inner = llama_config()
    inner.pop("architectures")
    wrapped = ModelInfo.from_hf_config(
        "x/y", {"architectures": ["LlavaForConditionalGeneration"], "text_config": inner}
    )
    assert wrapped.layers == 32
    assert not wrapped.is_exact
    awq = ModelInfo.from_hf_config("x/y", llama_config(quantization_config={"quant_method": "awq", "bits": 4}))
    assert awq.pre_quantized == "awq"


# Published totals of shapes outside of the catalog, which exercise the remaining rules.
@pytest.mark.parametrize(
    ("changes", "parameters"),
    [
        (
            {"architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 2048, "intermediate_size": 6144,
             "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8, "num_attention_heads": 32,
             "num_hidden_layers": 48, "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 151936},
            30_532_122_624,
        ),
        (
            {"architectures": ["GemmaForCausalLM"], "hidden_size": 2048, "intermediate_size": 16384,
             "num_attention_heads": 8, "num_hidden_layers": 18, "num_key_value_heads": 1, "head_dim": 256,
             "vocab_size": 256000, "tie_word_embeddings": None},
            2_506_172_416,
        ),
        (
            {"architectures": ["PhiForCausalLM"], "hidden_size": 2560, "intermediate_size": 10240,
             "num_attention_heads": 32, "num_key_value_heads": 32, "num_hidden_layers": 32, "vocab_size": 51200},
            2_779_683_840,
        ),
    ],
    ids=["qwen3-30b-a3b", "gemma-2b", "phi-2"],
)  # fmt: skip
def test_published_totals_outside_of_the_catalog(changes: dict[str, object], parameters: int) -> None:
    assert ModelInfo.from_hf_config("x/y", llama_config(**changes)).parameters == parameters


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "names no architecture"),
        ({"architectures": []}, "names no architecture"),
        (llama_config(hidden_size=None), "config.json has no hidden_size"),
        (llama_config(num_hidden_layers=0), "num_hidden_layers: expected a positive whole number, got 0"),
        (llama_config(vocab_size="many"), "vocab_size: expected a positive whole number, got 'many'"),
    ],
    ids=["empty", "no-architecture", "no-width", "no-layers", "text-for-number"],
)
def test_damaged_configs_are_refused_by_key(config: dict[str, object], said: str) -> None:
    with pytest.raises(FetchError, match="x/y") as caught:
        ModelInfo.from_hf_config("x/y", config)
    assert said in caught.value.message
    assert caught.value.hint
