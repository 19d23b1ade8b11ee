"""Tiny checkpoints whose files contradict each other or leave something out, as found on the hub.

Each shape changes the plain checkpoint of a class; ``reference.json`` beside this file holds what transformers 4 and 5
generate from exactly these bytes, or that they refuse or invent something. ``tools/record_odd_models.py`` records it.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.data.cpu_parity.checkpoints import CONFIGS, make_tensors, safetensors_bytes

Tensors = dict[str, Any]
Config = dict[str, Any]
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
LINEAR = {"rope_type": "linear", "factor": 4.0}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
_LONGROPE: dict[str, Any] = CONFIGS["phi3-longrope"]["rope_scaling"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A checkpoint.

    Attributes:
        base: Name of the plain one in ``cpu_parity``.
        config: Keys of config.json to set; None removes, :data:`NULL` writes null.
        change: Changes the tensors in place.
        files: Returns what stands in each file instead of all tensors in ``model.safetensors``.
        index: Returns what the index says of the tensors in the files; None for no index.
        max_seq_len: Bound of the engine, for shapes that are faithful only that far.
        refused: What the refusal says, as a pattern; "" for shapes that are built.
    """

    base: str = "llama"
    config: Config = field(default_factory=dict)
    change: Callable[[Tensors], object] = lambda _: None
    files: Callable[[Tensors], dict[str, Tensors]] = lambda tensors: {SINGLE: tensors}
    index: Callable[[dict[str, Tensors]], dict[str, str]] | None = None
    max_seq_len: int | None = None
    refused: str = ""


NULL = object()


def _halves(tensors: Tensors) -> dict[str, Tensors]:
    names = list(tensors)
    return {
        f"model-0000{number + 1}-of-00002.safetensors": {name: tensors[name] for name in names[number::2]}
        for number in range(2)
    }


def _as_written(files: dict[str, Tensors]) -> dict[str, str]:
    return {name: file for file, tensors in files.items() if file != SINGLE for name in tensors}


def _others(tensors: Tensors) -> Tensors:
    return {name: np.roll(values, 3, axis=-1) for name, values in tensors.items()}


def _rename(old: str, new: str) -> Callable[[Tensors], object]:
    def change(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.startswith(old)]:
            tensors[new + name.removeprefix(old)] = tensors.pop(name)

    return change


def _add(name: str, *shape: int, scale: float = 0.5) -> Callable[[Tensors], object]:
    def change(tensors: Tensors) -> None:
        random = np.random.RandomState(zlib.crc32(name.encode()))
        tensors[name] = (scale * random.standard_normal(shape)).astype(np.float32)

    return change


def _all(*changes: Callable[[Tensors], object]) -> Callable[[Tensors], object]:
    def change(tensors: Tensors) -> None:
        for each in changes:
            each(tensors)

    return change


def _attention_biases(heads: int = 64, kv: int = 32) -> Callable[[Tensors], object]:
    return _all(
        *(
            _add(f"model.layers.{layer}.self_attn.{kind}_proj.bias", rows)
            for layer in range(3)
            for kind, rows in (("q", heads), ("k", kv), ("v", kv), ("o", 64))
        )
    )


def _drop(*names: str) -> Callable[[Tensors], object]:
    return lambda tensors: [tensors.pop(name) for name in names]


def _head_is_embedding(tensors: Tensors) -> None:
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()


def _pad_rows(name: str) -> Callable[[Tensors], object]:
    def change(tensors: Tensors) -> None:
        tensors[name] = np.concatenate([tensors[name], tensors[name][:16]])

    return change


NORM = "model.norm.weight"
PLAIN = {"rope_type": "default", "rope_theta": 1e6}
LAST = "model.layers.2.mlp.down_proj.weight"
_SHAPES: Mapping[str, Shape] = {
    # files
    "single beside a whole other set": Shape(
        files=lambda t: {SINGLE: t, **_halves(_others(t))}, index=_as_written
    ),
    "single beside a stale index": Shape(files=lambda t: {SINGLE: t}, index=lambda _: {"model.x": "gone.safetensors"}),
    "single beside a copy in another name": Shape(files=lambda t: {SINGLE: t, "model.fp16.safetensors": _others(t)}),
    "two shards": Shape(files=_halves, index=_as_written),
    "shards of a strange name": Shape(
        files=lambda t: {f"weights_{name}": part for name, part in _halves(t).items()}, index=_as_written
    ),
    "one file of a strange name": Shape(files=lambda t: {"weights.safetensors": t}),
    "shards without an index": Shape(files=_halves),
    "a tensor in two shards, differing": Shape(
        files=lambda t: {
            "a.safetensors": t, "b.safetensors": {LAST: np.roll(t[LAST], 1, axis=0)},
        },
        index=lambda files: {**dict.fromkeys(files["a.safetensors"], "a.safetensors"), LAST: "b.safetensors"},
    ),
    "a tensor in two shards, index names the first": Shape(
        files=lambda t: {
            "a.safetensors": t,
            "b.safetensors": {LAST: np.roll(t[LAST], 1, axis=0), NORM: t[NORM]},
        },
        index=lambda files: {**dict.fromkeys(files["a.safetensors"], "a.safetensors"), NORM: "b.safetensors"},
    ),
    "index names the wrong shard": Shape(
        files=_halves,
        index=lambda files: {
            name: sorted(files)[file == sorted(files)[0]] for name, file in _as_written(files).items()
        },
    ),
    "index leaves a tensor out": Shape(
        files=_halves,
        index=lambda files: {name: file for name, file in _as_written(files).items() if name != LAST},
    ),
    "a shard of another model beside": Shape(
        files=lambda t: {**_halves(t), "model-00003-of-00003.safetensors": _others(t)},
        index=lambda files: {name: file for name, file in _as_written(files).items() if "00003" not in file}
        | {name: file for file, part in files.items() if "of-00002" in file for name in part},
    ),
    # tensors
    "names of the bare decoder": Shape(
        base="qwen2-tied", change=_rename("model.", "")
    ),
    "names of the bare decoder, own head": Shape(change=_rename("model.", "")),
    "names with and without the prefix": Shape(change=_rename("model.layers.0.", "layers.0.")),
    "names with and without the prefix, twice": Shape(
        change=_all(lambda t: t.update({"norm.weight": 1.5 * t["model.norm.weight"]}))
    ),
    "gpt2 with the prefix": Shape(base="gpt2", change=_rename("", "transformer.")),
    "gpt2 with masks": Shape(
        base="gpt2",
        change=_all(
            *(_add(f"h.{layer}.attn.bias", 1, 1, 256, 256) for layer in range(3)),
            *(_add(f"h.{layer}.attn.masked_bias", 1) for layer in range(3)),
        ),
    ),
    "opt without the prefix": Shape(base="opt", change=_rename("model.", "")),
    "frequencies in the file": Shape(
        change=_all(*(_add(f"model.layers.{layer}.self_attn.rotary_emb.inv_freq", 8) for layer in range(3)))
    ),
    "tied, with the same head": Shape(base="llama3-scaled-tied", change=_head_is_embedding),
    "tied, with a head of its own": Shape(base="llama3-scaled-tied", change=_add("lm_head.weight", 320, 64)),
    "tied by default, with a head of its own": Shape(base="gemma", change=_add("lm_head.weight", 320, 64)),
    "untied without a head": Shape(change=_drop("lm_head.weight")),
    "tied is null": Shape(base="llama3-scaled-tied", config={"tie_word_embeddings": NULL}, change=_head_is_embedding),
    "tied is null, gemma": Shape(base="gemma", config={"tie_word_embeddings": NULL}),
    "tied is not said, gemma": Shape(base="gemma", config={"tie_word_embeddings": None}),
    "only the head of a tied model": Shape(
        base="llama3-scaled-tied", change=_rename("model.embed_tokens.weight", "lm_head.weight")
    ),
    "a missing norm": Shape(change=_drop("model.norm.weight")),
    "a missing layer norm": Shape(change=_drop("model.layers.1.input_layernorm.weight")),
    "a missing matrix": Shape(change=_drop(LAST)),
    "biases that config.json denies": Shape(change=_attention_biases()),
    "one bias that config.json denies": Shape(change=_add("model.layers.1.self_attn.q_proj.bias", 64)),
    "mlp biases that config.json denies": Shape(
        change=_all(*(_add(f"model.layers.{n}.mlp.down_proj.bias", 64) for n in range(3)))
    ),
    "biases that config.json asks for and the file lacks": Shape(config={"attention_bias": True}),
    "biases of a mistral": Shape(base="mistral-windowed", config={"attention_bias": True}, change=_attention_biases()),
    "an output bias of a qwen2": Shape(
        base="qwen2-tied",
        change=_all(*(_add(f"model.layers.{n}.self_attn.o_proj.bias", 64) for n in range(3))),
    ),
    "a bias of the head": Shape(change=_add("lm_head.bias", 320)),
    "norms of the heads in a llama": Shape(
        change=_all(
            *(_add(f"model.layers.{n}.self_attn.{kind}_norm.weight", 16) for n in range(3) for kind in "qk")
        )
    ),
    "a layer more than config.json says": Shape(config={"num_hidden_layers": 2}),
    "a layer less than config.json says": Shape(config={"num_hidden_layers": 4}),
    "more rows than vocab_size": Shape(
        change=_all(_pad_rows("model.embed_tokens.weight"), _pad_rows("lm_head.weight"))
    ),
    "fewer rows than vocab_size": Shape(config={"vocab_size": 384}),
    # config.json
    "rope_scaling default": Shape(config={"rope_scaling": {"rope_type": "default"}}),
    "rope_scaling empty": Shape(config={"rope_scaling": {}}),
    "linear, transformers 4": Shape(config={"rope_scaling": LINEAR}),
    "linear, old type": Shape(config={"rope_scaling": {"type": "linear", "factor": 4.0}}),
    "linear, transformers 5": Shape(
        config={"rope_theta": None, "rope_parameters": {**LINEAR, "rope_theta": 10000.0}}
    ),
    "linear in a mistral": Shape(base="mistral", config={"rope_scaling": LINEAR}),
    "type and rope_type differ": Shape(config={"rope_scaling": {**LINEAR, "type": "dynamic"}}),
    "scaling without a type": Shape(config={"rope_scaling": {"factor": 4.0}}),
    "theta in rope_parameters": Shape(
        config={"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 777.0}}
    ),
    "theta twice, alike": Shape(
        config={"rope_theta": 777.0, "rope_parameters": {"rope_type": "default", "rope_theta": 777.0}}
    ),
    "theta twice, differing": Shape(
        config={"rope_theta": 77777.0, "rope_parameters": {"rope_type": "default", "rope_theta": 777.0}}
    ),
    "theta not said": Shape(base="qwen3", config={"rope_theta": None}),
    "both, alike": Shape(config={"rope_parameters": {**LINEAR, "rope_theta": 10000.0}, "rope_scaling": LINEAR}),
    "both, linear by hand": Shape(
        config={"rope_theta": None, "rope_parameters": PLAIN, "rope_scaling": LINEAR}
    ),
    "both, yarn by hand": Shape(
        config={"rope_theta": None, "rope_parameters": PLAIN, "rope_scaling": YARN}
    ),
    "both, factors differ": Shape(
        config={"rope_parameters": {**LINEAR, "factor": 2.0, "rope_theta": 10000.0}, "rope_scaling": LINEAR}
    ),
    "dynamic, transformers 4": Shape(config={"rope_scaling": DYNAMIC}),
    "dynamic, transformers 5": Shape(
        config={"rope_theta": None, "rope_parameters": {**DYNAMIC, "rope_theta": 10000.0}}
    ),
    "yarn, transformers 4": Shape(config={"rope_scaling": YARN}),
    "yarn, transformers 5": Shape(config={"rope_theta": None, "rope_parameters": {**YARN, "rope_theta": 10000.0}}),
    "llama3, transformers 4": Shape(config={"rope_scaling": LLAMA3}),
    "llama3, transformers 5": Shape(
        config={"rope_theta": None, "rope_parameters": {**LLAMA3, "rope_theta": 500000.0}}
    ),
    "llama3, original context twice": Shape(
        config={"rope_scaling": LLAMA3, "original_max_position_embeddings": 32}
    ),
    "llama3, original context beside": Shape(
        config={
            "rope_scaling": {name: value for name, value in LLAMA3.items() if "original" not in name},
            "original_max_position_embeddings": 64,
        }
    ),
    "longrope, transformers 4": Shape(base="phi3-longrope", max_seq_len=128),
    "longrope, su": Shape(base="phi3-longrope", config={"rope_scaling": {**_LONGROPE, "type": "su"}}, max_seq_len=128),
    "longrope, transformers 5": Shape(
        base="phi3-longrope",
        config={
            "rope_theta": None, "rope_scaling": None, "original_max_position_embeddings": 128,
            "rope_parameters": {
                **{k: v for k, v in _LONGROPE.items() if k != "type"}, "rope_type": "longrope", "rope_theta": 10000.0,
                "original_max_position_embeddings": 128, "partial_rotary_factor": 1.0,
            },
        },
        max_seq_len=128,
    ),
    "longrope, original context not said": Shape(
        base="phi3-longrope", config={"original_max_position_embeddings": None}, max_seq_len=128
    ),
    "longrope with a factor": Shape(
        base="phi3-longrope",
        config={
            "rope_scaling": None, "rope_theta": None,
            "rope_parameters": {**_LONGROPE, "rope_type": "longrope", "factor": 2.0, "rope_theta": 10000.0},
        },
        max_seq_len=128,
    ),
    "longrope in a llama": Shape(config={"rope_scaling": {**_LONGROPE, "factor": 4.0}}, max_seq_len=128),
    "linear in a phi3": Shape(base="phi3", config={"rope_scaling": LINEAR}),
    "partial rotation": Shape(config={"partial_rotary_factor": 0.5}),
    "window not said, mistral": Shape(base="mistral-windowed", config={"sliding_window": None}),
    "epsilon not said, phi3": Shape(base="phi3", config={"rms_norm_eps": None}),
    "epsilon not said, llama": Shape(config={"rms_norm_eps": None}),
    "kv heads not said, mistral": Shape(base="mistral-windowed", config={"num_key_value_heads": None}),
    "kv heads null": Shape(base="llama-mha-bias", config={"num_key_value_heads": NULL}),
    "head_dim not said, qwen3": Shape(base="qwen3", config={"head_dim": None}),
    "head_dim null, llama": Shape(config={"head_dim": NULL}),
    "gelu in a gemma": Shape(base="gemma", config={"hidden_act": "gelu"}),
    "gelu tanh in a gemma": Shape(base="gemma", config={"hidden_act": "gelu_pytorch_tanh"}),
    "activation not said, gemma": Shape(base="gemma", config={"hidden_act": None, "hidden_activation": "gelu"}),
    "gelu in a llama": Shape(config={"hidden_act": "gelu"}),
    "gelu_new in a llama": Shape(config={"hidden_act": "gelu_new"}),
    "relu2 in a llama": Shape(config={"hidden_act": "relu2"}),
    "model_type of another class": Shape(config={"model_type": "qwen2"}),
    "architecture of another class": Shape(config={"architectures": ["Qwen3ForCausalLM"]}),
    "architectures not said": Shape(config={"architectures": None}),
    "model_type not said": Shape(config={"model_type": None}),
    "context not said": Shape(config={"max_position_embeddings": None}),
    "gpt2 in other names": Shape(
        base="gpt2",
        config={"n_embd": None, "n_head": None, "n_layer": None, "n_positions": None, "hidden_size": 64,
                "num_attention_heads": 4, "num_hidden_layers": 3, "max_position_embeddings": 256},
    ),
    "gpt2 in two names, differing": Shape(base="gpt2", config={"num_attention_heads": 2}),
    "gpt2 n_ctx alone": Shape(base="gpt2", config={"n_positions": None, "n_ctx": 256}),
    "opt without biases": Shape(
        base="opt", config={"enable_bias": False},
        change=lambda t: [t.pop(n) for n in list(t) if n.endswith(".bias") and "norm" not in n],
    ),
    "opt denies its biases": Shape(base="opt", config={"enable_bias": False}),
    "a text_config beside": Shape(config={"text_config": {"num_hidden_layers": 2, "hidden_size": 64}}),
    "own weight file named": Shape(
        config={"transformers_weights": "other.safetensors"},
        files=lambda t: {SINGLE: t, "other.safetensors": _others(t)},
    ),
    "float16 in the file, float32 in config.json": Shape(config={"torch_dtype": "float32", "dtype": "float16"}),
}  # fmt: skip

_REFUSED: Mapping[str, str] = {
    "one file of a strange name": "neither model.safetensors nor",
    "shards without an index": "neither model.safetensors nor",
    "a tensor in two shards, differing": "is in another shard too",
    "a tensor in two shards, index names the first": "is in another shard too",
    "index names the wrong shard": "says that tensor",
    "index leaves a tensor out": "says that tensor",
    "names with and without the prefix": "with and without",
    "names with and without the prefix, twice": "with and without",
    "tied, with a head of its own": "differs from 'model.embed_tokens.weight'",
    "tied by default, with a head of its own": "differs from 'model.embed_tokens.weight'",
    "untied without a head": "the files lack",
    "tied is null, gemma": "the files lack",
    "only the head of a tied model": "the files lack",
    "a missing norm": "the files lack",
    "a missing layer norm": "the files lack",
    "a missing matrix": "the files lack",
    "biases that config.json asks for and the file lacks": "the files lack",
    "norms of the heads in a llama": "the files hold",
    "a layer more than config.json says": "the files hold",
    "a layer less than config.json says": "the files lack",
    "more rows than vocab_size": "expected shape",
    "fewer rows than vocab_size": "expected shape",
    "type and rope_type differ": "says rope_type",
    "scaling without a type": "no rope_type, without",
    "theta twice, differing": "says rope_theta twice",
    "both, linear by hand": "describes rotary positions twice",
    "both, yarn by hand": "describes rotary positions twice",
    "both, factors differ": "describes rotary positions twice",
    "dynamic, transformers 4": "rope_type='dynamic'",
    "dynamic, transformers 5": "rope_type='dynamic'",
    "yarn, transformers 4": "rope_type='yarn'",
    "yarn, transformers 5": "rope_type='yarn'",
    "llama3, original context twice": "says original_max_position_embeddings twice",
    "longrope, original context not said": "config.json of this Phi3ForCausalLM has none of original_max",
    "longrope in a llama": "config.json of this LlamaForCausalLM has none of original_ma",
    "partial rotation": "partial_rotary_factor",
    "kv heads not said, mistral": "8 key/value heads do not divide|expected shape",
    "head_dim not said, qwen3": "expected shape",
    "relu2 in a llama": "activation",
    "model_type of another class": "and model_type",
    "architecture of another class": "and model_type",
    "architectures not said": "names no architecture",
    "context not said": "has no max_position",
    "gpt2 in two names, differing": "two names of one key",
    "gpt2 n_ctx alone": "has no n_positions",
    "own weight file named": "transformers_weights",
    "linear in a phi3": "rope_type='linear'",
}
SHAPES = {name: replace(shape, refused=_REFUSED.get(name, "")) for name, shape in _SHAPES.items()}
"""Shapes by name."""


def config_of(shape: Shape) -> Config:
    """Return the config.json of a shape."""
    config = {**CONFIGS[shape.base], "torch_dtype": "float32", **shape.config}
    return {name: None if value is NULL else value for name, value in config.items() if value is not None}


def write_shape(name: str, directory: Path) -> str:
    """Write a checkpoint; return the sha256 over its files."""
    shape = SHAPES[name]
    directory.mkdir(parents=True, exist_ok=True)
    config = config_of(shape)
    tensors = make_tensors(CONFIGS[shape.base], seed=zlib.crc32(name.encode()))
    shape.change(tensors)
    files = shape.files(tensors)
    digest = hashlib.sha256()
    contents = {"config.json": json.dumps(config, indent=1).encode()}
    contents |= {file: safetensors_bytes(part) for file, part in files.items()}
    if shape.index is not None:
        contents[INDEX] = json.dumps({"metadata": {}, "weight_map": shape.index(files)}).encode()
    for file, data in sorted(contents.items()):
        (directory / file).write_bytes(data)
        digest.update(file.encode() + b"\0" + data)
    return digest.hexdigest()


def prompts() -> list[list[int]]:
    """Return four prompts; the last one repeats itself, which shows where positions are wrong."""
    return [[5], [10, 200, 33, 17, 250], list(range(20, 40)), [7, 3, 9] * 12]
