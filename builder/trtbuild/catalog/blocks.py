"""What each decoder layer of a model consists of, read from config.json layer by layer.

It decides which spelling of experts, latent attention, state-space layers, pruned layers and attention windows means
what. It counts nothing: ``parameters`` does, from what is found here.

Source: Hugging Face transformers, models/<model_type>/configuration_*.py and modeling_*.py of the families named at
each function; for layers pruned by architecture search the models' own modeling_decilm.py, for Nemotron-H their own
modeling_nemotron_h.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from trtbuild.untrusted import Fields

_HEADS_LIMIT = 100_000
_EXPERT_COUNTS = ("n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts", "num_routed_experts")
_SHARED_WIDTHS = ("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "shared_intermediate_size")
_ATTENTION_KINDS = {
    "full_attention": "full", "attention": "full", "sliding_attention": "window", "chunked_attention": "full",
    "linear_attention": "linear", "mamba": "mamba",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Latent:
    """Multi-head latent attention: keys and values share one compressed vector per token.

    Attributes:
        q_rank: Width of the compressed query; 0 where the query is not compressed.
        kv_rank: Width of the compressed key and value.
        nope_dim: Part of a query head without rotary positions.
        rope_dim: Part of a query head with them.
        v_dim: Width of a value head.
    """

    q_rank: int
    kv_rank: int
    nope_dim: int
    rope_dim: int
    v_dim: int

    @property
    def cache_width(self) -> int:
        """Values of the cache per token and layer, on every rank: the latent is not cut over heads."""
        return self.kv_rank + self.rope_dim


@dataclass(frozen=True, kw_only=True)
class Block:
    """One decoder layer.

    Attributes:
        heads: Query heads; 0 for a layer without attention.
        kv_heads: Key/value heads.
        head_dim: Width of one head.
        latent: Set for latent attention, which has no key/value heads of its own.
        window_tokens: Tokens the attention sees; 0 for all.
        is_gated_attention: The query matrix has a gate of the same width beside it.
        mixer_weights: Weights of what stands in place of attention: a state-space or linear-attention mixer.
        state_values: Values such a mixer keeps for each running sequence, whatever its length.
        inner: Width of the MLP, of one expert where there are several; 0 for a layer without MLP.
        experts: Experts; 0 for a dense MLP.
        shared_inner: Width of all shared experts together.
        norms: Norm vectors of the layer's own, where they are not the architecture's usual ones.
    """

    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    latent: Latent | None = None
    window_tokens: int = 0
    is_gated_attention: bool = False
    mixer_weights: int = 0
    state_values: int = 0
    inner: int = 0
    experts: int = 0
    shared_inner: int = 0
    norms: int | None = None

    @property
    def cache_width(self) -> int:
        """Values in the key/value cache per token, over all heads."""
        return self.latent.cache_width if self.latent else 2 * self.kv_heads * self.head_dim


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What all layers of a model have in common, as the flat keys of config.json give it."""

    architecture: str
    layers: int
    hidden_size: int
    block: Block


def _optional(config: Fields, values: Mapping[str, Any], *names: str) -> int:
    """Return the first of ``names`` that is set to more than zero; 0 when none is.

    Raises:
        FetchError: It is no size.
    """
    return next((config.size(name) for name in names if values.get(name) not in (None, 0)), 0)


def read_blocks(frame: Frame, config: Fields, values: Mapping[str, Any]) -> tuple[tuple[Block, ...], tuple[str, ...]]:
    """Return the layers, and the keys whose meaning is not known here (the count is an estimate then).

    Raises:
        FetchError: A size among them is no size.
    """
    for key, read in (("block_configs", _searched_blocks), ("hybrid_override_pattern", _pattern_blocks)):
        if values.get(key):
            blocks = read(frame, config, values)
            return (blocks, ()) if len(blocks) == frame.layers else ((frame.block,) * frame.layers, (key,))
    unknown: list[str] = []
    base = replace(frame.block, latent=_latent(config, values))
    kinds = _attention_kinds(frame, config, values, unknown)
    sparse = _sparse_layers(frame, config, values)
    windows = _windows(frame, config, values)
    dense = _dense(frame, config, values)
    mlps = (dense, _experts(frame, config, values) if sparse else dense)
    found = []
    for layer, kind in enumerate(kinds):
        mlp = mlps[layer in sparse]
        block = replace(base, inner=mlp.inner, experts=mlp.experts, shared_inner=mlp.shared_inner)
        if kind in {"linear", "mamba"}:
            weights, state = _linear_mixer(frame, config) if kind == "linear" else _mamba_mixer(frame, config)
            block = replace(block, heads=0, kv_heads=0, latent=None, mixer_weights=weights, state_values=state)
        elif kind == "window":
            block = replace(block, window_tokens=_optional(config, values, "sliding_window"))
        elif kind == "default":
            block = replace(block, window_tokens=windows[layer])
        found.append(block)
    return tuple(found), tuple(unknown)


def expert_count(config: Fields, values: Mapping[str, Any]) -> int:
    """Return the routed experts of a sparse layer; 0 for a dense model."""
    return _optional(config, values, *_EXPERT_COUNTS)


def _latent(config: Fields, values: Mapping[str, Any]) -> Latent | None:
    """Return latent attention, if any. Source: DeepSeek-V2 and V3, Kimi-K2, modeling_deepseek_v3.py."""
    if not values.get("kv_lora_rank"):
        return None
    return Latent(
        q_rank=config.size("q_lora_rank", default=0),
        kv_rank=config.size("kv_lora_rank"),
        nope_dim=config.size("qk_nope_head_dim", default=128),
        rope_dim=config.size("qk_rope_head_dim", default=64),
        v_dim=config.size("v_head_dim", default=128),
    )


def _attention_kinds(frame: Frame, config: Fields, values: Mapping[str, Any], unknown: list[str]) -> list[str]:
    """Return for each layer ``full``, ``window``, ``linear``, ``mamba``, or ``default`` where config.json is silent.

    Source: ``layer_types`` of transformers 4.53 and later; Qwen3-Next, configuration_qwen3_next.py.
    """
    kinds = values.get("layer_types") or values.get("layers_block_type")
    if isinstance(kinds, list) and len(kinds) == frame.layers:
        found = [_ATTENTION_KINDS.get(kind, "") if isinstance(kind, str) else "" for kind in kinds]
        if all(found):
            return found
        unknown.append("layer_types")
    if values.get("full_attention_interval") and values.get("linear_num_value_heads"):
        every = config.size("full_attention_interval")
        return ["linear" if (layer + 1) % every else "full" for layer in range(frame.layers)]
    unknown += [key for key in ("attn_layer_period", "mamba_d_state", "linear_attn_config") if values.get(key)]
    return ["default"] * frame.layers


def window_pattern(architecture: str, layers: int, window: int, *, every: int = 0) -> tuple[int, ...]:
    """Return the attention window of each layer, 0 for none: the layers that see everything follow a pattern.

    Gemma 2 alternates, Gemma 3 makes every sixth layer full, Command R every fourth; others have the window everywhere.

    Source: transformers, configuration_gemma2.py, configuration_gemma3.py and configuration_cohere2.py
    (sliding_window_pattern), modeling_gemma2.py (is_sliding).
    """
    usual = next((n for name, n in _FULL_LAYER_EVERY.items() if architecture.startswith(name)), 1)
    every = every or usual
    return tuple(0 if every > 1 and (layer + 1) % every == 0 else window for layer in range(layers))


_FULL_LAYER_EVERY = {"Gemma2": 2, "Gemma3": 6, "Cohere2": 4}


def _windows(frame: Frame, config: Fields, values: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the attention window of each layer.

    Qwen writes a window into every config and switches it off with ``use_sliding_window``, whose default is false; it
    begins at ``max_window_layers``. Source: transformers, configuration_qwen2.py.
    """
    is_qwen = frame.architecture.startswith("Qwen")
    is_on = config.flag("use_sliding_window", not is_qwen)
    window = _optional(config, values, "sliding_window") if is_on else 0
    every = _optional(config, values, "sliding_window_pattern", "_sliding_window_pattern")
    windows = window_pattern(frame.architecture, frame.layers, window, every=every)
    if not is_qwen:
        return windows
    first = _optional(config, values, "max_window_layers") if "max_window_layers" in values else 28
    return tuple(0 if layer < first else each for layer, each in enumerate(windows))


def _sparse_layers(frame: Frame, config: Fields, values: Mapping[str, Any]) -> frozenset[int]:
    """Return the layers whose MLP is a set of experts.

    Source: DeepSeek and GLM (first_k_dense_replace, moe_layer_freq), Qwen (decoder_sparse_step, mlp_only_layers),
    Llama 4 (moe_layers, interleave_moe_layer_step), transformers 5 (mlp_layer_types).
    """
    if not expert_count(config, values):
        return frozenset()
    kinds, named = values.get("mlp_layer_types"), values.get("moe_layers")
    if isinstance(kinds, list) and len(kinds) == frame.layers:
        return frozenset(layer for layer, kind in enumerate(kinds) if kind == "sparse")
    if isinstance(named, list):
        return frozenset(layer for layer in named if isinstance(layer, int) and 0 <= layer < frame.layers)
    frequency = values.get("moe_layer_freq")
    if isinstance(frequency, list):
        return frozenset(layer for layer, is_sparse in enumerate(frequency[: frame.layers]) if is_sparse)
    first = _optional(config, values, "first_k_dense_replace")
    every = config.size("moe_layer_freq", default=1)
    step = config.size("decoder_sparse_step", "interleave_moe_layer_step", default=1)
    dense = values.get("mlp_only_layers")
    only = set(dense) if isinstance(dense, list) and all(isinstance(each, int) for each in dense) else set()
    return frozenset(
        layer
        for layer in range(first, frame.layers)
        if layer % every == 0 and (layer + 1) % step == 0 and layer not in only
    )


@dataclass(frozen=True, kw_only=True)
class _Mlp:
    """The MLP of a layer, as in :class:`Block`."""

    inner: int
    experts: int = 0
    shared_inner: int = 0


def _dense(frame: Frame, config: Fields, values: Mapping[str, Any]) -> _Mlp:
    """Return the dense MLP; Llama 4 has its own width for those layers, ``intermediate_size`` is the experts'."""
    names = ("intermediate_size_mlp", "intermediate_size") if values.get("intermediate_size_mlp") else ()
    return _Mlp(inner=config.size(*names) if names else frame.block.inner)


def _experts(frame: Frame, config: Fields, values: Mapping[str, Any]) -> _Mlp:
    """Return an MLP of experts, with the width of all shared ones together."""
    names = ("intermediate_size",) if values.get("intermediate_size_mlp") else ("moe_intermediate_size",)
    inner = config.size(*names, "intermediate_size", default=frame.block.inner)
    shared = _optional(config, values, *_SHARED_WIDTHS)
    if not shared:
        count = _optional(config, values, "n_shared_experts", "num_shared_experts")
        is_llama4 = frame.architecture.startswith("Llama4")  # one shared expert of the same width, without a key
        shared = inner * (count or (1 if is_llama4 else 0))
    return _Mlp(inner=inner, experts=expert_count(config, values), shared_inner=shared)


def _linear_mixer(frame: Frame, config: Fields) -> tuple[int, int]:
    """Return weights and state of a gated delta net.

    Source: transformers, modeling_qwen3_next.py, Qwen3NextGatedDeltaNet.
    """
    key_heads, value_heads = config.size("linear_num_key_heads"), config.size("linear_num_value_heads")
    key_dim, value_dim = config.size("linear_key_head_dim"), config.size("linear_value_head_dim")
    keys, width = key_heads * key_dim, value_heads * value_dim
    kernel = config.size("linear_conv_kernel_dim", default=4)
    convolved = 2 * keys + width
    projections = frame.hidden_size * (convolved + width + 2 * value_heads) + width * frame.hidden_size
    weights = projections + convolved * kernel + 2 * value_heads + value_dim
    return weights, value_heads * key_dim * value_dim + convolved * kernel


def _mamba_mixer(frame: Frame, config: Fields) -> tuple[int, int]:
    """Return weights and state of a Mamba-2 mixer.

    Source: transformers, modeling_granitemoehybrid.py and modeling_bamba.py; modeling_nemotron_h.py of the models.
    """
    heads = config.size("mamba_num_heads", "mamba_n_heads", limit=_HEADS_LIMIT)
    width = heads * config.size("mamba_head_dim", "mamba_d_head")
    groups = config.size("n_groups", "mamba_n_groups", default=1)
    state = config.size("ssm_state_size", "mamba_d_state")
    convolved = width + 2 * groups * state
    kernel = config.size("conv_kernel", "mamba_d_conv", default=4)
    projections = frame.hidden_size * (width + convolved + heads) + width * frame.hidden_size
    weights = projections + convolved * (kernel + 1) + 3 * heads + width
    return weights, width * state + convolved * kernel


def _searched_blocks(frame: Frame, config: Fields, values: Mapping[str, Any]) -> tuple[Block, ...]:
    """Return the layers of a model whose parts were pruned one by one (``block_configs``).

    Source: modeling_decilm.py of Llama-3_3-Nemotron-Super-49B: ``n_heads_in_group`` query heads share a key/value
    head, the MLP is 2/3 of ``ffn_mult`` times the hidden size, rounded up to 256.
    """
    hidden, heads = frame.hidden_size, frame.block.heads
    given = values["block_configs"]
    if not isinstance(given, list):
        raise config.refusal("block_configs", "a list")
    blocks = []
    for entry in given:
        parts = Fields("block_configs", entry if isinstance(entry, dict) else {})
        attention, mlp = parts.object("attention"), parts.object("ffn")
        block = Block(norms=0)
        if attention.get("replace_with_linear"):
            block = replace(block, mixer_weights=hidden * hidden, norms=1)
        elif not attention.get("no_op"):
            group = Fields("block_configs.attention", attention).size("n_heads_in_group", limit=_HEADS_LIMIT)
            kv_heads, head_dim = max(heads // group, 1), frame.block.head_dim
            block = replace(block, heads=heads, kv_heads=kv_heads, head_dim=head_dim, norms=1)
        if mlp.get("replace_with_linear"):
            block = replace(block, mixer_weights=block.mixer_weights + hidden * hidden, norms=(block.norms or 0) + 1)
        elif not mlp.get("no_op"):
            factor = Fields("block_configs.ffn", mlp).number("ffn_mult")
            inner = -(-int(2 * factor * hidden / 3) // 256) * 256
            block = replace(block, inner=inner, norms=(block.norms or 0) + 1)
        blocks.append(block)
    return tuple(blocks)


def _pattern_blocks(frame: Frame, config: Fields, values: Mapping[str, Any]) -> tuple[Block, ...]:
    """Return the layers of a Nemotron-H pattern: M a Mamba-2 mixer, * attention, - an MLP, E experts; one norm each.

    Empty for a pattern with another sign in it.
    """
    attention = replace(frame.block, inner=0, experts=0, shared_inner=0, norms=1)
    pattern = config.text("hybrid_override_pattern")
    if set(pattern) - set("M*-E"):
        return ()
    blocks = []
    for sign in pattern:
        if sign == "M":
            weights, state = _mamba_mixer(frame, config)
            blocks.append(Block(mixer_weights=weights, state_values=state, norms=1))
        elif sign == "*":
            blocks.append(attention)
        elif sign == "-":
            blocks.append(Block(inner=frame.block.inner, norms=1))
        else:
            blocks.append(
                Block(
                    inner=config.size("moe_intermediate_size"),
                    experts=expert_count(config, values),
                    shared_inner=_optional(config, values, *_SHARED_WIDTHS),
                    norms=1,
                )
            )
    return tuple(blocks)
