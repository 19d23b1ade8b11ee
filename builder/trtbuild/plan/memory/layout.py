"""What memory figures are computed for, and how a line of them reads. Pure values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trtbuild.catalog import Preset, Storage
from trtbuild.console.log import format_bytes

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "fp8": 1}
"""Bytes of one value by type name."""

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of arithmetic.

    Attributes:
        label: What the bytes are for.
        formula: How they come about, with the numbers put in.
        size_bytes: The result.
        is_exact: False for an estimate.
    """

    label: str
    formula: str
    size_bytes: int
    is_exact: bool = True

    def text(self) -> str:
        """Return the line as printed by ``trtbuild plan``."""
        mark = "=" if self.is_exact else "~"
        return f"{self.label:<28} {mark} {format_bytes(self.size_bytes):>10}  {self.formula}"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an engine is built for. Lengths in tokens."""

    max_batch_size: int
    max_seq_len: int
    max_num_tokens: int
    max_beam_width: int = 1


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a model is cut and stored.

    Attributes:
        dtype: Compute type, which norms, embeddings and unquantized matrices are stored in.
        preset: Quantization of the layers' matrices.
        kv_cache_dtype: ``auto`` for the compute type, ``int8`` or ``fp8``.
        tp_size: Ranks that share each layer.
        pp_size: Groups of ranks that share the layers.
        storage: How a checkpoint that is quantized already stores its weights, which are loaded as they are.
        shares_tied_head: A tied lm_head is the embedding table in memory too. Engines hold it twice: those of
            Qwen2.5-0.5B are as large as two copies make them, in 16, 8 and 4 bits.
        has_windowed_cache: The runtime keeps no more of the cache of a layer than its attention window.
    """

    dtype: str
    preset: Preset
    kv_cache_dtype: str = "auto"
    tp_size: int = 1
    pp_size: int = 1
    storage: Storage | None = None
    shares_tied_head: bool = False
    has_windowed_cache: bool = False

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.tp_size * self.pp_size

    @property
    def dtype_bytes(self) -> int:
        """Bytes of one value of the compute type."""
        return DTYPE_BYTES[self.dtype]

    @property
    def kv_bytes(self) -> int:
        """Bytes of one value of the key/value cache."""
        return self.dtype_bytes if self.kv_cache_dtype == "auto" else DTYPE_BYTES[self.kv_cache_dtype]


def text_lines(lines: Sequence[Line]) -> tuple[str, ...]:
    """Return lines of arithmetic as printed."""
    return tuple(line.text() for line in lines)
