"""How checkpoints that are quantized already store their weights, and how many bytes that makes.

It decides which ``quantization_config`` says enough to count bytes. What a TensorRT-LLM release loads is ``llmapi``'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Storage:
    """How quantized weights are stored.

    Attributes:
        bits: Bits of a quantized weight.
        group_size: Weights that share a scale.
        scale_bytes: Bytes of a scale.
        parts: What is quantized: every matrix of the layers, or those of the experts.
    """

    bits: int
    group_size: int
    scale_bytes: int
    parts: Literal["matrices", "experts"]


def read_storage(settings: Mapping[str, Any]) -> Storage | None:
    """Return how weights are stored by config.json's ``quantization_config``; None where that does not tell all.

    Source: DeepSeek-V3, README_WEIGHTS.md (fp8 with a float32 scale for each block); OCP Microscaling Formats 1.0 and
    the gpt-oss model card (mxfp4 for the experts, a byte of scale for 32 weights).
    """
    method, block = settings.get("quant_method"), settings.get("weight_block_size")
    if method == "fp8" and isinstance(block, list) and len(block) == 2 and all(_is_size(each) for each in block):
        return Storage(bits=8, group_size=block[0] * block[1], scale_bytes=4, parts="matrices")
    if method == "mxfp4":
        return Storage(bits=4, group_size=32, scale_bytes=1, parts="experts")
    return None


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 1 << 16


def packed_bytes(stored_parameters: int, quantized: int, storage: Storage, value_bytes: int) -> int:
    """Return the bytes of a checkpoint of which ``quantized`` weights are packed; the rest has ``value_bytes`` each."""
    packed = math.ceil(quantized * storage.bits / 8) + math.ceil(quantized / storage.group_size) * storage.scale_bytes
    return packed + (stored_parameters - quantized) * value_bytes
