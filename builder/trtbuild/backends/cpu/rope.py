"""Rotary positions and context limits, read from a config.json. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from trtbuild.backends.cpu.config import refuse_option
from trtbuild.backends.cpu.decoder import Rope
from trtbuild.model.rope import rope_settings
from trtbuild.untrusted import Fields


def read_context(architecture: str, config: Mapping[str, Any], fields: Fields) -> tuple[int, str]:
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


def read_rope(architecture: str, config: Mapping[str, Any], head_dim: int) -> Rope:
    """Return what the frequencies are computed from; whatever is missing or wrong in it shows here."""
    where = f"config.json of this {architecture}"
    raw = rope_settings(config, where)
    settings = Fields(where, raw)
    kind = raw["rope_type"] or "default"
    if settings.number("partial_rotary_factor", 1.0) != 1.0:
        raise refuse_option(architecture, "partial_rotary_factor", raw["partial_rotary_factor"], "1.0")
    if head_dim % 2:
        raise refuse_option(architecture, "head_dim", head_dim, "an even number: channels are rotated in pairs")
    theta = settings.number("rope_theta", 10000.0)
    if kind not in {"default", "longrope"} and architecture == "Phi3ForCausalLM":
        raise refuse_option(architecture, "rope_type", kind, "default or longrope, as in transformers")
    if kind == "default":
        return Rope(kind=kind, head_dim=head_dim, theta=theta)
    if kind == "linear":
        return Rope(kind=kind, head_dim=head_dim, theta=theta, factor=settings.number("factor"))
    if kind == "llama3":
        low, high = settings.number("low_freq_factor"), settings.number("high_freq_factor")
        if low >= high:
            raise refuse_option(architecture, "low_freq_factor", low, f"less than high_freq_factor={high:g}")
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
    raise refuse_option(architecture, "rope_type", kind, "default, linear, llama3 or longrope")


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
