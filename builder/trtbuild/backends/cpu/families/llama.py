"""Llama and the families built like it: Mistral, Qwen, Gemma, Phi-3."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from trtbuild.backends.cpu.config import head_size, read_activation, refuse_option
from trtbuild.backends.cpu.decoder import Decoder
from trtbuild.backends.cpu.families.family import Family
from trtbuild.backends.cpu.rope import read_context, read_rope
from trtbuild.errors import SpecError
from trtbuild.untrusted import Fields

if TYPE_CHECKING:  # a plan reads configurations without openvino
    from trtbuild.backends.cpu.graph import Graph, Node


def read(architecture: str, config: Mapping[str, Any], fields: Fields) -> Decoder:
    """Return what its config.json describes."""
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    kv_heads = fields.size("num_key_value_heads", default=heads)
    is_gemma = architecture == "GemmaForCausalLM"
    where = f"config.json of this {architecture}"
    head_dim = fields.size("head_dim", default=0) or head_size(hidden, heads, where)
    if heads % kv_heads:
        raise SpecError(
            f"{where}: {kv_heads} key/value heads do not divide {heads} attention heads",
            hint="compare it with the config.json of the original model on the hub",
        )
    context, reason = read_context(architecture, config, fields)
    activation = str(config.get("hidden_act"))
    if is_gemma and activation == "gelu":
        # Its own first configs say "gelu" and mean the approximation; transformers 5 knows, 4 takes them at their word.
        # Source: transformers 5.24, models/gemma/configuration_gemma.py
        activation = "gelu_pytorch_tanh"
    if is_gemma and fields.flag("use_bidirectional_attention"):
        raise refuse_option(architecture, "use_bidirectional_attention", True, "False")
    return Decoder(
        architecture=architecture,
        layers=fields.size("num_hidden_layers"),
        hidden_size=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=fields.size("intermediate_size"),
        vocab_size=fields.size("vocab_size"),
        context_tokens=context,
        context_reason=reason,
        norm="rms_plus_one" if is_gemma else "rms",
        epsilon=fields.number("rms_norm_eps"),
        activation=read_activation(architecture, activation),
        rope=read_rope(architecture, config, head_dim),
        embedding_scale=hidden**0.5 if is_gemma else 1.0,
        tied=fields.flag("tie_word_embeddings"),
    )


def build(graph: Graph, on_layer: Callable[[int], None]) -> Node:
    """Return the logits."""
    decoder = graph.decoder
    hidden = graph.embed("model.embed_tokens.weight")
    for layer in range(decoder.layers):
        prefix = f"model.layers.{layer}"
        q, k, v = _project(graph, graph.norm(hidden, f"{prefix}.input_layernorm"), f"{prefix}.self_attn")
        context = graph.attend(layer, graph.rotate(q), graph.rotate(k), v)
        hidden = graph.add(hidden, graph.linear(context, f"{prefix}.self_attn.o_proj"))
        normed = graph.norm(hidden, f"{prefix}.post_attention_layernorm")
        gate, up = _gate_up(graph, normed, f"{prefix}.mlp")
        gated = graph.multiply(graph.activate(gate), up)
        hidden = graph.add(hidden, graph.linear(gated, f"{prefix}.mlp.down_proj"))
        on_layer(layer)
    hidden = graph.norm(hidden, "model.norm")
    return graph.head(hidden, "model.embed_tokens.weight")


def _project(graph: Graph, x: Node, name: str) -> tuple[Node, Node, Node]:
    """Return queries, keys and values, ``[batch, heads, new, head_dim]``, from three matrices or a fused one."""
    decoder = graph.decoder
    if decoder.has(f"{name}.qkv_proj.weight"):
        fused = graph.linear(x, f"{name}.qkv_proj")
        sizes = [decoder.heads * decoder.head_dim] + [decoder.kv_heads * decoder.head_dim] * 2
        parts = graph.split(fused, sizes)
    else:
        parts = [graph.linear(x, f"{name}.{kind}_proj") for kind in "qkv"]
    heads = (decoder.heads, decoder.kv_heads, decoder.kv_heads)
    split = [graph.split_heads(part, count) for part, count in zip(parts, heads, strict=True)]
    for index, kind in enumerate("qk"):  # Qwen3 normalises each head
        if decoder.has(f"{name}.{kind}_norm.weight"):
            split[index] = graph.norm(split[index], f"{name}.{kind}_norm")
    order = graph.axes(0, 2, 1, 3)
    q, k, v = (graph.transpose(part, order) for part in split)
    return q, k, v


def _gate_up(graph: Graph, x: Node, name: str) -> tuple[Node, Node]:
    if graph.decoder.has(f"{name}.gate_up_proj.weight"):
        gate, up = graph.split(graph.linear(x, f"{name}.gate_up_proj"), [graph.decoder.intermediate_size] * 2)
        return gate, up
    return graph.linear(x, f"{name}.gate_proj"), graph.linear(x, f"{name}.up_proj")


FAMILY = Family(
    architectures={
        "LlamaForCausalLM": "Llama 2, 3, 3.1, 3.2, 3.3 and models of the same shape",
        "MistralForCausalLM": "Mistral (within its sliding window, if it has one)",
        "Qwen2ForCausalLM": "Qwen2, Qwen2.5",
        "Qwen3ForCausalLM": "Qwen3, dense",
        "GemmaForCausalLM": "Gemma (first generation)",
        "Phi3ForCausalLM": "Phi-3, Phi-3.5-mini, Phi-4 (within the original context)",
    },
    read=read,
    build=build,
)
