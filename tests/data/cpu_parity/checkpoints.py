"""Tiny random checkpoints of every family, the same bytes on every machine, made with numpy alone.

``numpy.random.RandomState`` is used because its stream is frozen (NEP 19); the reference tokens in ``reference.json``
belong to exactly these bytes, and carry their hash.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

VOCAB = 320
HIDDEN = 64
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 16
INNER = 128
LAYERS = 3

_LLAMA: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "vocab_size": VOCAB,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "rope_theta": 10000.0,
}
_LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0 + 0.05 * i for i in range(HEAD_DIM // 2)],
    "long_factor": [2.0 + 0.5 * i for i in range(HEAD_DIM // 2)],
}


def _config(model_type: str, architecture: str, **options: Any) -> dict[str, Any]:
    return {**_LLAMA, "model_type": model_type, "architectures": [architecture], **options}


CONFIGS: Mapping[str, dict[str, Any]] = {
    "llama": _config("llama", "LlamaForCausalLM"),
    "llama-mha-bias": _config(
        "llama", "LlamaForCausalLM", num_key_value_heads=HEADS, attention_bias=True, mlp_bias=True
    ),
    "llama3-scaled-tied": _config(
        "llama", "LlamaForCausalLM", rope_theta=500000.0, rope_scaling=_LLAMA3_SCALING, tie_word_embeddings=True
    ),
    "llama-linear-scaled": _config("llama", "LlamaForCausalLM", rope_scaling={"type": "linear", "factor": 4.0}),
    "mistral": _config("mistral", "MistralForCausalLM", sliding_window=None, head_dim=24),
    "mistral-windowed": _config("mistral", "MistralForCausalLM", sliding_window=128),
    "qwen2": _config("qwen2", "Qwen2ForCausalLM", sliding_window=128, use_sliding_window=False, max_window_layers=2),
    "qwen2-tied": _config("qwen2", "Qwen2ForCausalLM", tie_word_embeddings=True),
    "qwen3": _config("qwen3", "Qwen3ForCausalLM", head_dim=32, tie_word_embeddings=True, attention_bias=False),
    "gemma": _config(
        "gemma", "GemmaForCausalLM", head_dim=32, num_key_value_heads=1, tie_word_embeddings=True, hidden_act="gelu"
    ),
    "phi3": _config("phi3", "Phi3ForCausalLM", pad_token_id=0, sliding_window=None),
    "phi3-longrope": _config(
        "phi3",
        "Phi3ForCausalLM",
        pad_token_id=0,
        sliding_window=None,
        original_max_position_embeddings=128,
        rope_scaling=_LONGROPE,
    ),
    "gpt2": {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_embd": HIDDEN,
        "n_head": HEADS,
        "n_layer": LAYERS,
        "n_positions": 256,
        "vocab_size": VOCAB,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "opt": {
        "model_type": "opt",
        "architectures": ["OPTForCausalLM"],
        "hidden_size": HIDDEN,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "ffn_dim": INNER,
        "max_position_embeddings": 256,
        "vocab_size": VOCAB,
        "word_embed_proj_dim": HIDDEN,
        "do_layer_norm_before": True,
        "activation_function": "relu",
        "bos_token_id": 2,
        "eos_token_id": 2,
        "pad_token_id": 1,
    },
}
"""config.json by name of the checkpoint."""


def _llama_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    head_dim = config.get("head_dim", hidden // config["num_attention_heads"])
    q, kv = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    kind = config["model_type"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, hidden)
    for layer in range(config["num_hidden_layers"]):
        p = f"model.layers.{layer}"
        shapes |= {f"{p}.input_layernorm.weight": (hidden,), f"{p}.post_attention_layernorm.weight": (hidden,)}
        if kind == "phi3":
            shapes |= {f"{p}.self_attn.qkv_proj.weight": (q + 2 * kv, hidden)}
            shapes |= {f"{p}.mlp.gate_up_proj.weight": (2 * inner, hidden)}
        else:
            for name, rows in (("q", q), ("k", kv), ("v", kv)):
                shapes[f"{p}.self_attn.{name}_proj.weight"] = (rows, hidden)
                if kind == "qwen2" or config.get("attention_bias"):
                    shapes[f"{p}.self_attn.{name}_proj.bias"] = (rows,)
            shapes |= {f"{p}.mlp.gate_proj.weight": (inner, hidden), f"{p}.mlp.up_proj.weight": (inner, hidden)}
        if kind == "qwen3":
            shapes |= {f"{p}.self_attn.q_norm.weight": (head_dim,), f"{p}.self_attn.k_norm.weight": (head_dim,)}
        shapes |= {f"{p}.self_attn.o_proj.weight": (hidden, q), f"{p}.mlp.down_proj.weight": (hidden, inner)}
        if config.get("attention_bias"):
            shapes[f"{p}.self_attn.o_proj.bias"] = (hidden,)
        if config.get("mlp_bias"):
            shapes |= {f"{p}.mlp.{name}_proj.bias": (inner,) for name in ("gate", "up")}
            shapes[f"{p}.mlp.down_proj.bias"] = (hidden,)
    return shapes


def _gpt2_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden = config["n_embd"]
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (config["vocab_size"], hidden),
        "wpe.weight": (config["n_positions"], hidden),
        "ln_f.weight": (hidden,),
        "ln_f.bias": (hidden,),
    }
    for layer in range(config["n_layer"]):
        for name, columns in (
            ("attn.c_attn", (hidden, 3 * hidden)),
            ("attn.c_proj", (hidden, hidden)),
            ("mlp.c_fc", (hidden, 4 * hidden)),
            ("mlp.c_proj", (4 * hidden, hidden)),
        ):
            shapes |= {f"h.{layer}.{name}.weight": columns, f"h.{layer}.{name}.bias": columns[1:]}
        for name in ("ln_1", "ln_2"):
            shapes |= {f"h.{layer}.{name}.weight": (hidden,), f"h.{layer}.{name}.bias": (hidden,)}
    return shapes


def _opt_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner = config["hidden_size"], config["ffn_dim"]
    p = "model.decoder"
    shapes: dict[str, tuple[int, ...]] = {
        f"{p}.embed_tokens.weight": (config["vocab_size"], hidden),
        f"{p}.embed_positions.weight": (config["max_position_embeddings"] + 2, hidden),
        f"{p}.final_layer_norm.weight": (hidden,),
        f"{p}.final_layer_norm.bias": (hidden,),
    }
    for layer in range(config["num_hidden_layers"]):
        for name, rows, columns in (
            *((f"self_attn.{kind}_proj", hidden, hidden) for kind in ("q", "k", "v", "out")),
            ("fc1", inner, hidden),
            ("fc2", hidden, inner),
        ):
            shapes |= {f"{p}.layers.{layer}.{name}.weight": (rows, columns), f"{p}.layers.{layer}.{name}.bias": (rows,)}
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            shapes |= {f"{p}.layers.{layer}.{name}.weight": (hidden,), f"{p}.layers.{layer}.{name}.bias": (hidden,)}
    return shapes


def make_tensors(config: Mapping[str, Any], seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Return float32 tensors whose logits vary enough for greedy decoding to wander."""
    shapes = {"gpt2": _gpt2_shapes, "opt": _opt_shapes}.get(config["model_type"], _llama_shapes)(config)
    random = np.random.RandomState(seed)
    tensors = {}
    for name, shape in sorted(shapes.items()):
        values = random.standard_normal(shape)
        if "norm" in name or ".ln_" in name or name.startswith("ln_f"):
            base = 0.0 if name.endswith("bias") or config["model_type"] == "gemma" else 1.0
            values = base + 0.2 * values
        elif name.endswith("bias"):
            values = 0.1 * values
        elif "embed" in name or name.startswith(("wte", "wpe")):
            values = values * (0.15 if config["model_type"] == "gemma" else 0.6)
        else:
            values = values * 1.6 / math.sqrt(shape[-1])
        tensors[name] = values.astype(np.float32)
    return tensors


def safetensors_bytes(tensors: Mapping[str, np.ndarray[Any, Any]], dtype: str = "F32") -> bytes:
    """Return a safetensors file of float32 tensors, stored as ``F32``, ``F16`` or ``BF16`` (truncated)."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    parts, offset = [], 0
    for name, values in tensors.items():
        if dtype == "BF16":
            data = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
        else:
            data = values.astype("<f2" if dtype == "F16" else "<f4").tobytes()
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
        parts.append(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(parts)


def write_checkpoint(name: str, directory: Path, *, dtype: str = "F32", shards: int = 1) -> str:
    """Write the checkpoint called ``name``; return the sha256 over its tensors as float32."""
    config = {**CONFIGS[name], "torch_dtype": {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[dtype]}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=1))
    tensors = make_tensors(config, seed=zlib.crc32(name.encode()))
    if shards == 1:
        (directory / "model.safetensors").write_bytes(safetensors_bytes(tensors, dtype))
    else:
        names = list(tensors)
        weight_map: dict[str, str] = {}
        for shard in range(shards):
            file_name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
            part = {key: tensors[key] for key in names[shard::shards]}
            weight_map |= dict.fromkeys(part, file_name)
            (directory / file_name).write_bytes(safetensors_bytes(part, dtype))
        (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return hashlib.sha256(safetensors_bytes(tensors)).hexdigest()


def prompts() -> list[list[int]]:
    """Return prompts of different lengths, the longest longer than one KV block of 32 tokens."""
    random = np.random.RandomState(7)
    return [[int(token) for token in random.randint(3, VOCAB, size=length)] for length in (1, 5, 17, 33, 50)]
