"""Which models the cpu backend builds itself: one file per family, with its config.json and its graph.

It refuses whatever has no parity test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from trtbuild.backends.cpu.decoder import Decoder
from trtbuild.backends.cpu.families import gpt2, llama, opt
from trtbuild.backends.cpu.families.family import Family
from trtbuild.errors import SpecError
from trtbuild.model.config import resolve_config
from trtbuild.model.tensors import expected_tensors
from trtbuild.untrusted import Fields

GRAPH_VERSION = 2
"""Raised whenever the same checkpoint and options would give another engine; part of the engine key."""

FAMILIES = (llama.FAMILY, gpt2.FAMILY, opt.FAMILY)

COVERED: Mapping[str, str] = {name: people for family in FAMILIES for name, people in family.architectures.items()}
"""Architectures with a parity test against transformers, and what people call them."""

_NOT_COVERED: Mapping[str, str] = {
    "Gemma2ForCausalLM": "it caps attention scores with tanh, which OpenVINO's paged attention cannot do",
    "Gemma3ForCausalLM": "it alternates sliding windows, which have no parity test here",
    "MixtralForCausalLM": "mixtures of experts have no parity test here",
    "Qwen3MoeForCausalLM": "mixtures of experts have no parity test here",
    "FalconForCausalLM": "its parallel attention has no parity test here",
}


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
    where = f"config.json of this {architecture}"
    resolved = resolve_config(config, where)
    decoder = family_of(architecture).read(architecture, resolved, Fields(where, resolved))
    return replace(decoder, tensors=expected_tensors(resolved) or {})


def family_of(architecture: str) -> Family:
    """Return the family of a covered architecture."""
    return next(family for family in FAMILIES if architecture in family.architectures)
