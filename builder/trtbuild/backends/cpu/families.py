"""Which models the cpu backend builds itself, and what their config.json means.

It turns the many spellings of Hugging Face configurations into one :class:`Decoder` and refuses whatever it has no
parity test for. It does not touch weights or graphs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from trtbuild.catalog.models import rope_settings
from trtbuild.errors import SpecError
from trtbuild.untrusted import Fields, shown

Norm = Literal["rms", "rms_plus_one", "layer"]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]

GRAPH_VERSION = 1
"""Raised whenever the same checkpoint and options would give another engine; part of the engine key."""

COVERED: Mapping[str, str] = {
    "LlamaForCausalLM": "Llama 2, 3, 3.1, 3.2, 3.3 and models of the same shape",
    "MistralForCausalLM": "Mistral (within its sliding window, if it has one)",
    "Qwen2ForCausalLM": "Qwen2, Qwen2.5",
    "Qwen3ForCausalLM": "Qwen3, dense",
    "GemmaForCausalLM": "Gemma (first generation)",
    "Phi3ForCausalLM": "Phi-3, Phi-3.5-mini, Phi-4 (within the original context)",
    "GPT2LMHeadModel": "GPT-2",
    "OPTForCausalLM": "OPT, except 350m",
}
"""Architectures with a parity test against transformers, and what people call them."""

_NOT_COVERED: Mapping[str, str] = {
    "Gemma2ForCausalLM": "it caps attention scores with tanh, which OpenVINO's paged attention cannot do",
    "Gemma3ForCausalLM": "it alternates sliding windows, which have no parity test here",
    "MixtralForCausalLM": "mixtures of experts have no parity test here",
    "Qwen3MoeForCausalLM": "mixtures of experts have no parity test here",
    "FalconForCausalLM": "its parallel attention has no parity test here",
}

_ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


@dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary position embedding.

    Attributes:
        kind: ``default``, ``linear``, ``llama3`` or ``longrope``.
        head_dim: Channels that are rotated.
        theta: Base of the frequencies.
        factor: What frequencies are divided by (``linear``, ``llama3``).
        low_freq_factor: Where ``llama3`` starts to scale.
        high_freq_factor: Where ``llama3`` scales fully.
        original_tokens: Context before it was extended (``llama3``).
        short_factor: One divisor per pair of channels (``longrope``).
        attention_factor: What cosine and sine are multiplied with.
    """

    kind: str
    head_dim: int
    theta: float
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    original_tokens: float = 0.0
    short_factor: tuple[float, ...] = ()
    attention_factor: float = 1.0

    @property
    def inverse_frequencies(self) -> tuple[float, ...]:
        """Return one frequency per pair of channels, in float32 steps as the reference computes them.

        Source: transformers, modeling_rope_utils.py
        """
        import numpy as np  # here: a plan, and so a hit, does not need it

        one = np.float32(1.0)
        exponents = np.arange(0, self.head_dim, 2, dtype=np.float32) / np.float32(self.head_dim)
        powers = np.power(np.float32(self.theta), exponents, dtype=np.float32)
        found = one / powers
        if self.kind == "linear":
            found /= np.float32(self.factor)
        elif self.kind == "llama3":
            found = self._smoothed(found)
        elif self.kind == "longrope":
            found = one / (np.asarray(self.short_factor, dtype=np.float32) * powers)
        return tuple(found.tolist())

    def _smoothed(self, plain: Any) -> Any:
        """Return Llama 3.1's frequencies: low ones divided by ``factor``, high ones kept, a smooth ramp between."""
        import numpy as np

        low, high, original = self.low_freq_factor, self.high_freq_factor, self.original_tokens
        wavelengths = np.float32(2 * math.pi) / plain
        scaled = np.where(wavelengths > original / low, plain / np.float32(self.factor), plain)
        smooth = (np.float32(original) / wavelengths - np.float32(low)) / np.float32(high - low)
        ramp = (np.float32(1) - smooth) * scaled / np.float32(self.factor) + smooth * scaled
        is_medium = (wavelengths >= original / high) & (wavelengths <= original / low)
        return np.where(is_medium, ramp, scaled).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """A decoder-only transformer, as far as building its graph needs to know.

    Attributes:
        architecture: Name in config.json.
        context_tokens: Longest sequence for which the graph equals the reference implementation.
        context_reason: Which limit of the model ``context_tokens`` is, in words.
        rope: None for learned positions.
        position_offset: First row of the learned position table that is used (OPT wastes two).
        embedding_scale: What token embeddings are multiplied with.
        tied: The output head is the token embedding.
    """

    architecture: str
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    context_tokens: int
    context_reason: str
    norm: Norm
    epsilon: float
    activation: Activation
    rope: Rope | None
    position_offset: int = 0
    embedding_scale: float = 1.0
    tied: bool = False


def refusal(architecture: str) -> str:
    """Return why an architecture is not built here and what is, in one or two sentences."""
    reason = _NOT_COVERED.get(architecture, "it has no parity test here")
    covered = "; ".join(f"{name} ({people})" for name, people in COVERED.items())
    return f"the cpu backend does not build {architecture}: {reason}. It builds: {covered}"


def read_decoder(config: Mapping[str, Any]) -> Decoder:
    """Return the decoder a config.json describes.

    Raises:
        SpecError: The architecture or one of its options is not covered, or a value is missing.
    """
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else None
    architecture = first if isinstance(first, str) else "an unnamed architecture"
    if architecture not in COVERED:
        raise SpecError(refusal(architecture), hint="use a GPU backend for this model, or install optimum-intel")
    if config.get("quantization_config"):
        raise SpecError(
            "the checkpoint is quantized already (config.json has quantization_config)",
            hint="name the unquantized model; --quantization int8-weight-only makes it small again",
        )
    fields = Fields(f"config.json of this {architecture}", config)
    if architecture == "GPT2LMHeadModel":
        return _gpt2(fields)
    if architecture == "OPTForCausalLM":
        return _opt(fields)
    return _llama_like(architecture, config, fields)


def _refuse_option(architecture: str, name: str, value: object, expected: str) -> SpecError:
    return SpecError(
        f"{architecture} with {name}={shown(value)} is not covered by the cpu backend; expected {expected}",
        hint="use a GPU backend for this model",
    )


def _activation(architecture: str, name: str) -> Activation:
    activation = _ACTIVATIONS.get(name)
    if activation is None:
        raise _refuse_option(architecture, "activation", name, f"one of {', '.join(_ACTIVATIONS)}")
    return activation


def _head_dim(hidden: int, heads: int, where: str) -> int:
    if hidden % heads:
        raise SpecError(
            f"{where}: {heads} attention heads do not divide {hidden} channels",
            hint="compare it with the config.json of the original model on the hub",
        )
    return hidden // heads


def _llama_like(architecture: str, config: Mapping[str, Any], fields: Fields) -> Decoder:
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    kv_heads = fields.size("num_key_value_heads", default=heads)
    is_gemma = architecture == "GemmaForCausalLM"
    where = f"config.json of this {architecture}"
    head_dim = fields.size("head_dim", default=0) or _head_dim(hidden, heads, where)
    if heads % kv_heads:
        raise SpecError(
            f"{where}: {kv_heads} key/value heads do not divide {heads} attention heads",
            hint="compare it with the config.json of the original model on the hub",
        )
    context, reason = _context(architecture, config, fields)
    # Gemma's own configs say "gelu" (or null in hidden_activation) and mean the tanh approximation.
    # Source: transformers, models/gemma/configuration_gemma.py
    activation = "gelu_pytorch_tanh" if is_gemma else str(config.get("hidden_act", "silu"))
    return Decoder(
        architecture=architecture,
        layers=fields.size("num_hidden_layers"),
        hidden_size=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=fields.size("intermediate_size"),
        vocab_size=fields.size("vocab_size"),
        context_tokens=context,
        context_reason=reason,
        norm="rms_plus_one" if is_gemma else "rms",
        epsilon=fields.number("rms_norm_eps", 1e-6),
        activation=_activation(architecture, activation),
        rope=_rope(architecture, config, head_dim),
        embedding_scale=hidden**0.5 if is_gemma else 1.0,
        tied=fields.flag("tie_word_embeddings", is_gemma),
    )


def _gpt2(fields: Fields) -> Decoder:
    architecture = "GPT2LMHeadModel"
    hidden, heads = fields.size("n_embd"), fields.size("n_head")
    for name, expected in (
        ("scale_attn_weights", True),
        ("scale_attn_by_inverse_layer_idx", False),
        ("reorder_and_upcast_attn", False),
        ("add_cross_attention", False),
    ):
        if fields.flag(name, expected) != expected:
            raise _refuse_option(architecture, name, not expected, repr(expected))
    return Decoder(
        architecture=architecture,
        layers=fields.size("n_layer"),
        hidden_size=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=_head_dim(hidden, heads, f"config.json of this {architecture}"),
        intermediate_size=fields.size("n_inner", default=4 * hidden),
        vocab_size=fields.size("vocab_size"),
        context_tokens=fields.size("n_positions", "n_ctx"),
        context_reason="n_positions",
        norm="layer",
        epsilon=fields.number("layer_norm_epsilon", 1e-5),
        activation=_activation(architecture, fields.text("activation_function") or "gelu_new"),
        rope=None,
        tied=fields.flag("tie_word_embeddings", True),
    )


def _opt(fields: Fields) -> Decoder:
    architecture = "OPTForCausalLM"
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    if not fields.flag("do_layer_norm_before", True):
        raise _refuse_option(architecture, "do_layer_norm_before", False, "True (only opt-350m differs)")
    embedding = fields.size("word_embed_proj_dim", default=hidden)
    if embedding != hidden:
        raise _refuse_option(architecture, "word_embed_proj_dim", embedding, str(hidden))
    if fields.flag("_remove_final_layer_norm"):
        raise _refuse_option(architecture, "_remove_final_layer_norm", True, "False")
    return Decoder(
        architecture=architecture,
        layers=fields.size("num_hidden_layers"),
        hidden_size=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=_head_dim(hidden, heads, f"config.json of this {architecture}"),
        intermediate_size=fields.size("ffn_dim"),
        vocab_size=fields.size("vocab_size"),
        context_tokens=fields.size("max_position_embeddings"),
        context_reason="max_position_embeddings",
        norm="layer",
        epsilon=1e-5,
        activation=_activation(architecture, fields.text("activation_function") or "relu"),
        rope=None,
        # Source: transformers, models/opt/modeling_opt.py, OPTLearnedPositionalEmbedding.offset
        position_offset=2,
        tied=fields.flag("tie_word_embeddings", True),
    )


def _context(architecture: str, config: Mapping[str, Any], fields: Fields) -> tuple[int, str]:
    """Return the longest faithful sequence and the limit's name: windows and long-context tables end it early."""
    limits = {"max_position_embeddings": fields.size("max_position_embeddings")}
    # Qwen writes a window into every config and switches it off with use_sliding_window (default false).
    if fields.flag("use_sliding_window", not architecture.startswith("Qwen")):
        limits["sliding_window"] = fields.size("sliding_window", default=limits["max_position_embeddings"])
    where = f"config.json of this {architecture}"
    scaling = rope_settings(config, where)
    if scaling["rope_type"] == "longrope":
        limits["original_max_position_embeddings"] = Fields(where, scaling).size(
            "original_max_position_embeddings", default=limits["max_position_embeddings"]
        )
    reason = min(limits, key=lambda name: limits[name])
    return limits[reason], reason


def _rope(architecture: str, config: Mapping[str, Any], head_dim: int) -> Rope:
    """Return what the frequencies are computed from; whatever is missing or wrong in it shows here."""
    where = f"config.json of this {architecture}"
    raw = rope_settings(config, where)
    settings = Fields(where, raw)
    kind = raw["rope_type"] or "default"
    if settings.number("partial_rotary_factor", 1.0) != 1.0:
        raise _refuse_option(architecture, "partial_rotary_factor", raw["partial_rotary_factor"], "1.0")
    if head_dim % 2:
        raise _refuse_option(architecture, "head_dim", head_dim, "an even number: channels are rotated in pairs")
    theta = settings.number("rope_theta", 10000.0)
    if kind == "default":
        return Rope(kind=kind, head_dim=head_dim, theta=theta)
    if kind == "linear":
        return Rope(kind=kind, head_dim=head_dim, theta=theta, factor=settings.number("factor"))
    if kind == "llama3":
        low, high = settings.number("low_freq_factor"), settings.number("high_freq_factor")
        if low >= high:
            raise _refuse_option(architecture, "low_freq_factor", low, f"less than high_freq_factor={high:g}")
        return Rope(
            kind=kind,
            head_dim=head_dim,
            theta=theta,
            factor=settings.number("factor"),
            low_freq_factor=low,
            high_freq_factor=high,
            original_tokens=settings.number("original_max_position_embeddings"),
        )
    if kind == "longrope":
        return _longrope(where, raw, config, head_dim)
    raise _refuse_option(architecture, "rope_type", kind, "default, linear, llama3 or longrope")


def _longrope(where: str, raw: Mapping[str, Any], config: Mapping[str, Any], head_dim: int) -> Rope:
    settings = Fields(where, raw)
    context = Fields(where, config).size("max_position_embeddings")
    original = settings.size("original_max_position_embeddings")
    factor = settings.number("factor", context / original)
    default = 1.0 if factor <= 1.0 or original == 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return Rope(
        kind="longrope",
        head_dim=head_dim,
        theta=settings.number("rope_theta", 10000.0),
        short_factor=settings.numbers("short_factor", head_dim // 2),
        attention_factor=settings.number("attention_factor", default),
    )
