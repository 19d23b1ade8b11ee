"""How matrices are kept in an engine: rounded to 16, 8 or 4 bits. Arrays in, arrays out."""

from __future__ import annotations

import numpy as np

from trtbuild.backends.cpu.weights import Array
from trtbuild.errors import ConvertError

INT4_GROUP = 128
"""Input channels that share a scale in int4 storage; falls back to the largest power of two that divides them."""

_FLOAT16_MAX = 65504.0


def float16(name: str, values: Array) -> Array:
    """Return values as float16, or refuse those that do not fit."""
    peak = float(np.max(np.abs(values), initial=0.0))
    if peak > _FLOAT16_MAX:
        raise ConvertError(
            f"tensor {name!r} holds {peak:g}, float16 ends at {_FLOAT16_MAX:g}",
            hint="use --dtype bfloat16 or --dtype float32 for this model",
        )
    return values.astype(np.float16)


def bfloat16_bits(values: Array) -> Array:
    """Return the upper 16 bits of float32 values, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))
    return (rounded >> 16).astype(np.uint16)


def quantize_int8(values: Array) -> tuple[Array, Array]:
    """Return ``int8[out, in]`` and ``float32[out, 1]``: one scale per output channel."""
    peak = np.max(np.abs(values), axis=1, keepdims=True)
    scale = np.where(peak == 0, 1, peak / np.float32(127)).astype(np.float32)
    return np.rint(values / scale).astype(np.int8), scale


def quantize_int4(values: Array) -> tuple[Array, Array]:
    """Return packed ``uint8[out * in / 2]`` (low nibble first) and ``float16[out, groups, 1]``."""
    rows, columns = values.shape
    group = INT4_GROUP
    while columns % group:
        group //= 2
    grouped = values.reshape(rows, columns // group, group)
    # The value of largest magnitude becomes -8, the one level more that signed 4-bit numbers have on that side.
    extreme = np.take_along_axis(grouped, np.abs(grouped).argmax(axis=2)[..., None], axis=2)
    scale = (extreme / np.float32(-8)).astype(np.float16)
    scale[scale == 0] = 1
    rounded = np.clip(np.rint(grouped / scale.astype(np.float32)), -8, 7).astype(np.int8)
    nibbles = rounded.reshape(-1).view(np.uint8) & 0x0F
    return (nibbles[0::2] | (nibbles[1::2] << 4)).astype(np.uint8), scale
