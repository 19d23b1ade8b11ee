"""The facts of a model, read from its config.json.

It decides which key says what, in the spellings of transformers 4 and 5, and what a wrapped decoder leaves out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from trtbuild.catalog.blocks import Block, Frame, expert_count, read_blocks
from trtbuild.catalog.checkpoints import read_storage
from trtbuild.catalog.model_info import DTYPE_BYTES, ModelInfo
from trtbuild.catalog.parameters import count_parameters, exact_architectures, next_token_parameters
from trtbuild.errors import FetchError
from trtbuild.model.config import resolve_config
from trtbuild.model.rope import rope_settings
from trtbuild.untrusted import Fields, shown

_LAYERS_LIMIT, _HEADS_LIMIT = 10_000, 100_000  # far beyond any model; what is counted one by one stays countable
_TIED_BY_DEFAULT = frozenset(
    {"GPT2LMHeadModel", "OPTForCausalLM", "FalconForCausalLM", "GemmaForCausalLM", "Gemma2ForCausalLM"}
)


def read_model(model_id: str, config: Mapping[str, Any]) -> ModelInfo:
    """Return the facts of a model; see :meth:`ModelInfo.from_hf_config`."""
    merged = _decoder_part(config)
    if merged is config:
        merged = resolve_config(config, f"{model_id}: config.json")
    # TensorRT-LLM goes by the class of the whole model, at the top; a wrapped decoder may have one of its own.
    architectures = config.get("architectures") or merged.get("architectures")
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise FetchError(
            f"{model_id}: config.json names no architecture (architectures: {shown(architectures)})",
            hint="expected a decoder such as LlamaForCausalLM; is this the directory of a text-generation model?",
        )
    if not re.fullmatch(r"\w{1,100}", architectures[0], re.ASCII):
        raise FetchError(
            f"{model_id}: config.json: architectures: expected the name of a class, got {shown(architectures[0])}",
            hint="expected a decoder such as LlamaForCausalLM; is this the directory of a text-generation model?",
        )
    model, unknown = _read_shape(model_id, architectures[0], merged)
    counts = count_parameters(model)
    return replace(
        model,
        parameters=counts.total + model.tower_parameters,
        stored_parameters=counts.total + model.tower_parameters + next_token_parameters(model, counts, merged),
        is_exact=architectures[0] in exact_architectures() and not unknown,
    )


_CLASS_DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma3_text": {
        "vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131_072,
        "sliding_window": 4096, "tie_word_embeddings": True,
    },
    "llama": {
        "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "max_position_embeddings": 2048,
    },
    "mistral": {
        "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131_072, "sliding_window": 4096,
    },
}  # fmt: skip
"""What a wrapped decoder has where its ``text_config`` does not say, by ``model_type``.

Source: transformers 4.50 to 4.57, configuration_gemma3.py (Gemma3TextConfig), configuration_llama.py,
configuration_mistral.py: the defaults of ``__init__``.
"""


def _decoder_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the keys that describe the decoder: those of ``text_config`` where the model wraps one."""
    text = config.get("text_config")
    if not isinstance(text, Mapping) or "num_hidden_layers" in config:
        return config
    kind = text.get("model_type")
    return {**(_CLASS_DEFAULTS.get(kind, {}) if isinstance(kind, str) else {}), **config, **text}


def _tower_parameters(values: Mapping[str, Any], where: str, hidden: int) -> int:
    """Return about how many weights a vision tower and its projection have; 0 without one.

    Source: transformers, modeling_siglip.py and modeling_pixtral.py: layers of four attention matrices and an MLP of
    two (pixtral: three); patches and positions are looked up in tables.
    """
    given = values.get("vision_config")
    if not isinstance(given, Mapping):
        return 0
    config = Fields(f"{where}: vision_config", given)
    width = config.size("hidden_size", "embed_dim", default=1152)
    inner = config.size("intermediate_size", default=4 * width)
    layers = config.size("num_hidden_layers", "depth", default=27, limit=_LAYERS_LIMIT)
    patch, image = config.size("patch_size", default=14), config.size("image_size", default=0)
    matrices = 3 if given.get("model_type") == "pixtral" else 2
    tables = 3 * patch * patch * width + (image // patch) ** 2 * width
    return layers * (4 * width * width + matrices * width * inner) + tables + width * hidden


def _read_shape(model_id: str, architecture: str, values: Mapping[str, Any]) -> tuple[ModelInfo, tuple[str, ...]]:
    """Return the shape, and the keys that say something about the layers which is not known here."""
    where = f"{model_id}: config.json"
    config = Fields(where, values)
    hidden = config.size("hidden_size", "n_embd", "d_model")
    heads = config.size("num_attention_heads", "n_head", "n_heads", limit=_HEADS_LIMIT)
    if heads > hidden:
        raise FetchError(
            f"{where}: {heads} attention heads share {hidden} channels, expected at least one for each",
            hint="the file is damaged or not a model's; download the model again",
        )
    new_falcon = config.flag("new_decoder_architecture")
    if architecture == "FalconForCausalLM" and not new_falcon:
        kv_heads = 1 if config.flag("multi_query", True) else heads
    else:
        kv_heads = config.size("num_key_value_heads", "num_kv_heads", default=heads, limit=_HEADS_LIMIT)
    experts = expert_count(config, values)
    quantization = config.object("quantization_config")
    dtype = (config.text("dtype") or config.text("torch_dtype")).removeprefix("torch.") or "float32"
    rope = rope_settings(values, where)
    model = ModelInfo(
        name=model_id,
        model_id=model_id,
        architecture=architecture,
        parameters=0,
        layers=config.size("num_hidden_layers", "n_layer", "num_layers", limit=_LAYERS_LIMIT),
        heads=heads,
        kv_heads=kv_heads,
        hidden_size=hidden,
        intermediate_size=config.size(*_INNER_NAMES, default=4 * hidden),
        head_dim=config.size("head_dim", default=hidden // heads),
        vocab_size=config.size("vocab_size"),
        context_tokens=config.size("max_position_embeddings", "n_positions", "seq_length", default=2048),
        tied_embeddings=config.flag("tie_word_embeddings", architecture in _TIED_BY_DEFAULT),
        dtype=dtype if dtype in DTYPE_BYTES else "bfloat16",
        experts=experts,
        experts_per_token=config.size("num_experts_per_tok", "experts_per_token", default=1) if experts else 0,
        attention_bias=config.flag("attention_bias"),
        qk_norm=config.flag("use_qk_norm"),
        tower_parameters=_tower_parameters(values, where, hidden),
        embedding_size=config.size("word_embed_proj_dim", default=hidden),
        final_norm=config.flag("do_layer_norm_before", True),
        new_decoder_architecture=new_falcon,
        pre_quantized=_quantization(quantization) if quantization else "",
        storage=read_storage(quantization),
        rope_type=rope["rope_type"],
        original_context_tokens=Fields(where, rope).size("original_max_position_embeddings", default=0),
        has_remote_code=bool({"AutoConfig", "AutoModelForCausalLM"} & set(config.object("auto_map"))),
        config=values,
    )
    return _with_blocks(model, config, values)


_INNER_NAMES = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")


def _with_blocks(model: ModelInfo, config: Fields, values: Mapping[str, Any]) -> tuple[ModelInfo, tuple[str, ...]]:
    """Return the model with its layers, and the fields of all of them as what they have in common, or the widest."""
    base = Block(
        heads=model.heads,
        kv_heads=model.kv_heads,
        head_dim=model.head_dim,
        inner=model.intermediate_size,
        is_gated_attention=model.architecture.startswith(_GATED_ATTENTION),
    )
    frame = Frame(architecture=model.architecture, layers=model.layers, hidden_size=model.hidden_size, block=base)
    blocks, unknown = read_blocks(frame, config, values)
    widest = max(blocks, key=lambda block: block.inner * max(block.experts, 1))
    attention = max(blocks, key=lambda block: block.kv_heads)
    model = replace(
        model,
        intermediate_size=widest.inner or model.intermediate_size,
        kv_heads=attention.kv_heads or model.kv_heads,
        sliding_window_tokens=max(block.window_tokens for block in blocks),
    )
    return (model if blocks == model.blocks else replace(model, own_blocks=blocks)), unknown


_GATED_ATTENTION = ("Qwen3Next", "Qwen3_5")
"""Architectures whose query matrix has a gate beside it. Source: transformers, modeling_qwen3_next.py."""


def _quantization(settings: Mapping[str, Any]) -> str:
    method = settings.get("quant_method", "unknown")
    return method if isinstance(method, str) and re.fullmatch(r"[\w.-]{1,40}", method, re.ASCII) else "unknown"
