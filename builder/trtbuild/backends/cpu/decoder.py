"""A decoder-only transformer, as far as its graph needs to be known. Pure values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Norm = Literal["rms", "rms_plus_one", "layer"]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]


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
        tensors: Shapes of the tensors that its class computes with, by name.
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
    tensors: Mapping[str, tuple[int, ...]] = field(default_factory=dict, compare=False, repr=False)

    def has(self, name: str) -> bool:
        """Tell whether the model's class computes with a tensor; what its files hold besides does not count."""
        return name in self.tensors
