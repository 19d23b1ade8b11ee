"""How many weights a decoder has, part by part, from its shape alone.

It decides which tensors each architecture has. It does not know bytes or GPUs: ``memory`` does. Published totals of the
catalog's models, and of others, are recomputed with it in the tests, which is what makes both trustworthy.

Source: the modeling files of Hugging Face transformers for each architecture name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from trtbuild.catalog.blocks import Block


class Shape(Protocol):
    """What counting needs to know of a model; :class:`trtbuild.catalog.ModelInfo` has it all."""

    @property
    def architecture(self) -> str: ...  # noqa: D102
    @property
    def hidden_size(self) -> int: ...  # noqa: D102
    @property
    def head_dim(self) -> int: ...  # noqa: D102
    @property
    def vocab_size(self) -> int: ...  # noqa: D102
    @property
    def context_tokens(self) -> int: ...  # noqa: D102
    @property
    def tied_embeddings(self) -> bool: ...  # noqa: D102
    @property
    def attention_bias(self) -> bool: ...  # noqa: D102
    @property
    def qk_norm(self) -> bool: ...  # noqa: D102
    @property
    def embedding_size(self) -> int: ...  # noqa: D102
    @property
    def final_norm(self) -> bool: ...  # noqa: D102
    @property
    def new_decoder_architecture(self) -> bool: ...  # noqa: D102
    @property
    def blocks(self) -> tuple[Block, ...]: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class _Style:
    """The tensors an architecture has besides its matrices.

    Attributes:
        mlp_matrices: Matrices of an MLP: three where it is gated (gate, up, down), else two.
        layer_norms: Norm vectors per layer, in units of the hidden size (a LayerNorm has two, an RMSNorm one).
        final_norms: The same for the norm after the last layer.
        qk_norm: A vector of the head size for each of q and k.
        qkv_bias: Biases on q, k and v.
        all_biases: Biases on every matrix of a layer.
        head_bias: A bias on lm_head.
        position_rows: Rows of the position table beyond the context length, or None without a table.
        output_bias: ``attention_bias`` of config.json stands for the output matrix as well.
        router_bias: The router has a bias per expert.
        expert_biases: Biases on the matrices of experts, and an attention sink per head.
        shared_gate: A gate vector in front of the shared expert.
    """

    mlp_matrices: int = 3
    layer_norms: int = 2
    final_norms: int = 1
    qk_norm: bool = False
    qkv_bias: bool = False
    all_biases: bool = False
    head_bias: bool = False
    position_rows: int | None = None
    output_bias: bool = True
    router_bias: bool = False
    expert_biases: bool = False
    shared_gate: bool = False


_LLAMA = _Style()
_GEMMA3 = _Style(layer_norms=4, qk_norm=True)
_STYLES = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "MixtralForCausalLM": _LLAMA,
    "Phi3ForCausalLM": _LLAMA,
    "GemmaForCausalLM": _LLAMA,
    "Gemma2ForCausalLM": _Style(layer_norms=4),
    "Gemma3ForCausalLM": _GEMMA3,
    "Qwen2ForCausalLM": _Style(qkv_bias=True, output_bias=False),
    "Qwen2MoeForCausalLM": _Style(qkv_bias=True, output_bias=False, shared_gate=True),
    "Qwen3ForCausalLM": _Style(qk_norm=True),
    "Qwen3MoeForCausalLM": _Style(qk_norm=True),
    "Qwen3NextForCausalLM": _Style(qk_norm=True, shared_gate=True),
    "DeepseekV2ForCausalLM": _LLAMA,
    "DeepseekV3ForCausalLM": _Style(router_bias=True),
    "Glm4MoeForCausalLM": _Style(router_bias=True, output_bias=False),
    "Llama4ForCausalLM": _LLAMA,
    "GptOssForCausalLM": _Style(router_bias=True, expert_biases=True),
    "DeciLMForCausalLM": _LLAMA,
    "NemotronHForCausalLM": _Style(mlp_matrices=2, router_bias=True),
    "GraniteMoeHybridForCausalLM": _LLAMA,
    "GPT2LMHeadModel": _Style(mlp_matrices=2, layer_norms=4, final_norms=2, all_biases=True, position_rows=0),
    "OPTForCausalLM": _Style(mlp_matrices=2, layer_norms=4, final_norms=2, all_biases=True, position_rows=2),
    "FalconForCausalLM": _Style(mlp_matrices=2, layer_norms=2, final_norms=2),
    "PhiForCausalLM": _Style(mlp_matrices=2, layer_norms=2, final_norms=2, all_biases=True, head_bias=True),
}
# Wrappers whose decoder is counted by these rules; what is around it (a vision tower) is estimated, so none is exact.
_WRAPPED_STYLES = {
    "Gemma3ForConditionalGeneration": _GEMMA3,
    "Llama4ForConditionalGeneration": _LLAMA,
    "Mistral3ForConditionalGeneration": _LLAMA,
    "Qwen2VLForConditionalGeneration": _STYLES["Qwen2ForCausalLM"],
    "Qwen2_5_VLForConditionalGeneration": _STYLES["Qwen2ForCausalLM"],
    "Qwen3VLForConditionalGeneration": _STYLES["Qwen3ForCausalLM"],
    "Qwen3VLMoeForConditionalGeneration": _STYLES["Qwen3MoeForCausalLM"],
}


def exact_architectures() -> tuple[str, ...]:
    """Return the architectures whose parameters are counted exactly; others are estimated as Llama-like."""
    return tuple(sorted(_STYLES))


@dataclass(frozen=True, kw_only=True)
class BlockCounts:
    """Weights of one layer, by the part they are in.

    Attributes:
        q: Query matrix, the part of it that is cut over ranks.
        kv: Key and value matrices; what expands the latent of latent attention, which is cut like q.
        o: Output matrix of the attention.
        latent: What compresses queries, keys and values of latent attention, on every rank.
        mixer: What stands in place of attention.
        mlp: Matrices of a dense MLP or of shared experts.
        experts: Matrices of all routed experts.
        router: Expert router.
        bias: All biases.
        norm: All norms.
    """

    q: int
    kv: int
    o: int
    latent: int
    mixer: int
    mlp: int
    experts: int
    router: int
    bias: int
    norm: int

    @property
    def matrices(self) -> int:
        """Weights of the matrices that quantization applies to."""
        return self.q + self.kv + self.o + self.latent + self.mixer + self.mlp + self.experts

    @property
    def total(self) -> int:
        """All weights of the layer."""
        return self.matrices + self.router + self.bias + self.norm


@dataclass(frozen=True, kw_only=True)
class ParameterCounts:
    """Weights by the part they are in.

    Attributes:
        embedding: Token embedding table.
        positions: Position table and embedding projections; zero for rotary models.
        blocks: The layers.
        final_norm: Norm after the last layer.
        lm_head: Output projection when it is a tensor of its own; zero when tied to the embedding.
    """

    embedding: int
    positions: int
    blocks: tuple[BlockCounts, ...]
    final_norm: int
    lm_head: int

    @property
    def matrices(self) -> int:
        """Weights of all layers' matrices."""
        return sum(block.matrices for block in self.blocks)

    @property
    def total(self) -> int:
        """All weights of the model; a tied lm_head counts once."""
        layers = sum(block.total for block in self.blocks)
        return self.embedding + self.positions + layers + self.final_norm + self.lm_head


def count_parameters(shape: Shape) -> ParameterCounts:
    """Return the weights of a model by part; exact for :func:`exact_architectures`, else Llama-like."""
    style = _STYLES.get(shape.architecture) or _WRAPPED_STYLES.get(shape.architecture, _LLAMA)
    hidden = shape.hidden_size
    positions = 0
    if style.position_rows is not None:
        positions = (shape.context_tokens + style.position_rows) * hidden
    if shape.embedding_size != hidden:
        positions += 2 * shape.embedding_size * hidden
    head = shape.vocab_size * (hidden + (1 if style.head_bias else 0))
    rules = _Rules(
        style=style,
        hidden=hidden,
        norms=4 if shape.new_decoder_architecture else style.layer_norms,
        has_bias=shape.attention_bias,
        has_qk_norm=shape.qk_norm,
    )
    return ParameterCounts(
        embedding=shape.vocab_size * shape.embedding_size,
        positions=positions,
        blocks=tuple(_count_block(block, rules) for block in shape.blocks),
        final_norm=style.final_norms * hidden if shape.final_norm else 0,
        lm_head=0 if shape.tied_embeddings else head,
    )


@dataclass(frozen=True, kw_only=True)
class _Rules:
    """What counting a layer needs besides the layer."""

    style: _Style
    hidden: int
    norms: int
    has_bias: bool
    has_qk_norm: bool


@lru_cache(maxsize=4096)
def _count_block(block: Block, rules: _Rules) -> BlockCounts:
    style, hidden = rules.style, rules.hidden
    q_width, kv_width = block.heads * block.head_dim, block.kv_heads * block.head_dim
    q, kv, o, latent = hidden * q_width, 2 * hidden * kv_width, q_width * hidden, 0
    norm = (rules.norms if block.norms is None else block.norms) * hidden
    if block.latent is not None:
        of = block.latent
        q_width = block.heads * (of.nope_dim + of.rope_dim)
        q = (of.q_rank or hidden) * q_width
        kv = of.kv_rank * block.heads * (of.nope_dim + of.v_dim)
        o = block.heads * of.v_dim * hidden
        latent = hidden * (of.q_rank + of.kv_rank + of.rope_dim)
        norm += of.q_rank + of.kv_rank
    if block.is_gated_attention:
        q *= 2
    if (style.qk_norm or rules.has_qk_norm) and block.heads and block.latent is None:
        norm += 2 * block.head_dim
    matrix = style.mlp_matrices * hidden * block.inner
    experts = block.experts * matrix
    shared = style.mlp_matrices * hidden * block.shared_inner
    return BlockCounts(
        q=q,
        kv=kv,
        o=o,
        latent=latent,
        mixer=block.mixer_weights,
        mlp=shared if block.experts else matrix + shared,
        experts=experts,
        router=hidden * block.experts + (hidden if style.shared_gate and block.shared_inner else 0),
        bias=_count_biases(block, style, hidden, has_bias=rules.has_bias),
        norm=norm,
    )


def _count_biases(block: Block, style: _Style, hidden: int, *, has_bias: bool) -> int:
    q_width, kv_width = block.heads * block.head_dim, block.kv_heads * block.head_dim
    bias = 0
    if block.heads and (style.qkv_bias or style.all_biases or has_bias):
        bias += q_width + 2 * kv_width
    if block.heads and (style.all_biases or (has_bias and style.output_bias)):
        bias += hidden
    if style.all_biases:
        bias += block.inner + hidden
    if block.experts and style.router_bias:
        bias += block.experts
    if style.expert_biases:
        bias += block.experts * (2 * block.inner + hidden) + block.heads
    return bias


def next_token_parameters(shape: Shape, counts: ParameterCounts, config: Mapping[str, Any]) -> int:
    """Return the weights of published layers that predict tokens further ahead, which serving does not load.

    Source: DeepSeek-V3, README_WEIGHTS.md (a layer more, with embedding and lm_head of its own, two norms and a matrix
    in front, a norm behind); GLM-4.5 has the same. Qwen3-Next has one layer, without tables, and no key for it.
    """
    hidden = shape.hidden_size
    last = counts.blocks[-1].total + 2 * hidden * hidden + 3 * hidden
    if shape.architecture == "Qwen3NextForCausalLM":
        return last
    ahead = config.get("num_nextn_predict_layers")
    if not isinstance(ahead, int) or isinstance(ahead, bool) or not 0 < ahead <= len(counts.blocks):
        return 0
    return ahead * (last + 2 * counts.embedding)
