"""Memory that an engine takes on a host: weights, key/value pool, the server itself. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trtbuild.catalog import ModelInfo
from trtbuild.console.log import format_bytes
from trtbuild.plan import Budget, EngineShape
from trtbuild.plan.memory import MIB, TOKENIZER_BYTES, Line, kv_bytes_per_token
from trtbuild.spec import EngineSpec, HostInfo

BLOCK_TOKENS = 32
"""Tokens of one key/value block of OpenVINO's paged attention on CPUs."""

QUANTIZED_WEIGHTS: Mapping[str, tuple[str, float]] = {
    "int8-weight-only": ("int8", 1.0),
    # Embedding and output head stay int8; four bits and a float16 scale per 128 values for the rest.
    "int4-weight-only": ("int4", 0.6),
}
_TYPE_BYTES: Mapping[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2}

PROCESS_BYTES = 600 * MIB
"""Memory of the server, its Python models and the engine's libraries without any model."""

MEMORY_SHARE = 0.85
"""Share of the host's memory that an engine may plan with."""

_LOAD_FACTORS: Mapping[tuple[str, str], float] = {
    ("float32", "float32"): 1.05,
    ("float32", "bfloat16"): 1.3,
    ("bfloat16", "bfloat16"): 2.5,
    ("int8", "float32"): 1.4,
    ("int8", "bfloat16"): 1.4,
    ("int4", "float32"): 1.4,
    ("int4", "bfloat16"): 1.4,
}
_WIDENED_FACTOR = 3.6
"""Memory of a loaded engine against its weights' file, by stored and computed type; the second for 16-bit weights that
are computed in float32, which the plugin keeps twice: widened and repacked. The mapped file itself is not counted, the
kernel drops it when memory is short. Measured (VmRSS, anonymous part) on 124 M parameters with OpenVINO 2026.4."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """Memory of an engine on a host."""

    spec: EngineSpec
    info: ModelInfo
    host: HostInfo
    storage: str
    compute_type: str

    @property
    def engine_bytes(self) -> int:
        """Return the size of the engine's file."""
        per_value = next((size for name, size in QUANTIZED_WEIGHTS.values() if name == self.storage), None)
        return round(self.info.parameters * (per_value or _TYPE_BYTES[self.storage]) * 1.01) + 2 * MIB

    @property
    def kv_value_bytes(self) -> int:
        """Return the size of one cached value."""
        return 1 if self.spec.kv_cache_dtype == "int8" else _TYPE_BYTES[self.compute_type]

    @property
    def kv_token_bytes(self) -> int:
        """Return the cache that one token takes, over all layers."""
        return kv_bytes_per_token(self.info, self.kv_value_bytes)

    @property
    def loaded_bytes(self) -> int:
        """Return the memory of the loaded engine without its cache."""
        return round(self.engine_bytes * self.load_factor)

    @property
    def load_factor(self) -> float:
        """Return the loaded engine's size against its file's."""
        return _LOAD_FACTORS.get((self.storage, self.compute_type), _WIDENED_FACTOR)

    def pool_limit_tokens(self) -> int:
        """Return the most tokens that fit beside the weights, in whole blocks; plenty when the host is unknown."""
        if not self.host.memory_bytes:
            return 1 << 40
        free = self.host.memory_bytes * MEMORY_SHARE - self.loaded_bytes - PROCESS_BYTES
        return max(0, int(free // self.kv_token_bytes) // BLOCK_TOKENS * BLOCK_TOKENS)

    def lines(self, shape: EngineShape) -> tuple[Line, ...]:
        """Return how the figures come about."""
        pool = pool_tokens(shape)
        return (
            Line(
                label="engine file",
                size_bytes=self.engine_bytes,
                formula=f"{self.info.parameters:,} parameters as {self.storage}",
                is_exact=False,
            ),
            Line(
                label="engine in memory",
                size_bytes=self.loaded_bytes,
                formula=f"engine file x {self.load_factor} for {self.compute_type} arithmetic (measured)",
                is_exact=False,
            ),
            Line(
                label="key/value cache per token",
                size_bytes=self.kv_token_bytes,
                formula=f"2 x {self.info.layers} layers x {self.info.kv_heads} heads x {self.info.head_dim} "
                f"x {self.kv_value_bytes} bytes",
            ),
            Line(
                label="key/value pool",
                size_bytes=pool * self.kv_token_bytes,
                formula=f"{pool:,} tokens = {pool / shape.max_seq_len:.1f} sequences of {shape.max_seq_len}",
            ),
            Line(
                label="memory of this host",
                size_bytes=self.host.memory_bytes,
                formula=f"{MEMORY_SHARE:.0%} of it may be used, less {format_bytes(PROCESS_BYTES)} for the server",
            ),
        )

    def budget(self, shape: EngineShape) -> Budget:
        """Return the room that building and serving take."""
        # Constants that are stored as they are in the checkpoint are mapped; converted ones are held until saved.
        is_mapped = self.storage == self.info.dtype
        building = (0 if is_mapped else self.engine_bytes) + 512 * MIB
        serving = self.loaded_bytes + pool_tokens(shape) * self.kv_token_bytes + PROCESS_BYTES
        return Budget(
            snapshot_bytes=self.info.stored_bytes + TOKENIZER_BYTES,
            checkpoint_bytes=0,
            engine_bytes=self.engine_bytes,
            host_memory_bytes=max(building, serving),
            shm_bytes=64 * MIB,
        )


def pool_tokens(shape: EngineShape) -> int:
    """Return the tokens of the key/value pool."""
    tokens = shape.options["kv_cache_tokens"]
    assert isinstance(tokens, int)
    return tokens


def weights_are_widened(shape: EngineShape) -> bool:
    """Tell whether 16-bit weights are computed in float32."""
    return (shape.options["weights"], shape.options["compute_type"]) not in _LOAD_FACTORS
