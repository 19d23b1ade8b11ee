"""OPT: learned positions with two rows wasted, norms before each block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from trtbuild.backends.cpu.config import head_size, read_activation, refuse_option
from trtbuild.backends.cpu.decoder import Decoder
from trtbuild.backends.cpu.families.family import Family
from trtbuild.untrusted import Fields

if TYPE_CHECKING:  # a plan reads configurations without openvino
    from trtbuild.backends.cpu.graph import Graph, Node


def read(architecture: str, _config: Mapping[str, Any], fields: Fields) -> Decoder:
    """Return what its config.json describes."""
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    if not fields.flag("do_layer_norm_before", True):
        raise refuse_option(architecture, "do_layer_norm_before", False, "True (only opt-350m differs)")
    embedding = fields.size("word_embed_proj_dim", default=hidden)
    if embedding != hidden:
        raise refuse_option(architecture, "word_embed_proj_dim", embedding, str(hidden))
    if not fields.flag("layer_norm_elementwise_affine", True):
        raise refuse_option(architecture, "layer_norm_elementwise_affine", False, "True")
    if fields.flag("_remove_final_layer_norm"):
        raise refuse_option(architecture, "_remove_final_layer_norm", True, "False")
    return Decoder(
        architecture=architecture,
        layers=fields.size("num_hidden_layers"),
        hidden_size=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=head_size(hidden, heads, f"config.json of this {architecture}"),
        intermediate_size=fields.size("ffn_dim"),
        vocab_size=fields.size("vocab_size"),
        context_tokens=fields.size("max_position_embeddings"),
        context_reason="max_position_embeddings",
        norm="layer",
        epsilon=1e-5,
        activation=read_activation(architecture, fields.text("activation_function")),
        rope=None,
        # Source: transformers, models/opt/modeling_opt.py, OPTLearnedPositionalEmbedding.offset
        position_offset=2,
        tied=fields.flag("tie_word_embeddings"),
    )


def build(graph: Graph, on_layer: Callable[[int], None]) -> Node:
    """Return the logits."""
    decoder = graph.decoder
    root = "model.decoder"
    positions = graph.learned_positions(f"{root}.embed_positions.weight")
    hidden = graph.add(graph.embed(f"{root}.embed_tokens.weight"), positions)
    order = graph.axes(0, 2, 1, 3)
    for layer in range(decoder.layers):
        prefix = f"{root}.layers.{layer}"
        normed = graph.norm(hidden, f"{prefix}.self_attn_layer_norm")
        q, k, v = (
            graph.transpose(
                graph.split_heads(graph.linear(normed, f"{prefix}.self_attn.{kind}_proj"), decoder.heads), order
            )
            for kind in "qkv"
        )
        hidden = graph.add(hidden, graph.linear(graph.attend(layer, q, k, v), f"{prefix}.self_attn.out_proj"))
        inner = graph.linear(graph.norm(hidden, f"{prefix}.final_layer_norm"), f"{prefix}.fc1")
        hidden = graph.add(hidden, graph.linear(graph.activate(inner), f"{prefix}.fc2"))
        on_layer(layer)
    return graph.head(graph.norm(hidden, f"{root}.final_layer_norm"), f"{root}.embed_tokens.weight")


FAMILY = Family(
    architectures={"OPTForCausalLM": "OPT, except 350m"},
    read=read,
    build=build,
)
