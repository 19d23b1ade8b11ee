"""Bytes of the key/value cache, and of the states of layers that have none. Pure, and exact."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from trtbuild.catalog import Block, ModelInfo
from trtbuild.console.log import format_bytes
from trtbuild.errors import SpecError
from trtbuild.plan.memory.layout import Layout, Limits, Line
from trtbuild.plan.memory.weights import rank_kv_heads, stage_layers

KV_FRACTION = 0.9
"""Share of the memory that is free after loading which the runtime gives to the key/value cache.

Source: TensorRT-LLM docs/source/legacy/reference/memory.md, section 3.2: 90% when nothing is set.
"""

STATE_BYTES = 4
"""Bytes of a value of a state-space mixer's state. Source: the models' mamba_ssm_dtype and mamba_ssm_cache_dtype,
float32 where they say anything; a release that keeps it in 16 bits needs half of it."""


def kv_fraction(asked: float | None) -> float:
    """Return the share of free GPU memory for the key/value cache; None means upstream's default.

    Raises:
        SpecError: It is no share.
    """
    if asked is not None and not 0 < asked <= 1:
        raise SpecError(
            f"kv_cache_free_gpu_mem_fraction: expected more than 0 and at most 1, got {asked:g}",
            hint=f"upstream's default is {KV_FRACTION:g}",
        )
    return KV_FRACTION if asked is None else asked


def rank_cache_width(block: Block, tp_size: int) -> int:
    """Return the values of a layer's key/value cache per token on a rank; a latent is whole on every one."""
    if block.latent is not None:
        return block.latent.cache_width
    return 2 * rank_kv_heads(block.kv_heads, tp_size) * block.head_dim


def kv_bytes_per_token(model: ModelInfo, value_bytes: int = 2) -> int:
    """Return the key/value cache bytes of one token over the whole model, without copies."""
    return sum(block.cache_width for block in model.blocks) * value_bytes


@dataclass(frozen=True, kw_only=True)
class StageCache:
    """The key/value cache of one rank of a stage.

    Attributes:
        token_bytes: Of one token, in layers without regard to their windows.
        sequence_bytes: Of one sequence of the longest length.
        formula: How ``token_bytes`` comes about.
        windows: Layers whose window is shorter than the longest sequence.
    """

    token_bytes: int
    sequence_bytes: int
    formula: str
    windows: int


def stage_caches(model: ModelInfo, layout: Layout, limits: Limits) -> Iterator[StageCache]:
    """Yield what each stage of the pipeline caches."""
    done = 0
    for layers in stage_layers(model.layers, layout.pp_size):
        token, sequence, windows = 0, 0, 0
        kinds: dict[str, int] = {}
        for block in model.blocks[done : done + layers]:
            size = rank_cache_width(block, layout.tp_size) * layout.kv_bytes
            if not size:
                continue
            is_short = layout.has_windowed_cache and 0 < block.window_tokens < limits.max_seq_len
            token, windows = token + size, windows + is_short
            sequence += size * (block.window_tokens if is_short else limits.max_seq_len)
            kind = _cache_words(block, layout)
            kinds[kind] = kinds.get(kind, 0) + 1
        done += layers
        formula = " + ".join(kind.format(layers=count) for kind, count in kinds.items()) or "no layer has one"
        yield StageCache(token_bytes=token, sequence_bytes=sequence, formula=formula, windows=windows)


def _cache_words(block: Block, layout: Layout) -> str:
    if block.latent is not None:
        return f"{{layers}} layers x {block.latent.cache_width} latent values x {layout.kv_bytes} B"
    heads = rank_kv_heads(block.kv_heads, layout.tp_size)
    return f"2 x {{layers}} layers x {heads} kv heads x {block.head_dim} x {layout.kv_bytes} B"


def cache_lines(
    model: ModelInfo, limits: Limits, *, cache: StageCache, free: int, pool: int, kv_fraction: float
) -> Iterator[Line]:
    """Yield how the key/value cache of a rank comes about."""
    is_exact = model.is_exact
    yield Line(
        label="key/value cache per token", formula=cache.formula, size_bytes=cache.token_bytes, is_exact=is_exact
    )
    longest = f"{limits.max_seq_len:,} tokens x {cache.token_bytes:,} B"
    if cache.windows:
        longest = f"{limits.max_seq_len:,} tokens, {cache.windows} layers keep their window only"
    yield Line(label="one longest sequence", formula=longest, size_bytes=cache.sequence_bytes, is_exact=is_exact)
    yield Line(
        label="all slots at that length",
        formula=f"{limits.max_batch_size:,} x {cache.sequence_bytes:,} B",
        size_bytes=limits.max_batch_size * cache.sequence_bytes,
        is_exact=is_exact,
    )
    tokens, sequences = pool // max(cache.token_bytes, 1), pool // max(cache.sequence_bytes, 1)
    yield Line(
        label="key/value cache pool",
        formula=f"{kv_fraction:g} x {format_bytes(max(free, 0))} free: {tokens:,} tokens, "
        f"{sequences} longest sequences",
        size_bytes=pool,
        is_exact=False,
    )
