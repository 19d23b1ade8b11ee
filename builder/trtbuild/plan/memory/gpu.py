"""What one GPU must hold: weights, activations, runtime buffers, key/value cache. Pure arithmetic on catalog facts.

It decides the formulas and their constants and names a source for each. It does not decide what to build; the plan
compares these numbers with a machine. Activations and runtime buffers are estimates that lean to the high side, and the
lines say which is which.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from trtbuild.catalog import ModelInfo
from trtbuild.console.log import format_bytes
from trtbuild.plan.memory.cache import (
    KV_FRACTION,
    STATE_BYTES,
    cache_lines,
    stage_caches,
)
from trtbuild.plan.memory.layout import MIB, Layout, Limits, Line
from trtbuild.plan.memory.weights import StageWeights, stage_weights

RUNTIME_BASE_BYTES = 800 * MIB
"""CUDA context, cuBLAS and library workspaces of one rank.

Source: the log in TensorRT-LLM docs/source/legacy/reference/memory.md, FAQ 1: of 79.10 GiB 70.48 are available after an
engine of 6678 MiB, 1134 MiB of activations, 43 and 180 MB of buffers; 791 MiB remain unexplained. One log, one GPU.
"""

ACTIVATION_HIDDEN_WIDTHS = 10
ACTIVATION_INNER_WIDTHS = 3
"""Activations per token as multiples of the hidden size and of a rank's MLP width.

Estimate: memory.md says they grow as max_num_tokens times a factor of the network and keeps one layer alive. These two
give 1156 MiB where its log has 1134 MiB, for a 7B Llama and max_num_tokens 8192, the default since 0.11. The page names
neither: the model is read off the log's 6678 MiB of weights and 262,144 B of cache per token (8-bit weights and cache,
32 layers, 32 heads of 128), max_num_tokens is an assumption. It warns that FP8 matrices may take more than they should.
"""

DECODER_VOCABULARIES = 4
"""float32 rows of the vocabulary's width per slot and beam: logits, probabilities, and the two arrays top-p sorts.

Estimate: TensorRT-LLM cpp/tensorrt_llm/layers allocates its sampling workspaces per slot and vocabulary.
"""

NCCL_BYTES = 256 * MIB
"""Communicator buffers of a rank that talks to others. Estimate: NCCL's default channels and buffer sizes."""


@dataclass(frozen=True, kw_only=True)
class GpuMemory:
    """What the fullest rank needs, and what its GPU has left for the key/value cache.

    Attributes:
        weights_bytes: Weights of the rank with the most.
        activation_bytes: Activations.
        runtime_bytes: Context, decoder and communication buffers.
        kv_bytes_per_token: Key/value cache of one token on the rank with the most of it, without regard to windows.
        sequence_bytes: Cache of one sequence of the longest length there, windows regarded.
        gpu_bytes: Total memory of the GPU.
        kv_pool_bytes: Memory the runtime will give to the key/value cache; 0 when nothing is left.
        kv_tokens: Tokens that fit there.
        max_seq_len: Tokens of the longest sequence.
        max_batch_size: Slots.
        lines: The arithmetic.
    """

    weights_bytes: int
    activation_bytes: int
    runtime_bytes: int
    kv_bytes_per_token: int
    sequence_bytes: int
    gpu_bytes: int
    kv_pool_bytes: int
    kv_tokens: int
    max_seq_len: int
    max_batch_size: int
    lines: tuple[Line, ...]

    @property
    def fits(self) -> bool:
        """At least one sequence of the longest length can be served."""
        return self.kv_pool_bytes >= max(self.sequence_bytes, 1)

    @property
    def full_sequences(self) -> int:
        """Sequences of the longest length that fit at once."""
        return self.kv_pool_bytes // max(self.sequence_bytes, 1)

    @property
    def missing_bytes(self) -> int:
        """Memory a GPU would need in addition for one longest sequence; 0 when it fits."""
        if self.fits:
            return 0
        fixed = self.weights_bytes + self.activation_bytes + self.runtime_bytes
        needed = fixed + math.ceil(max(self.sequence_bytes, 1) / KV_FRACTION)
        return max(needed - self.gpu_bytes, 1)


def gpu_memory(
    model: ModelInfo, layout: Layout, limits: Limits, *, gpu_bytes: int, kv_fraction: float = KV_FRACTION
) -> GpuMemory:
    """Return what the fullest rank needs of a GPU with ``gpu_bytes`` of memory."""
    stages = stage_weights(model, layout)
    fullest = max(stages, key=lambda stage: stage.total)
    activations = _activation_line(model, layout, limits)
    runtime = tuple(_runtime_lines(model, layout, limits))
    runtime_bytes = sum(line.size_bytes for line in runtime)
    # The stage with the largest cache needs the most per token, the one with the most weights leaves the least room:
    # taking the worst of both is exact for one stage and on the safe side for more.
    cache = max(stage_caches(model, layout, limits), key=lambda cache: cache.sequence_bytes)
    free = gpu_bytes - fullest.total - activations.size_bytes - runtime_bytes
    pool = max(int(free * kv_fraction), 0)
    kv_lines = cache_lines(model, limits, cache=cache, free=free, pool=pool, kv_fraction=kv_fraction)
    return GpuMemory(
        weights_bytes=fullest.total,
        activation_bytes=activations.size_bytes,
        runtime_bytes=runtime_bytes,
        kv_bytes_per_token=cache.token_bytes,
        sequence_bytes=cache.sequence_bytes,
        gpu_bytes=gpu_bytes,
        kv_pool_bytes=pool,
        kv_tokens=pool // max(cache.token_bytes, 1),
        max_seq_len=limits.max_seq_len,
        max_batch_size=limits.max_batch_size,
        lines=(*_weight_lines(model, layout, fullest), activations, *runtime, *kv_lines),
    )


def _weight_lines(model: ModelInfo, layout: Layout, stage: StageWeights) -> Iterator[Line]:
    preset = layout.preset.name if layout.preset.bits != 16 else layout.dtype
    if model.pre_quantized and layout.preset.bits == 16:
        preset = f"{model.pre_quantized} as published"
    copies = layout.tp_size // model.kv_heads if layout.tp_size > model.kv_heads else 1
    copied = f", each of {model.kv_heads} kv heads on {copies} ranks" if copies > 1 else ""
    sizes = {size: stage.block_bytes.count(size) for size in stage.block_bytes}
    if len(sizes) == 1:
        layers = f"{stage.layers} of {model.layers} layers x {stage.block_bytes[0]:,} B"
    else:
        layers = f"{stage.layers} of {model.layers} layers of {len(sizes)} sizes, up to {max(sizes):,} B"
    yield Line(
        label="layers",
        formula=f"{layers} ({preset}, tp {layout.tp_size}{copied})",
        size_bytes=sum(stage.block_bytes),
        is_exact=model.is_exact and (not model.pre_quantized or model.storage is not None),
    )
    if stage.embedding_bytes:
        yield Line(
            label="embedding",
            formula=f"{model.vocab_size:,} x {model.embedding_size:,} x {layout.dtype_bytes} B, whole on each rank",
            size_bytes=stage.embedding_bytes,
        )
    if stage.head_bytes:
        is_shared = model.tied_embeddings and layout.shares_tied_head and layout.world_size == 1
        tied = "shared with the embedding; the final norm" if is_shared else ""
        cut = (
            f"{model.vocab_size:,} / tp {layout.tp_size} x {model.hidden_size:,} x {layout.dtype_bytes} B and the norm"
        )
        twice = ", a copy of the tied embedding" if model.tied_embeddings else ""
        yield Line(label="lm_head", formula=tied or cut + twice, size_bytes=stage.head_bytes)
    if stage.tower_bytes:
        yield Line(
            label="around the decoder",
            formula=f"vision tower, about {model.tower_parameters:,} x {layout.dtype_bytes} B, whole on each rank",
            size_bytes=stage.tower_bytes,
            is_exact=False,
        )


def _activation_line(model: ModelInfo, layout: Layout, limits: Limits) -> Line:
    # Experts of a token are computed side by side; dense models have one.
    inner = math.ceil(model.intermediate_size / layout.tp_size) * max(model.experts_per_token, 1)
    width = ACTIVATION_HIDDEN_WIDTHS * model.hidden_size + ACTIVATION_INNER_WIDTHS * inner
    return Line(
        label="activations",
        formula=f"{limits.max_num_tokens:,} tokens x ({ACTIVATION_HIDDEN_WIDTHS} x {model.hidden_size:,} + "
        f"{ACTIVATION_INNER_WIDTHS} x {inner:,}) x {layout.dtype_bytes} B",
        size_bytes=limits.max_num_tokens * width * layout.dtype_bytes,
        is_exact=False,
    )


def _runtime_lines(model: ModelInfo, layout: Layout, limits: Limits) -> Iterator[Line]:
    slots = limits.max_batch_size * limits.max_beam_width
    yield Line(
        label="CUDA context, workspaces",
        formula="per process",
        size_bytes=RUNTIME_BASE_BYTES,
        is_exact=False,
    )
    yield Line(
        label="decoder",
        formula=f"{slots:,} slots x ({DECODER_VOCABULARIES} x {model.vocab_size:,} + {limits.max_seq_len:,}) x 4 B",
        size_bytes=slots * (DECODER_VOCABULARIES * model.vocab_size + limits.max_seq_len) * 4,
        is_exact=False,
    )
    if state := sum(block.state_values for block in model.blocks):
        share = math.ceil(state / layout.world_size)
        yield Line(
            label="recurrent state",
            formula=f"{limits.max_batch_size:,} slots x {share:,} values x {STATE_BYTES} B",
            size_bytes=limits.max_batch_size * share * STATE_BYTES,
            is_exact=False,
        )
    if layout.world_size > 1:
        formula, size = f"NCCL {format_bytes(NCCL_BYTES)}", NCCL_BYTES
        if layout.tp_size > 1:
            formula += f" + all-reduce 2 x {limits.max_num_tokens:,} x {model.hidden_size:,} x {layout.dtype_bytes} B"
            size += 2 * limits.max_num_tokens * model.hidden_size * layout.dtype_bytes
        yield Line(label="communication", formula=formula, size_bytes=size, is_exact=False)
