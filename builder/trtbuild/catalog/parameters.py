"""How many weights a decoder has, part by part, from its shape alone.

It decides which tensors each architecture has. It does not know bytes or GPUs: ``memory`` does. Published totals of the
catalog's models are recomputed with it in the tests, which is what makes both trustworthy.

Source: the modeling files of Hugging Face transformers for each architecture name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Shape(Protocol):
    """What counting needs to know of a model; :class:`trtbuild.catalog.ModelInfo` has it all."""

    @property
    def architecture(self) -> str: ...  # noqa: D102
    @property
    def layers(self) -> int: ...  # noqa: D102
    @property
    def heads(self) -> int: ...  # noqa: D102
    @property
    def kv_heads(self) -> int: ...  # noqa: D102
    @property
    def hidden_size(self) -> int: ...  # noqa: D102
    @property
    def intermediate_size(self) -> int: ...  # noqa: D102
    @property
    def head_dim(self) -> int: ...  # noqa: D102
    @property
    def vocab_size(self) -> int: ...  # noqa: D102
    @property
    def context_tokens(self) -> int: ...  # noqa: D102
    @property
    def tied_embeddings(self) -> bool: ...  # noqa: D102
    @property
    def experts(self) -> int: ...  # noqa: D102
    @property
    def attention_bias(self) -> bool: ...  # noqa: D102
    @property
    def embedding_size(self) -> int: ...  # noqa: D102
    @property
    def final_norm(self) -> bool: ...  # noqa: D102
    @property
    def new_decoder_architecture(self) -> bool: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class _Style:
    """The tensors an architecture has besides its matrices.

    Attributes:
        gated_mlp: Three MLP matrices (gate, up, down) instead of two.
        layer_norms: Norm vectors per layer, in units of the hidden size (a LayerNorm has two, an RMSNorm one).
        final_norms: The same for the norm after the last layer.
        qk_norm: A vector of the head size for each of q and k.
        qkv_bias: Biases on q, k and v.
        all_biases: Biases on every matrix of a layer.
        head_bias: A bias on lm_head.
        position_rows: Rows of the position table beyond the context length, or None without a table.
    """

    gated_mlp: bool = True
    layer_norms: int = 2
    final_norms: int = 1
    qk_norm: bool = False
    qkv_bias: bool = False
    all_biases: bool = False
    head_bias: bool = False
    position_rows: int | None = None


_LLAMA = _Style()
_STYLES = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "MixtralForCausalLM": _LLAMA,
    "Phi3ForCausalLM": _LLAMA,
    "GemmaForCausalLM": _LLAMA,
    "Gemma2ForCausalLM": _Style(layer_norms=4),
    "Qwen2ForCausalLM": _Style(qkv_bias=True),
    "Qwen3ForCausalLM": _Style(qk_norm=True),
    "Qwen3MoeForCausalLM": _Style(qk_norm=True),
    "GPT2LMHeadModel": _Style(gated_mlp=False, layer_norms=4, final_norms=2, all_biases=True, position_rows=0),
    "OPTForCausalLM": _Style(gated_mlp=False, layer_norms=4, final_norms=2, all_biases=True, position_rows=2),
    "FalconForCausalLM": _Style(gated_mlp=False, layer_norms=2, final_norms=2),
    "PhiForCausalLM": _Style(gated_mlp=False, layer_norms=2, final_norms=2, all_biases=True, head_bias=True),
}


def exact_architectures() -> tuple[str, ...]:
    """Return the architectures whose parameters are counted exactly; others are estimated as Llama-like."""
    return tuple(sorted(_STYLES))


@dataclass(frozen=True, kw_only=True)
class ParameterCounts:
    """Weights by the part they are in; the parts a layer has are per layer.

    Attributes:
        embedding: Token embedding table.
        positions: Position table and embedding projections; zero for rotary models.
        q: Query matrix, one layer.
        kv: Key and value matrices, one layer.
        o: Output matrix of the attention, one layer.
        mlp: MLP matrices of all experts, one layer.
        router: Expert router, one layer.
        bias: All biases, one layer.
        norm: All norms, one layer.
        layers: Number of layers.
        final_norm: Norm after the last layer.
        lm_head: Output projection when it is a tensor of its own; zero when tied to the embedding.
    """

    embedding: int
    positions: int
    q: int
    kv: int
    o: int
    mlp: int
    router: int
    bias: int
    norm: int
    layers: int
    final_norm: int
    lm_head: int

    @property
    def layer(self) -> int:
        """Weights of one layer."""
        return self.q + self.kv + self.o + self.mlp + self.router + self.bias + self.norm

    @property
    def matrices(self) -> int:
        """Weights of the matrices of one layer that quantization applies to."""
        return self.q + self.kv + self.o + self.mlp

    @property
    def total(self) -> int:
        """All weights of the model; a tied lm_head counts once."""
        return self.embedding + self.positions + self.layers * self.layer + self.final_norm + self.lm_head


def count_parameters(shape: Shape) -> ParameterCounts:
    """Return the weights of a model by part; exact for :func:`exact_architectures`, else Llama-like."""
    style = _STYLES.get(shape.architecture, _LLAMA)
    hidden, inner = shape.hidden_size, shape.intermediate_size
    q_width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    experts = shape.experts or 1
    mlp_matrices = 3 if style.gated_mlp else 2
    bias = 0
    if style.qkv_bias or style.all_biases or shape.attention_bias:
        bias += q_width + 2 * kv_width
    if style.all_biases or (shape.attention_bias and not style.qkv_bias):
        bias += hidden
    if style.all_biases:
        bias += inner + hidden
    layer_norms = 4 if shape.new_decoder_architecture else style.layer_norms
    positions = 0
    if style.position_rows is not None:
        positions = (shape.context_tokens + style.position_rows) * hidden
    if shape.embedding_size != hidden:
        positions += 2 * shape.embedding_size * hidden
    head = shape.vocab_size * (hidden + (1 if style.head_bias else 0))
    return ParameterCounts(
        embedding=shape.vocab_size * shape.embedding_size,
        positions=positions,
        q=hidden * q_width,
        kv=2 * hidden * kv_width,
        o=q_width * hidden,
        mlp=experts * mlp_matrices * hidden * inner,
        router=hidden * experts if shape.experts else 0,
        bias=bias,
        norm=layer_norms * hidden + (2 * shape.head_dim if style.qk_norm else 0),
        layers=shape.layers,
        final_norm=style.final_norms * hidden if shape.final_norm else 0,
        lm_head=0 if shape.tied_embeddings else head,
    )
