"""GPT-2: learned positions, and matrices stored as [in, out]."""

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
    hidden, heads = fields.size("n_embd"), fields.size("n_head")
    for name, expected in (
        ("scale_attn_weights", True),
        ("scale_attn_by_inverse_layer_idx", False),
        ("reorder_and_upcast_attn", False),
        ("add_cross_attention", False),
    ):
        if fields.flag(name, expected) != expected:
            raise refuse_option(architecture, name, not expected, repr(expected))
    return Decoder(
        architecture=architecture,
        layers=fields.size("n_layer"),
        hidden_size=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=head_size(hidden, heads, f"config.json of this {architecture}"),
        intermediate_size=fields.size("n_inner", default=4 * hidden),
        vocab_size=fields.size("vocab_size"),
        context_tokens=fields.size("n_positions"),
        context_reason="n_positions",
        norm="layer",
        epsilon=fields.number("layer_norm_epsilon"),
        activation=read_activation(architecture, fields.text("activation_function")),
        rope=None,
        tied=fields.flag("tie_word_embeddings"),
    )


def build(graph: Graph, on_layer: Callable[[int], None]) -> Node:
    """Return the logits."""
    decoder = graph.decoder
    root = "transformer"
    hidden = graph.add(graph.embed(f"{root}.wte.weight"), graph.learned_positions(f"{root}.wpe.weight"))
    order = graph.axes(0, 2, 1, 3)
    for layer in range(decoder.layers):
        prefix = f"{root}.h.{layer}"
        # GPT-2 stores matrices as [in, out].
        fused = graph.linear(graph.norm(hidden, f"{prefix}.ln_1"), f"{prefix}.attn.c_attn", transposed=True)
        parts = graph.split(fused, [decoder.hidden_size] * 3)
        q, k, v = (graph.transpose(graph.split_heads(part, decoder.heads), order) for part in parts)
        context = graph.attend(layer, q, k, v)
        hidden = graph.add(hidden, graph.linear(context, f"{prefix}.attn.c_proj", transposed=True))
        inner = graph.linear(graph.norm(hidden, f"{prefix}.ln_2"), f"{prefix}.mlp.c_fc", transposed=True)
        hidden = graph.add(hidden, graph.linear(graph.activate(inner), f"{prefix}.mlp.c_proj", transposed=True))
        on_layer(layer)
    return graph.head(graph.norm(hidden, f"{root}.ln_f"), f"{root}.wte.weight")


FAMILY = Family(
    architectures={"GPT2LMHeadModel": "GPT-2"},
    read=read,
    build=build,
)
