"""The tensors that a model's class computes with, held against those that its files have. Pure.

Missing ones would be random in transformers and are refused. Those that the class does not have are ignored by
transformers; the few kinds that are harmless are named here, biases are left out with a warning, and the rest is
refused: such a checkpoint is of another model than its config.json says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trtbuild.errors import FetchError
from trtbuild.model.config import CLASSES
from trtbuild.model.headers import Place
from trtbuild.untrusted import Fields, shown

Shapes = dict[str, tuple[int, ...]]

_FLOATS = ("F64", "F32", "F16", "BF16")
_HARMLESS: Mapping[str, str] = {
    ".rotary_emb.inv_freq": "frequencies, which config.json gives",
    ".embed_positions.inv_freq": "frequencies, which config.json gives",
    ".attn.bias": "GPT-2's causal mask",
    ".attn.masked_bias": "what GPT-2's mask writes",
}
"""Ends of the names of buffers that older releases of transformers saved, and what they hold."""
_SHOWN = 5


def expected_tensors(config: Mapping[str, Any]) -> Shapes | None:
    """Return the shape of each tensor that the class of a resolved config.json computes with; None if not known.

    Source: transformers 4.57 and 5.24, models/*/modeling_*.py: the modules of each class.
    """
    architectures = config.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else None
    if not isinstance(architecture, str) or architecture not in CLASSES:
        return None
    fields = Fields(f"config.json of this {architecture}", config)
    if architecture == "GPT2LMHeadModel":
        return _gpt2(fields)
    if architecture == "OPTForCausalLM":
        return _opt(fields)
    return _llama(architecture, fields)


def _llama(architecture: str, fields: Fields) -> Shapes:
    hidden, inner = fields.size("hidden_size"), fields.size("intermediate_size")
    vocab, heads = fields.size("vocab_size"), fields.size("num_attention_heads")
    head_dim = fields.size("head_dim", default=max(1, hidden // heads))
    q, kv = heads * head_dim, fields.size("num_key_value_heads", default=heads) * head_dim
    has_bias = fields.flag("attention_bias") and architecture in {
        "LlamaForCausalLM", "Qwen3ForCausalLM", "GemmaForCausalLM",
    }  # fmt: skip
    has_mlp_bias = architecture == "LlamaForCausalLM" and fields.flag("mlp_bias")
    shapes: Shapes = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    if not fields.flag("tie_word_embeddings"):
        shapes["lm_head.weight"] = (vocab, hidden)

    def linear(name: str, rows: int, columns: int, *, bias: bool) -> None:
        shapes[f"{name}.weight"] = (rows, columns)
        if bias:
            shapes[f"{name}.bias"] = (rows,)

    for layer in range(fields.size("num_hidden_layers")):
        prefix = f"model.layers.{layer}"
        shapes[f"{prefix}.input_layernorm.weight"] = (hidden,)
        shapes[f"{prefix}.post_attention_layernorm.weight"] = (hidden,)
        if architecture == "Phi3ForCausalLM":
            linear(f"{prefix}.self_attn.qkv_proj", q + 2 * kv, hidden, bias=False)
            linear(f"{prefix}.mlp.gate_up_proj", 2 * inner, hidden, bias=False)
        else:
            for kind, rows in (("q", q), ("k", kv), ("v", kv)):
                linear(f"{prefix}.self_attn.{kind}_proj", rows, hidden, bias=has_bias or "Qwen2" in architecture)
            for kind in ("gate", "up"):
                linear(f"{prefix}.mlp.{kind}_proj", inner, hidden, bias=has_mlp_bias)
        linear(f"{prefix}.self_attn.o_proj", hidden, q, bias=has_bias)
        linear(f"{prefix}.mlp.down_proj", hidden, inner, bias=has_mlp_bias)
        if architecture == "Qwen3ForCausalLM":
            shapes |= {f"{prefix}.self_attn.{kind}_norm.weight": (head_dim,) for kind in "qk"}
    return shapes


def _gpt2(fields: Fields) -> Shapes:
    hidden, vocab = fields.size("n_embd"), fields.size("vocab_size")
    inner = fields.size("n_inner", default=4 * hidden)
    shapes: Shapes = {
        "transformer.wte.weight": (vocab, hidden),
        "transformer.wpe.weight": (fields.size("n_positions"), hidden),
        "transformer.ln_f.weight": (hidden,),
        "transformer.ln_f.bias": (hidden,),
    }
    if not fields.flag("tie_word_embeddings"):
        shapes["lm_head.weight"] = (vocab, hidden)
    for layer in range(fields.size("n_layer")):
        prefix = f"transformer.h.{layer}"
        for name, sizes in (  # stored as [in, out]
            ("attn.c_attn", (hidden, 3 * hidden)),
            ("attn.c_proj", (hidden, hidden)),
            ("mlp.c_fc", (hidden, inner)),
            ("mlp.c_proj", (inner, hidden)),
        ):
            shapes |= {f"{prefix}.{name}.weight": sizes, f"{prefix}.{name}.bias": sizes[1:]}
        for name in ("ln_1", "ln_2"):
            shapes |= {f"{prefix}.{name}.weight": (hidden,), f"{prefix}.{name}.bias": (hidden,)}
    return shapes


def _opt(fields: Fields) -> Shapes:
    hidden, inner, vocab = fields.size("hidden_size"), fields.size("ffn_dim"), fields.size("vocab_size")
    root = "model.decoder"
    shapes: Shapes = {
        f"{root}.embed_tokens.weight": (vocab, fields.size("word_embed_proj_dim", default=hidden)),
        # OPTLearnedPositionalEmbedding.offset
        f"{root}.embed_positions.weight": (fields.size("max_position_embeddings") + 2, hidden),
        f"{root}.final_layer_norm.weight": (hidden,),
        f"{root}.final_layer_norm.bias": (hidden,),
    }
    if not fields.flag("tie_word_embeddings"):
        shapes["lm_head.weight"] = (vocab, hidden)
    for layer in range(fields.size("num_hidden_layers")):
        prefix = f"{root}.layers.{layer}"
        for name, rows, columns in (
            *((f"self_attn.{kind}_proj", hidden, hidden) for kind in ("q", "k", "v", "out")),
            ("fc1", inner, hidden),
            ("fc2", hidden, inner),
        ):
            shapes[f"{prefix}.{name}.weight"] = (rows, columns)
            if fields.flag("enable_bias"):
                shapes[f"{prefix}.{name}.bias"] = (rows,)
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            shapes |= {f"{prefix}.{name}.weight": (hidden,), f"{prefix}.{name}.bias": (hidden,)}
    return shapes


@dataclass(frozen=True, kw_only=True)
class Match:
    """The tensors to compute with.

    Attributes:
        places: Where each expected tensor is, by the name that its class gives it.
        left_out: Names of tensors that transformers ignores with a warning, and so does every engine.
        own_head: Where an output head is that config.json ties to the embeddings; it must be equal to them.
    """

    places: Mapping[str, Place]
    left_out: tuple[str, ...]
    own_head: Place | None


def match_tensors(expected: Shapes, present: Mapping[str, Place], architecture: str) -> Match:
    """Hold the tensors of files against the ones that a class computes with.

    Raises:
        FetchError: One is missing, unknown, of another shape, or no floating-point number.
    """
    prefix = CLASSES[architecture].prefix
    named = _with_prefix(expected, present, prefix)
    own_head = named.pop("lm_head.weight", None) if "lm_head.weight" not in expected else None
    if missing := [name for name in expected if name not in named]:
        raise FetchError(
            f"the files lack {_some(missing)}, which a {architecture} of this config.json computes with; transformers "
            "would go on with random values",
            hint=_missing_hint(missing, expected, named),
        )
    ignored = [name for name in named if name not in expected and not name.endswith(tuple(_HARMLESS))]
    left_out = [name for name in ignored if name.endswith(".bias") and f"{name[:-5]}.weight" in expected]
    if unknown := sorted(set(ignored) - set(left_out)):
        raise FetchError(
            f"the files hold {_some(unknown)}, which a {architecture} of this config.json does not have: engines of "
            "this class would ignore them",
            hint="compare config.json (architectures, num_hidden_layers) with the one that the model was saved with",
        )
    for name, shape in expected.items():
        place = named[name]
        if place.shape != shape:
            raise FetchError(
                f"{place.path.name}: tensor {shown(place.name)}: expected shape {shape} by config.json, got "
                f"{place.shape}",
                hint="the weights are of another model than config.json, or one of them was edited: take both from one "
                "place",
            )
        if place.dtype not in _FLOATS:
            raise FetchError(
                f"{place.path.name}: tensor {shown(place.name)} has type {place.dtype}, expected one of "
                f"{', '.join(_FLOATS)}: config.json says nothing of a quantization",
                hint="use the unquantized checkpoint of the model",
            )
    return Match(places={name: named[name] for name in expected}, left_out=tuple(sorted(left_out)), own_head=own_head)


def _with_prefix(expected: Shapes, present: Mapping[str, Place], prefix: str) -> dict[str, Place]:
    """Return the tensors by their names in the whole model; the bare decoder is saved without the prefix."""
    bare = [name for name in present if name not in expected and prefix + name in expected]
    full = [name for name in present if name.startswith(prefix)]
    if bare and full:
        raise FetchError(
            f"the files hold names with and without {prefix!r} in front: {shown(full[0])} and {shown(bare[0])}; "
            "releases of transformers read such files differently",
            hint="save the model again with transformers (save_pretrained), and look at what it warns of",
        )
    if not bare:
        return dict(present)
    return {name if name in expected or name == "lm_head.weight" else prefix + name: at for name, at in present.items()}


def _missing_hint(missing: Sequence[str], expected: Shapes, named: Mapping[str, Place]) -> str:
    if missing == ["lm_head.weight"]:
        return 'if the model shares its embeddings with its output head, set "tie_word_embeddings": true in config.json'
    if all(name.endswith(".bias") for name in missing) and any(name in named for name in expected):
        return "if the model has no biases there, correct attention_bias or mlp_bias in config.json"
    return "a shard is missing, or config.json is of another model: compare it with the files of the original"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(map(shown, names[:_SHOWN]))}{more}"
