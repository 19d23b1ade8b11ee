"""A config.json as transformers' class of the model would complete it. Pure.

transformers chooses the class by ``model_type`` and gives keys that are absent the defaults of that class, which differ
from class to class. Here that is done for the classes whose every computation is known; configurations of other classes
pass unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trtbuild.errors import FetchError
from trtbuild.untrusted import shown


@dataclass(frozen=True, kw_only=True)
class ModelClass:
    """A class of transformers.

    Attributes:
        model_type: What config.json calls it.
        defaults: What it takes for keys that are absent.
        sizes: What it takes for absent sizes. A model that leaves these out is rather incomplete than of that size, so
            they are named to the user and not filled in.
        aliases: Other names of keys: what this class calls them.
        prefix: What its decoder's tensors begin with; ``save_pretrained`` of the bare decoder leaves it out.
    """

    model_type: str
    defaults: Mapping[str, Any]
    sizes: Mapping[str, int]
    aliases: Mapping[str, str]
    prefix: str = "model."


def _llama_like(model_type: str, sizes: Mapping[str, int], **defaults: Any) -> ModelClass:
    common = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": False}
    return ModelClass(model_type=model_type, defaults={**common, **defaults}, sizes=sizes, aliases={})


def _sizes(*values: int) -> Mapping[str, int]:
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return dict(zip((*names, "max_position_embeddings"), values, strict=True))


CLASSES: Mapping[str, ModelClass] = {
    "LlamaForCausalLM": _llama_like(
        "llama", _sizes(32_000, 4096, 11_008, 32, 32, 2048), attention_bias=False, mlp_bias=False
    ),
    "MistralForCausalLM": _llama_like(
        "mistral", _sizes(32_000, 4096, 14_336, 32, 32, 131_072), num_key_value_heads=8, sliding_window=4096
    ),
    "Qwen2ForCausalLM": _llama_like(
        "qwen2",
        _sizes(151_936, 4096, 22_016, 32, 32, 32_768),
        num_key_value_heads=32, use_sliding_window=False, sliding_window=4096,
    ),
    "Qwen3ForCausalLM": _llama_like(
        "qwen3",
        _sizes(151_936, 4096, 22_016, 32, 32, 32_768),
        num_key_value_heads=32, head_dim=128, attention_bias=False, use_sliding_window=False, sliding_window=4096,
    ),
    "GemmaForCausalLM": _llama_like(
        "gemma",
        _sizes(256_000, 3072, 24_576, 28, 16, 8192),
        num_key_value_heads=16, head_dim=256, attention_bias=False, hidden_act="gelu_pytorch_tanh",
        tie_word_embeddings=True,
    ),
    "Phi3ForCausalLM": _llama_like("phi3", _sizes(32_064, 3072, 8192, 32, 32, 4096), rms_norm_eps=1e-5),
    "GPT2LMHeadModel": ModelClass(
        model_type="gpt2",
        defaults={"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
        sizes={"vocab_size": 50_257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024},
        aliases={
            "hidden_size": "n_embd",
            "num_hidden_layers": "n_layer",
            "num_attention_heads": "n_head",
            "max_position_embeddings": "n_positions",
        },
        prefix="transformer.",
    ),
    "OPTForCausalLM": ModelClass(
        model_type="opt",
        defaults={"activation_function": "relu", "tie_word_embeddings": True, "enable_bias": True},
        sizes={
            "vocab_size": 50_272, "hidden_size": 768, "ffn_dim": 3072, "num_hidden_layers": 12,
            "num_attention_heads": 12, "max_position_embeddings": 2048,
        },
        aliases={},
    ),
}  # fmt: skip
"""The classes whose defaults and tensors are known.

Source: transformers 4.57.6 and 5.24.0, models/*/configuration_*.py, which agree on these; ``attribute_map`` of GPT-2.
"""

_BY_TYPE = {each.model_type: name for name, each in CLASSES.items()}


def resolve_config(config: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Return a config.json with what its class would add; unchanged where the class is not known here.

    Args:
        config: The keys of the decoder.
        where: What messages call the file.

    Raises:
        FetchError: It names no class, or two; a key is there under two names with two values; a size is missing.
    """
    architecture = _architecture(config, where)
    known = CLASSES.get(architecture)
    if known is None:
        return config
    found = dict(config)
    for alias, name in known.aliases.items():
        value = found.pop(alias, None)
        if value is None:
            continue
        if found.get(name) not in {None, value} if isinstance(value, int) else name in found:
            raise FetchError(
                f"{where} says {name} {shown(found[name])} and {alias} {shown(value)}, two names of one key",
                hint="remove the wrong one from config.json",
            )
        found[name] = value
    for name, value in known.sizes.items():
        if found.get(name) is None:
            raise FetchError(
                f"{where} has no {name}, which every published {architecture} states",
                hint=f'add the model\'s own to config.json; transformers would take "{name}": {value}',
            )
    for name, value in known.defaults.items():
        found.setdefault(name, value)
    return found


def _architecture(config: Mapping[str, Any], where: str) -> str:
    """Return the class that transformers would use."""
    named, model_type = config.get("architectures"), config.get("model_type")
    by_type = _BY_TYPE.get(model_type) if isinstance(model_type, str) else None
    if not named:
        example = by_type or "LlamaForCausalLM"
        raise FetchError(
            f"{where} names no architecture (architectures: {shown(named)})",
            hint=f'add "architectures": ["{example}"] to config.json'
            + ("" if by_type else ", with the class of the model"),
        )
    if not isinstance(named, list) or not isinstance(named[0], str):
        return ""
    first, expected = named[0], CLASSES.get(named[0])
    if (expected is not None and model_type is not None and model_type != expected.model_type) or (
        expected is None and by_type is not None and first.endswith(("ForCausalLM", "LMHeadModel"))
    ):
        raise FetchError(
            f"{where} says architectures {shown(first)} and model_type {shown(model_type)}; transformers goes by "
            f"model_type" + (f", which is {by_type}" if by_type else ""),
            hint="correct the wrong one in config.json",
        )
    return first
