"""Bytes of the weights: per matrix, rank and stage. Pure; exact for the layout that TensorRT-LLM gives the ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trtbuild.catalog import Block, BlockCounts, ModelInfo, ParameterCounts, count_parameters
from trtbuild.plan.memory.layout import Layout


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
    """Return the layers' bytes scaled to what the listing says, where nothing else says how they are stored."""
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
