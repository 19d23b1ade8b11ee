"""How much memory and room an engine needs, line by line. Pure arithmetic on catalog facts.

It decides the formulas and their constants and names a source for each. It does not decide what to build; the plan
compares these numbers with a machine. Weight and key/value bytes are exact for the layout TensorRT-LLM gives the
ranks, where the catalog counts a model's parameters exactly; activations, runtime buffers and host memory are estimates
that lean to the high side, and the lines say which is which.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trtbuild.catalog import Block, BlockCounts, ModelInfo, ParameterCounts, Preset, Storage, count_parameters
from trtbuild.errors import SpecError
from trtbuild.log import format_bytes

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "fp8": 1}
"""Bytes of one value by type name."""

MIB = 1 << 20
GIB = 1 << 30

KV_FRACTION = 0.9
"""Share of the memory that is free after loading which the runtime gives to the key/value cache.

Source: TensorRT-LLM docs/source/legacy/reference/memory.md, section 3.2: 90% when nothing is set.
"""

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

ENGINE_OVERHEAD = 1.02
ENGINE_BASE_BYTES = 16 * MIB
"""An engine file against its weights. Source: memory.md, FAQ 1: engine size is close to the weights' size; the rest is
the graph and its kernels."""

TOKENIZER_BYTES = 32 * MIB
"""Tokenizer and configuration files of a snapshot; the largest tokenizer.json of the catalog (Gemma 2) has 17 MB."""

STATE_BYTES = 4
"""Bytes of a value of a state-space mixer's state. Source: the models' mamba_ssm_dtype and mamba_ssm_cache_dtype,
float32 where they say anything; a release that keeps it in 16 bits needs half of it."""

TOOL_BYTES = 4 * GIB
"""Host memory of one Python process with torch, TensorRT and tensorrt_llm loaded. Estimate."""

SHM_BASE_BYTES = GIB
SHM_RANK_BYTES = 256 * MIB
"""Shared memory of one server and of each rank under mpirun: Python models' regions and NCCL's shared-memory transport.

Source: tensorrtllm_backend's documentation runs containers with --shm-size=2g, enough for 4 ranks by this formula.
"""


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


@dataclass(frozen=True, kw_only=True)
class HostRoom:
    """Disk, memory and shared memory that making and serving an engine takes, in bytes."""

    snapshot_bytes: int
    checkpoint_bytes: int
    engine_bytes: int
    convert_memory_bytes: int
    build_memory_bytes: int
    shm_bytes: int
    lines: tuple[Line, ...]

    @property
    def disk_bytes(self) -> int:
        """Disk at the fullest moment: snapshot, checkpoint and engine are all there."""
        return self.snapshot_bytes + self.checkpoint_bytes + self.engine_bytes

    @property
    def host_memory_bytes(self) -> int:
        """Host memory of the hungrier of conversion and build."""
        return max(self.convert_memory_bytes, self.build_memory_bytes)


def stage_layers(layers: int, pp_size: int) -> tuple[int, ...]:
    """Return the layers of each pipeline stage; the first stages take the remainder.

    Source: tensorrt_llm/mapping.py, Mapping.pp_layers, since TensorRT-LLM pull requests 3429 and 4399 (April and May
    2025). Before, in the 0.17 and 0.18 lines, a stage took layers // pp_size: there only an even cut is whole.
    """
    base, extra = divmod(layers, pp_size)
    return tuple(base + (1 if stage < extra else 0) for stage in range(pp_size))


def rank_kv_heads(kv_heads: int, tp_size: int) -> int:
    """Return the key/value heads a rank holds: a share, or a copy of one when there are more ranks than heads.

    Source: tensorrt_llm/layers/attention.py, num_attention_kv_heads.
    """
    return math.ceil(kv_heads / tp_size)


def _rank_cache_width(block: Block, tp_size: int) -> int:
    """Return the values of a layer's key/value cache per token on a rank; a latent is whole on every one."""
    if block.latent is not None:
        return block.latent.cache_width
    return 2 * rank_kv_heads(block.kv_heads, tp_size) * block.head_dim


def kv_bytes_per_token(model: ModelInfo, value_bytes: int = 2) -> int:
    """Return the key/value cache bytes of one token over the whole model, without copies."""
    return sum(block.cache_width for block in model.blocks) * value_bytes


def _packed_bytes(weights: int, bits: int, group_size: int, scale_bytes: int) -> int:
    size = math.ceil(weights * bits / 8)
    return size + (math.ceil(weights / group_size) * scale_bytes if group_size else 0)


def matrix_bytes(weights: int, layout: Layout) -> int:
    """Return the bytes of quantized matrices with their group scales (scales per channel are below 0.1%)."""
    preset = layout.preset
    if preset.bits == 16:
        return weights * layout.dtype_bytes
    return _packed_bytes(weights, preset.bits, preset.group_size, preset.group_scale_bytes)


def _rank_block_bytes(block: Block, counts: BlockCounts, layout: Layout) -> int:
    """Return the bytes of one layer on one rank."""
    tp = layout.tp_size
    if block.latent is None and block.kv_heads:
        kv = math.ceil(counts.kv * rank_kv_heads(block.kv_heads, tp) / block.kv_heads)
    else:
        kv = math.ceil(counts.kv / tp)
    experts = math.ceil(counts.experts / tp)
    rest = math.ceil((counts.q + counts.o + counts.mixer + counts.mlp + counts.experts) / tp) - experts
    rest += kv + counts.latent
    others = (counts.router + counts.bias + counts.norm) * layout.dtype_bytes
    stored = layout.storage
    if stored is None:
        return matrix_bytes(experts + rest, layout) + others
    packed = experts + rest if stored.parts == "matrices" else experts
    plain = (experts + rest - packed) * layout.dtype_bytes
    return _packed_bytes(packed, stored.bits, stored.group_size, stored.scale_bytes) + plain + others


@dataclass(frozen=True, kw_only=True)
class StageWeights:
    """Bytes of the weights of one rank of a pipeline stage, by part.

    Attributes:
        block_bytes: Each layer.
        embedding_bytes: Embedding and position tables.
        head_bytes: lm_head and the final norm.
        tower_bytes: What is around the decoder, such as a vision tower; an estimate.
    """

    block_bytes: tuple[int, ...]
    embedding_bytes: int
    head_bytes: int
    tower_bytes: int = 0

    @property
    def layers(self) -> int:
        """Layers of the stage."""
        return len(self.block_bytes)

    @property
    def total(self) -> int:
        """All weights of the rank."""
        return sum(self.block_bytes) + self.embedding_bytes + self.head_bytes + self.tower_bytes


def stage_weights(model: ModelInfo, layout: Layout) -> tuple[StageWeights, ...]:
    """Return the weights of one rank of every pipeline stage.

    Matrices are cut over ``tp_size``, key/value heads copied when there are fewer than ranks; norms, biases, routers
    and what compresses a latent are on every rank. The embedding table is whole on every rank of the first stage
    (converters shard it only with --use_parallel_embedding), lm_head is cut on the last one. A tied lm_head shares the
    table's memory only where the layout says so and both are whole and on the same rank.

    Weights that are quantized in a way config.json does not tell (``listed_bytes`` of a checkpoint without ``storage``)
    are taken as what the listing has beyond the tables, spread over the layers: an estimate.

    Source: tensorrt_llm/models/modeling_utils.py; release notes 0.16.0 (embedding sharing is automatic when possible).
    """
    counts, value = count_parameters(model), layout.dtype_bytes
    blocks = [_rank_block_bytes(b, c, layout) for b, c in zip(model.blocks, counts.blocks, strict=True)]
    blocks = _listed_blocks(model, layout, counts, blocks)
    tables = (counts.embedding + counts.positions) * value
    head = _head_weights(model, layout, counts)
    stages, done = [], 0
    for stage, layers in enumerate(stage_layers(model.layers, layout.pp_size)):
        is_first, is_last = stage == 0, stage == layout.pp_size - 1
        stages.append(
            StageWeights(
                block_bytes=tuple(blocks[done : done + layers]),
                embedding_bytes=tables if is_first else 0,
                head_bytes=(head + counts.final_norm) * value if is_last else 0,
                tower_bytes=model.tower_parameters * value if is_first else 0,
            )
        )
        done += layers
    return tuple(stages)


def _head_weights(model: ModelInfo, layout: Layout, counts: ParameterCounts) -> int:
    if model.tied_embeddings and layout.shares_tied_head and layout.world_size == 1:
        return 0
    if not model.tied_embeddings and layout.tp_size == 1:
        return counts.lm_head
    return math.ceil(model.vocab_size / layout.tp_size) * model.hidden_size


def _listed_blocks(model: ModelInfo, layout: Layout, counts: ParameterCounts, blocks: list[int]) -> list[int]:
    """Return the layers' bytes scaled to what the listing says, where nothing else tells how they are stored."""
    if not model.listed_bytes or (model.is_exact and not model.pre_quantized) or model.storage is not None:
        return blocks
    if layout.preset.bits != 16:
        return blocks
    whole = sum(block.total for block in counts.blocks) * layout.dtype_bytes
    around = (counts.embedding + counts.positions + counts.lm_head + model.tower_parameters) * layout.dtype_bytes
    share = max(model.listed_bytes - around, 0) / whole
    return [math.ceil(block * share) for block in blocks]


def checkpoint_bytes(model: ModelInfo, layout: Layout) -> int:
    """Return the weights of all ranks together: the size of a converted checkpoint."""
    return layout.tp_size * sum(stage.total for stage in stage_weights(model, layout))


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
    cache = max(_stage_caches(model, layout, limits), key=lambda cache: cache.sequence_bytes)
    free = gpu_bytes - fullest.total - activations.size_bytes - runtime_bytes
    pool = max(int(free * kv_fraction), 0)
    kv_lines = _kv_lines(model, limits, cache=cache, free=free, pool=pool, kv_fraction=kv_fraction)
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


@dataclass(frozen=True, kw_only=True)
class _StageCache:
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


def _stage_caches(model: ModelInfo, layout: Layout, limits: Limits) -> Iterator[_StageCache]:
    done = 0
    for layers in stage_layers(model.layers, layout.pp_size):
        token, sequence, windows = 0, 0, 0
        kinds: dict[str, int] = {}
        for block in model.blocks[done : done + layers]:
            size = _rank_cache_width(block, layout.tp_size) * layout.kv_bytes
            if not size:
                continue
            is_short = layout.has_windowed_cache and 0 < block.window_tokens < limits.max_seq_len
            token, windows = token + size, windows + is_short
            sequence += size * (block.window_tokens if is_short else limits.max_seq_len)
            kind = _cache_words(block, layout)
            kinds[kind] = kinds.get(kind, 0) + 1
        done += layers
        formula = " + ".join(kind.format(layers=count) for kind, count in kinds.items()) or "no layer has one"
        yield _StageCache(token_bytes=token, sequence_bytes=sequence, formula=formula, windows=windows)


def _cache_words(block: Block, layout: Layout) -> str:
    if block.latent is not None:
        return f"{{layers}} layers x {block.latent.cache_width} latent values x {layout.kv_bytes} B"
    heads = rank_kv_heads(block.kv_heads, layout.tp_size)
    return f"2 x {{layers}} layers x {heads} kv heads x {block.head_dim} x {layout.kv_bytes} B"


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


def _kv_lines(
    model: ModelInfo, limits: Limits, *, cache: _StageCache, free: int, pool: int, kv_fraction: float
) -> Iterator[Line]:
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


def host_room(model: ModelInfo, layout: Layout, *, workers: int = 1, is_calibrated: bool = False) -> HostRoom:
    """Return the room that fetching, converting, building and serving takes on the host.

    Args:
        model: The model.
        layout: How it is cut.
        workers: Ranks that are converted and built at the same time.
        is_calibrated: Quantization runs the model on calibration data first.
    """
    stages = stage_weights(model, layout)
    rank = max(stage.total for stage in stages)
    checkpoint = layout.tp_size * sum(stage.total for stage in stages)
    snapshot = model.stored_bytes + TOKENIZER_BYTES
    engine = math.ceil(checkpoint * ENGINE_OVERHEAD) + layout.world_size * ENGINE_BASE_BYTES
    copies = model.stored_bytes if is_calibrated else workers * rank
    convert = model.stored_bytes + copies + TOOL_BYTES
    build = workers * (2 * rank + TOOL_BYTES)
    shm = SHM_BASE_BYTES + (layout.world_size * SHM_RANK_BYTES if layout.world_size > 1 else 0)
    ranks = f"{layout.world_size} ranks"
    second = "a quantized copy" if is_calibrated else f"{workers} x {format_bytes(rank)} of a rank"
    lines = (
        snapshot_line(model),
        Line(label="disk: checkpoint", formula=f"weights of {ranks}", size_bytes=checkpoint, is_exact=model.is_exact),
        Line(label="disk: engine", formula=f"{ENGINE_OVERHEAD:g} x checkpoint", size_bytes=engine, is_exact=False),
        Line(
            label="host memory: conversion",
            formula=f"{format_bytes(model.stored_bytes)} model + {second} + {format_bytes(TOOL_BYTES)} tools",
            size_bytes=convert,
            is_exact=False,
        ),
        Line(
            label="host memory: build",
            formula=f"{workers} x (2 x {format_bytes(rank)} + {format_bytes(TOOL_BYTES)} tools)",
            size_bytes=build,
            is_exact=False,
        ),
        Line(
            label="shared memory",
            formula="1 GiB + 256 MiB per rank" if layout.world_size > 1 else "1 GiB",
            size_bytes=shm,
            is_exact=False,
        ),
    )
    return HostRoom(
        snapshot_bytes=snapshot,
        checkpoint_bytes=checkpoint,
        engine_bytes=engine,
        convert_memory_bytes=convert,
        build_memory_bytes=build,
        shm_bytes=shm,
        lines=lines,
    )


def snapshot_line(model: ModelInfo) -> Line:
    """Return the line of the download: as listed by the hub, else as counted."""
    known = "as listed" if model.listed_bytes else "as counted" if model.are_sizes_known else "estimated"
    return Line(
        label="disk: snapshot",
        formula=f"published weights, {known}, and tokenizer",
        size_bytes=model.stored_bytes + TOKENIZER_BYTES,
        is_exact=model.are_sizes_known,
    )


def estimate_warning(model: ModelInfo) -> str:
    """Return what to say of a model whose weights are not counted exactly."""
    how = "taken from the listing of its files" if model.listed_bytes else "estimated from config.json"
    return f"the sizes of {model.architecture} are not known exactly; its weights are {how}, memory figures may be off"


def build_workers(model: ModelInfo, layout: Layout, *, gpus: int, host_memory_bytes: int) -> int:
    """Return how many ranks to build at once: no more than GPUs, ranks, or what the host's memory carries."""
    rank = max(stage.total for stage in stage_weights(model, layout))
    by_memory = host_memory_bytes // (2 * rank + TOOL_BYTES)
    return max(1, min(gpus, layout.world_size, by_memory))


def text_lines(lines: Sequence[Line]) -> tuple[str, ...]:
    """Return lines of arithmetic as printed."""
    return tuple(line.text() for line in lines)
