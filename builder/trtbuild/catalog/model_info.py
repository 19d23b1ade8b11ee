"""What is known of a model without its weights, as a value.

It decides what follows from the facts: layers, bytes, whether they are known. Where they come from is ``models``' and
``model_config``'s part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from trtbuild.catalog.blocks import Block, window_pattern
from trtbuild.catalog.checkpoints import Storage, packed_bytes
from trtbuild.catalog.packages import Package
from trtbuild.catalog.parameters import count_parameters

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Types of published weights, and the bytes of a value."""


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What is known of a model without its weights.

    Attributes:
        name: Catalog alias, or the id of a model that is not in the catalog.
        model_id: Hugging Face id, or what the caller named.
        architecture: First entry of ``architectures`` in config.json.
        parameters: Weights a forward pass uses; a tied lm_head counts once.
        stored_parameters: Elements in the published weight files.
        is_exact: The parameter count is exact, not an estimate for an unknown architecture.
        layers: Decoder layers.
        heads: Query heads.
        kv_heads: Key/value heads.
        hidden_size: Width of the residual stream.
        intermediate_size: Width of the MLP (of one expert); where layers differ, of the widest.
        head_dim: Width of one head.
        vocab_size: Rows of the embedding table.
        context_tokens: Longest sequence the model was made for.
        tied_embeddings: lm_head is the embedding table.
        dtype: Type of the published weights.
        gated: The hub asks for an account that accepted the licence.
        licence: Name of the licence.
        aliases: Other accepted names.
        experts: Experts per layer; 0 for a dense model.
        experts_per_token: Experts a token visits.
        sliding_window_tokens: Attention window of (some) layers.
        tower_parameters: Weights around the decoder, such as a vision tower's; an estimate.
        own_blocks: The layers, where they are not all what the fields above say.
        attention_bias: Biases on the attention's matrices beyond what the architecture always has.
        qk_norm: Norms on the heads of q and k beyond what the architecture always has.
        embedding_size: Width of the embedding table; differs from hidden_size only in some OPT models.
        final_norm: There is a norm after the last layer.
        new_decoder_architecture: Falcon 40B and later: two norms per layer.
        pre_quantized: ``quant_method`` of already quantized weights, or "".
        storage: How those weights are stored, where config.json says it in a known way.
        listed_bytes: Bytes of the weight files by the hub's listing or in the directory; 0 until they are known.
        safetensors: The hub has safetensors, not only pickles.
        rope_type: How rotary positions are scaled, as config.json names it (``su`` is ``longrope``): ``default``,
            ``linear``, ``dynamic``, ``yarn``, ``llama3``, ``longrope``, ``mrope``; "" when it says nothing.
        original_context_tokens: Context before it was extended by such scaling; 0 when config.json names none.
        has_remote_code: config.json names Python code of the model's own (``auto_map``) for its configuration or class.
        package: The Python package that carries its weights; None for models of a hub or a directory.
        note: What people of other tools should know.
        config: The config.json that was read, for backends that know an architecture in depth; None for the catalog's.
    """

    name: str
    model_id: str
    architecture: str
    parameters: int
    layers: int
    heads: int
    kv_heads: int
    hidden_size: int
    intermediate_size: int
    head_dim: int
    vocab_size: int
    context_tokens: int
    tied_embeddings: bool
    dtype: str
    gated: bool = False
    licence: str = ""
    aliases: tuple[str, ...] = ()
    stored_parameters: int = 0
    is_exact: bool = True
    experts: int = 0
    experts_per_token: int = 0
    sliding_window_tokens: int = 0
    tower_parameters: int = 0
    own_blocks: tuple[Block, ...] = field(default=(), repr=False)
    attention_bias: bool = False
    qk_norm: bool = False
    embedding_size: int = 0
    final_norm: bool = True
    new_decoder_architecture: bool = False
    pre_quantized: str = ""
    storage: Storage | None = None
    listed_bytes: int = 0
    safetensors: bool = True
    rope_type: str = ""
    original_context_tokens: int = 0
    has_remote_code: bool = False
    package: Package | None = None
    note: str = ""
    config: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.embedding_size:
            object.__setattr__(self, "embedding_size", self.hidden_size)
        if not self.stored_parameters:
            object.__setattr__(self, "stored_parameters", self.parameters)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The decoder layers, each with its own shape."""
        if self.own_blocks:
            return self.own_blocks
        alike = Block(
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            inner=self.intermediate_size,
            experts=self.experts,
        )
        windows = window_pattern(self.architecture, self.layers, self.sliding_window_tokens)
        return tuple(replace(alike, window_tokens=window) for window in windows)

    @property
    def are_sizes_known(self) -> bool:
        """The bytes of the weights are counted exactly or listed, not estimated."""
        return bool(self.listed_bytes) or (self.is_exact and (not self.pre_quantized or self.storage is not None))

    @property
    def stored_bytes(self) -> int:
        """Bytes of the published weight files, without their headers (a few KiB per file).

        As listed, else as counted: an estimate unless :attr:`are_sizes_known`.
        """
        if self.listed_bytes:
            return self.listed_bytes
        value_bytes = DTYPE_BYTES[self.dtype]
        if self.storage is None:
            return self.stored_parameters * value_bytes
        counts = count_parameters(self)
        stored = list(counts.blocks)
        if self.stored_parameters > counts.total:  # a layer that predicts tokens further ahead is stored like the last
            stored.append(counts.blocks[-1])
        is_all = self.storage.parts == "matrices"
        quantized = sum(block.matrices if is_all else block.experts for block in stored)
        return packed_bytes(self.stored_parameters, quantized, self.storage, value_bytes)

    @classmethod
    def from_hf_config(cls, model_id: str, config: Mapping[str, Any]) -> ModelInfo:
        """Return the facts of a model from its parsed config.json.

        Reads the spellings of transformers 4 and 5 (``torch_dtype`` and ``dtype``), and the ``text_config`` of models
        that wrap a decoder, where what it leaves out is what its class in transformers has by default.

        Raises:
            FetchError: No architecture or a size is missing or not a positive number.
        """
        from trtbuild.catalog.model_config import read_model

        return read_model(model_id, config)
