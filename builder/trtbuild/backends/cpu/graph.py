"""From a checkpoint to an OpenVINO model, without torch.

It decides the graph and how weights are stored in it. The graph is a stateful decoder as OpenVINO GenAI expects it;
GenAI's continuous-batching pipeline rewrites its attention to paged attention when it loads the engine, and then runs
it with one row per token. Everything here must therefore hold for any split of tokens over rows.
Source: OpenVINO 2026.4, ov::pass::SDPAToPagedAttention (inputs input_ids, attention_mask, position_ids, beam_idx; state
through ReadValue/Assign; scaled_dot_product_attention).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from trtbuild.backends.cpu.families import Decoder
from trtbuild.backends.cpu.openvino import op, ov
from trtbuild.backends.cpu.weights import Array, Checkpoint, Tensor
from trtbuild.errors import ConvertError

Storage = Literal["float32", "float16", "bfloat16", "int8", "int4"]
Node = Any  # openvino's node types are not exported with type information

INT4_GROUP = 128
"""Input channels that share a scale in int4 storage; falls back to the largest power of two that divides them."""

# Embeddings and the output head suffer most from four bits and are a small part of a large model.
_INT4_EXCEPTIONS = ("embed_tokens.weight", "lm_head.weight", "wte.weight", "wpe.weight", "embed_positions.weight")

_FLOAT16_MAX = 65504.0

# Buffers that older checkpoints carry and no forward pass needs.
_IGNORED_SUFFIXES = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", "embed_positions.inv_freq")


@dataclass(frozen=True, kw_only=True)
class BuiltModel:
    """A model and the memory its constants live in; keep it until the model is saved."""

    model: ov.Model
    arrays: tuple[Array, ...]


class _Graph:
    """The nodes built so far: inputs shared by all layers, states, and weights."""

    def __init__(self, decoder: Decoder, checkpoint: Checkpoint, storage: Storage) -> None:
        self.decoder, self.checkpoint, self.storage = decoder, checkpoint, storage
        self.ids = _parameter("input_ids", ov.Type.i64, [-1, -1])
        self.attention_mask = _parameter("attention_mask", ov.Type.i64, [-1, -1])
        self.position_ids = _parameter("position_ids", ov.Type.i64, [-1, -1])
        self.beam_idx = _parameter("beam_idx", ov.Type.i32, [-1])
        self.assigns: list[Node] = []
        self.mask = self._causal_mask()
        self.cos_sin = self._rotary_tables() if decoder.rope else None
        self._matrices: dict[str, Node] = {}
        self.arrays: list[Array] = []  # memory that constants share and do not own

    # -- weights ------------------------------------------------------------------------------------------------

    def matrix(self, name: str, *, transposed: bool = False) -> Node:
        """Return a weight as a float32 node ``[out, in]``, stored as asked; the same node for the same name."""
        if name not in self._matrices:
            tensor = self.checkpoint.get(name)
            if transposed:
                tensor = Tensor(dtype=tensor.dtype, data=np.ascontiguousarray(tensor.data.T))
            self._matrices[name] = self._store(name, tensor)
        return self._matrices[name]

    def table(self, name: str, rows: int) -> Node:
        """Return a weight that is read by row, after checking that it has a row for everything it is asked for."""
        shape = self.checkpoint.get(name).data.shape
        if not shape or shape[0] < rows:
            raise ConvertError(
                f"tensor {name!r}: expected at least {rows} rows by config.json, got shape {shape}",
                hint="the snapshot mixes files of different models; remove it and run the command again",
            )
        return self.matrix(name)

    def vector(self, name: str, *, plus: float = 0.0) -> Node:
        """Return a small weight (norm, bias) as a float32 constant."""
        return _constant(self.checkpoint.get(name).float32() + np.float32(plus))

    def linear(self, x: Node, name: str, *, transposed: bool = False) -> Node:
        """Return ``x @ weight.T + bias``; the bias only where the checkpoint has one."""
        y = op.matmul(x, self.matrix(f"{name}.weight", transposed=transposed), False, True)
        return op.add(y, self.vector(f"{name}.bias")) if f"{name}.bias" in self.checkpoint else y

    def norm(self, x: Node, name: str) -> Node:
        """Return the normalised ``x`` over its last axis, by the decoder's kind of norm."""
        epsilon = _constant(np.float32(self.decoder.epsilon))
        last = _constant(np.array([-1], np.int64))
        if self.decoder.norm == "layer":
            normed = op.mvn(x, last, True, self.decoder.epsilon, "inside_sqrt")
            return op.add(op.multiply(normed, self.vector(f"{name}.weight")), self.vector(f"{name}.bias"))
        mean = op.reduce_mean(op.power(x, _constant(np.float32(2))), last, True)
        normed = op.multiply(x, op.divide(_constant(np.float32(1)), op.sqrt(op.add(mean, epsilon))))
        plus = 1.0 if self.decoder.norm == "rms_plus_one" else 0.0
        return op.multiply(normed, self.vector(f"{name}.weight", plus=plus))

    def activate(self, x: Node) -> Node:
        """Return the decoder's activation of ``x``."""
        functions: dict[str, Callable[[Node], Node]] = {
            "silu": op.swish,
            "gelu": lambda node: op.gelu(node, "erf"),
            "gelu_tanh": lambda node: op.gelu(node, "tanh"),
            "relu": op.relu,
        }
        return functions[self.decoder.activation](x)

    def _store(self, name: str, tensor: Tensor) -> Node:
        """Return a matrix as constants of the stored type, followed by the conversion to float32."""
        _check_matrix(name, tensor.data)
        if self.storage == "int8" or (self.storage == "int4" and name.endswith(_INT4_EXCEPTIONS)):
            rounded, scale = quantize_int8(tensor.float32())
            return op.multiply(op.convert(self._shared(rounded, ov.Type.i8), "f32"), op.constant(scale))
        if self.storage == "int4":
            return self._int4(tensor.float32())
        if self.storage == "bfloat16":
            bits = tensor.data if tensor.dtype == "BF16" else bfloat16_bits(tensor.float32())
            return op.convert(self._shared(bits, ov.Type.bf16), "f32")
        if self.storage == "float16":
            half = tensor.data if tensor.dtype == "F16" else _float16(name, tensor.float32())
            return op.convert(self._shared(half, ov.Type.f16), "f32")
        return self._shared(tensor.float32(), ov.Type.f32)

    def _int4(self, values: Array) -> Node:
        rows, columns = values.shape
        packed, scale = quantize_int4(values)
        tensor = ov.Tensor(packed, ov.Shape([rows, scale.shape[1], columns // scale.shape[1]]), ov.Type.i4)
        self.arrays.append(packed)
        weights = op.convert(ov.op.Constant(tensor, shared_memory=True), "f16")
        flat = _constant(np.array([rows, columns], np.int64))
        return op.convert(op.reshape(op.multiply(weights, op.constant(scale)), flat, False), "f32")

    def _shared(self, values: Array, kind: ov.Type) -> Node:
        """Return a constant over the array's own memory: a mapped checkpoint is written without a copy in between."""
        values = np.ascontiguousarray(values)
        self.arrays.append(values)
        return ov.op.Constant(ov.Tensor(values, ov.Shape(list(values.shape)), kind), shared_memory=True)

    # -- positions and attention --------------------------------------------------------------------------------

    def _causal_mask(self) -> Node:
        """Return ``float32[batch, 1, new, all]``: 0 where a token may look, the lowest float elsewhere."""
        zero, one = _constant(np.int64(0)), _constant(np.int64(1))
        new = op.gather(op.shape_of(self.ids), one, zero)
        total = op.gather(op.shape_of(self.attention_mask), one, zero)
        keys = op.range(zero, total, one, "i64")
        queries = op.unsqueeze(op.range(op.subtract(total, new), total, one, "i64"), one)
        is_past = op.unsqueeze(op.less_equal(op.unsqueeze(keys, zero), queries), _constant(np.array([0, 1], np.int64)))
        is_real = op.unsqueeze(op.not_equal(self.attention_mask, zero), _constant(np.array([1, 2], np.int64)))
        lowest = _constant(np.float32(np.finfo(np.float32).min))
        return op.select(op.logical_and(is_past, is_real), _constant(np.float32(0)), lowest)

    def _rotary_tables(self) -> tuple[Node, Node]:
        """Return cosine and sine, ``float32[batch, 1, new, head_dim]``."""
        assert self.decoder.rope is not None
        frequencies = np.array(self.decoder.rope.inverse_frequencies, np.float32).reshape(1, 1, -1)
        positions = op.convert(op.unsqueeze(self.position_ids, _constant(np.int64(2))), "f32")
        angles = op.multiply(positions, _constant(frequencies))
        both = op.unsqueeze(op.concat([angles, angles], 2), _constant(np.int64(1)))
        factor = self.decoder.rope.attention_factor
        tables = (op.cos(both), op.sin(both))
        if factor == 1.0:
            return tables
        scale = _constant(np.float32(factor))
        return op.multiply(tables[0], scale), op.multiply(tables[1], scale)

    def rotate(self, x: Node) -> Node:
        """Return ``x[batch, heads, new, head_dim]`` turned by its positions."""
        if self.cos_sin is None:
            return x
        half = self.decoder.head_dim // 2
        cut = [_constant(np.array([value], np.int64)) for value in (0, half, 2 * half, 1, 3)]
        first = op.slice(x, cut[0], cut[1], cut[3], cut[4])
        second = op.slice(x, cut[1], cut[2], cut[3], cut[4])
        turned = op.concat([op.multiply(second, _constant(np.float32(-1))), first], 3)
        return op.add(op.multiply(x, self.cos_sin[0]), op.multiply(turned, self.cos_sin[1]))

    def split_heads(self, x: Node, heads: int) -> Node:
        """Return ``x[batch, new, heads * head_dim]`` as ``[batch, new, heads, head_dim]``."""
        shape = np.array([0, 0, heads, self.decoder.head_dim], np.int64)
        return op.reshape(x, _constant(shape), True)

    def attend(self, layer: int, q: Node, k: Node, v: Node) -> Node:
        """Return attention over the states of this layer; inputs ``[batch, heads, new, head_dim]``."""
        decoder = self.decoder
        keys, values = self._remember(layer, "key", k), self._remember(layer, "value", v)
        context = op.scaled_dot_product_attention(q, self._repeat(keys), self._repeat(values), self.mask, causal=False)
        merged = op.transpose(context, _constant(np.array([0, 2, 1, 3], np.int64)))
        shape = np.array([0, 0, decoder.heads * decoder.head_dim], np.int64)
        return op.reshape(merged, _constant(shape), True)

    def _remember(self, layer: int, kind: str, new: Node) -> Node:
        """Append ``new`` to the layer's key or value state and return all of it."""
        name = f"past_key_values.{layer}.{kind}present.{layer}.{kind}"
        kv_heads, head_dim = self.decoder.kv_heads, self.decoder.head_dim
        batch = op.gather(op.shape_of(self.ids), _constant(np.array([0], np.int64)), _constant(np.int64(0)))
        rest = _constant(np.array([kv_heads, 0, head_dim], np.int64))
        empty = op.broadcast(_constant(np.float32(0)), op.concat([batch, rest], 0))
        shape = ov.PartialShape([-1, kv_heads, -1, head_dim])
        state = op.read_value(empty, name, ov.Type.f32, shape)
        past = op.gather(state, self.beam_idx, _constant(np.int64(0)))
        whole = op.concat([past, new], 2)
        self.assigns.append(op.assign(whole, name))
        return whole

    def _repeat(self, x: Node) -> Node:
        """Return key or value heads repeated once per query head that shares them."""
        decoder = self.decoder
        if decoder.heads == decoder.kv_heads:
            return x
        groups = decoder.heads // decoder.kv_heads
        wide = op.unsqueeze(x, _constant(np.int64(2)))
        target = _constant(np.array([1, 1, groups, 1, 1], np.int64))
        repeated = op.broadcast(wide, target, broadcast_spec="BIDIRECTIONAL")
        shape = np.array([0, decoder.heads, -1, decoder.head_dim], np.int64)
        return op.reshape(repeated, _constant(shape), True)

    def model(self, logits: Node) -> ov.Model:
        """Return the finished model."""
        logits.output(0).set_names({"logits"})
        inputs = [self.ids, self.attention_mask, self.position_ids, self.beam_idx]
        return ov.Model([op.result(logits)], self.assigns, inputs, "decoder")


def _check_matrix(name: str, data: Array) -> None:
    if data.ndim != 2:
        raise ConvertError(
            f"tensor {name!r}: expected a matrix, got shape {data.shape}",
            hint="this variant of the architecture is not covered by the cpu backend; use a GPU backend",
        )


class _Outline(_Graph):
    """The same graph with the weights left out: a node of each weight's shape stands in its place."""

    def matrix(self, name: str, *, transposed: bool = False) -> Node:
        data = self.checkpoint.get(name).data
        _check_matrix(name, data)
        return self._stand_in((data.T if transposed else data).shape)

    def vector(self, name: str, *, plus: float = 0.0) -> Node:  # noqa: ARG002
        data = self.checkpoint.get(name).data
        if data.ndim != 1:
            raise ConvertError(
                f"tensor {name!r}: expected a vector, got shape {data.shape}",
                hint="this variant of the architecture is not covered by the cpu backend; use a GPU backend",
            )
        return self._stand_in(data.shape)

    @staticmethod
    def _stand_in(shape: tuple[int, ...]) -> Node:
        # A scalar that is broadcast: openvino checks shapes as with a constant, without its memory.
        return op.broadcast(_constant(np.float32(0)), _constant(np.array(shape, np.int64)))


def build_model(
    decoder: Decoder, checkpoint: Checkpoint, storage: Storage, *, on_layer: Callable[[int], None] = lambda _: None
) -> BuiltModel:
    """Return the OpenVINO model of a checkpoint.

    Args:
        decoder: What to build.
        checkpoint: Its weights; must stay mapped until the model is saved.
        storage: How matrices are kept; float32 is computed from them whatever it is.
        on_layer: Called with the number of each finished layer.

    Raises:
        ConvertError: A tensor is missing or has an unexpected shape; see :func:`check_model` for what it ignores.
    """
    graph = _Graph(decoder, checkpoint, storage)
    model = _build(graph, on_layer)
    return BuiltModel(model=model, arrays=tuple(graph.arrays))


def check_model(decoder: Decoder, checkpoint: Checkpoint) -> None:
    """Build the graph from the shapes of the weights alone, in moments: no value is read or converted.

    Raises:
        ConvertError: A tensor is missing, has an unexpected shape, or would be ignored.
    """
    _build(_Outline(decoder, checkpoint, "float32"), lambda _: None)
    _check_leftovers(checkpoint, is_tied=decoder.tied)


def _build(graph: _Graph, on_layer: Callable[[int], None]) -> ov.Model:
    builders = {"GPT2LMHeadModel": _gpt2, "OPTForCausalLM": _opt}
    try:
        logits = builders.get(graph.decoder.architecture, _llama_like)(graph, on_layer)
        return graph.model(logits)
    except RuntimeError as error:  # what openvino raises when shapes do not fit
        raise ConvertError(
            f"the weights do not fit config.json: {str(error).strip().splitlines()[-1]}",
            hint="the snapshot mixes files of different models; remove it and run the command again",
        ) from error


def _check_leftovers(checkpoint: Checkpoint, *, is_tied: bool) -> None:
    """Refuse a checkpoint with weights the graph does not use: it would compute something else than its authors."""
    left = [name for name in checkpoint.unused() if not name.endswith(_IGNORED_SUFFIXES)]
    if is_tied:
        left = [name for name in left if name != "lm_head.weight"]
    if left:
        shown = ", ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
        raise ConvertError(
            f"the checkpoint holds weights that the cpu backend would ignore: {shown}",
            hint="this variant of the architecture is not covered by the cpu backend; use a GPU backend",
        )


def _llama_like(graph: _Graph, on_layer: Callable[[int], None]) -> Node:
    decoder = graph.decoder
    hidden = _embed(graph, "model.embed_tokens.weight")
    for layer in range(decoder.layers):
        prefix = f"model.layers.{layer}"
        q, k, v = _project(graph, graph.norm(hidden, f"{prefix}.input_layernorm"), f"{prefix}.self_attn")
        context = graph.attend(layer, graph.rotate(q), graph.rotate(k), v)
        hidden = op.add(hidden, graph.linear(context, f"{prefix}.self_attn.o_proj"))
        normed = graph.norm(hidden, f"{prefix}.post_attention_layernorm")
        gate, up = _gate_up(graph, normed, f"{prefix}.mlp")
        gated = op.multiply(graph.activate(gate), up)
        hidden = op.add(hidden, graph.linear(gated, f"{prefix}.mlp.down_proj"))
        on_layer(layer)
    hidden = graph.norm(hidden, "model.norm")
    return _head(graph, hidden, "model.embed_tokens.weight")


def _project(graph: _Graph, x: Node, name: str) -> tuple[Node, Node, Node]:
    """Return queries, keys and values, ``[batch, heads, new, head_dim]``, from three matrices or a fused one."""
    decoder = graph.decoder
    if f"{name}.qkv_proj.weight" in graph.checkpoint:
        fused = graph.linear(x, f"{name}.qkv_proj")
        sizes = [decoder.heads * decoder.head_dim] + [decoder.kv_heads * decoder.head_dim] * 2
        parts = _split(fused, sizes)
    else:
        parts = [graph.linear(x, f"{name}.{kind}_proj") for kind in "qkv"]
    heads = (decoder.heads, decoder.kv_heads, decoder.kv_heads)
    split = [graph.split_heads(part, count) for part, count in zip(parts, heads, strict=True)]
    for index, kind in enumerate("qk"):  # Qwen3 normalises each head
        if f"{name}.{kind}_norm.weight" in graph.checkpoint:
            split[index] = graph.norm(split[index], f"{name}.{kind}_norm")
    order = _constant(np.array([0, 2, 1, 3], np.int64))
    q, k, v = (op.transpose(part, order) for part in split)
    return q, k, v


def _gate_up(graph: _Graph, x: Node, name: str) -> tuple[Node, Node]:
    if f"{name}.gate_up_proj.weight" in graph.checkpoint:
        gate, up = _split(graph.linear(x, f"{name}.gate_up_proj"), [graph.decoder.intermediate_size] * 2)
        return gate, up
    return graph.linear(x, f"{name}.gate_proj"), graph.linear(x, f"{name}.up_proj")


def _gpt2(graph: _Graph, on_layer: Callable[[int], None]) -> Node:
    decoder = graph.decoder
    root = "transformer." if "transformer.wte.weight" in graph.checkpoint else ""
    hidden = op.add(_embed(graph, f"{root}wte.weight"), _learned_positions(graph, f"{root}wpe.weight"))
    order = _constant(np.array([0, 2, 1, 3], np.int64))
    for layer in range(decoder.layers):
        prefix = f"{root}h.{layer}"
        # GPT-2 stores matrices as [in, out].
        fused = graph.linear(graph.norm(hidden, f"{prefix}.ln_1"), f"{prefix}.attn.c_attn", transposed=True)
        parts = _split(fused, [decoder.hidden_size] * 3)
        q, k, v = (op.transpose(graph.split_heads(part, decoder.heads), order) for part in parts)
        context = graph.attend(layer, q, k, v)
        hidden = op.add(hidden, graph.linear(context, f"{prefix}.attn.c_proj", transposed=True))
        inner = graph.linear(graph.norm(hidden, f"{prefix}.ln_2"), f"{prefix}.mlp.c_fc", transposed=True)
        hidden = op.add(hidden, graph.linear(graph.activate(inner), f"{prefix}.mlp.c_proj", transposed=True))
        on_layer(layer)
    return _head(graph, graph.norm(hidden, f"{root}ln_f"), f"{root}wte.weight")


def _opt(graph: _Graph, on_layer: Callable[[int], None]) -> Node:
    decoder = graph.decoder
    root = next(
        (root for root in ("model.decoder", "decoder") if f"{root}.embed_tokens.weight" in graph.checkpoint),
        "model.decoder",
    )
    positions = _learned_positions(graph, f"{root}.embed_positions.weight")
    hidden = op.add(_embed(graph, f"{root}.embed_tokens.weight"), positions)
    order = _constant(np.array([0, 2, 1, 3], np.int64))
    for layer in range(decoder.layers):
        prefix = f"{root}.layers.{layer}"
        normed = graph.norm(hidden, f"{prefix}.self_attn_layer_norm")
        q, k, v = (
            op.transpose(
                graph.split_heads(graph.linear(normed, f"{prefix}.self_attn.{kind}_proj"), decoder.heads), order
            )
            for kind in "qkv"
        )
        hidden = op.add(hidden, graph.linear(graph.attend(layer, q, k, v), f"{prefix}.self_attn.out_proj"))
        inner = graph.linear(graph.norm(hidden, f"{prefix}.final_layer_norm"), f"{prefix}.fc1")
        hidden = op.add(hidden, graph.linear(graph.activate(inner), f"{prefix}.fc2"))
        on_layer(layer)
    return _head(graph, graph.norm(hidden, f"{root}.final_layer_norm"), f"{root}.embed_tokens.weight")


def _embed(graph: _Graph, name: str) -> Node:
    rows = op.gather(graph.table(name, graph.decoder.vocab_size), graph.ids, _constant(np.int64(0)))
    scale = graph.decoder.embedding_scale
    return rows if scale == 1.0 else op.multiply(rows, _constant(np.float32(scale)))


def _learned_positions(graph: _Graph, name: str) -> Node:
    offset = graph.decoder.position_offset
    rows = op.add(graph.position_ids, _constant(np.int64(offset))) if offset else graph.position_ids
    return op.gather(graph.table(name, graph.decoder.context_tokens + offset), rows, _constant(np.int64(0)))


def _head(graph: _Graph, hidden: Node, embedding: str) -> Node:
    return op.matmul(hidden, graph.matrix(embedding if graph.decoder.tied else "lm_head.weight"), False, True)


def _split(x: Node, sizes: list[int]) -> list[Node]:
    parts = op.variadic_split(x, _constant(np.int64(2)), _constant(np.array(sizes, np.int64)))
    return [parts.output(index) for index in range(len(sizes))]


def _parameter(name: str, kind: ov.Type, shape: list[int]) -> Node:
    node = op.parameter(ov.PartialShape(shape), kind, name=name)
    node.output(0).set_names({name})
    return node


def _constant(value: Any) -> Node:
    return op.constant(np.asarray(value))


def _float16(name: str, values: Array) -> Array:
    peak = float(np.max(np.abs(values), initial=0.0))
    if peak > _FLOAT16_MAX:
        raise ConvertError(
            f"tensor {name!r} holds {peak:g}, float16 ends at {_FLOAT16_MAX:g}",
            hint="use --dtype bfloat16 or --dtype float32 for this model",
        )
    return values.astype(np.float16)


def bfloat16_bits(values: Array) -> Array:
    """Return the upper 16 bits of float32 values, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))
    return (rounded >> 16).astype(np.uint16)


def quantize_int8(values: Array) -> tuple[Array, Array]:
    """Return ``int8[out, in]`` and ``float32[out, 1]``: one scale per output channel."""
    peak = np.max(np.abs(values), axis=1, keepdims=True)
    scale = np.where(peak == 0, 1, peak / np.float32(127)).astype(np.float32)
    return np.rint(values / scale).astype(np.int8), scale


def quantize_int4(values: Array) -> tuple[Array, Array]:
    """Return packed ``uint8[out * in / 2]`` (low nibble first) and ``float16[out, groups, 1]``."""
    rows, columns = values.shape
    group = INT4_GROUP
    while columns % group:
        group //= 2
    grouped = values.reshape(rows, columns // group, group)
    # The value of largest magnitude becomes -8, the one level more that signed 4-bit numbers have on that side.
    extreme = np.take_along_axis(grouped, np.abs(grouped).argmax(axis=2)[..., None], axis=2)
    scale = (extreme / np.float32(-8)).astype(np.float16)
    scale[scale == 0] = 1
    rounded = np.clip(np.rint(grouped / scale.astype(np.float32)), -8, 7).astype(np.int8)
    nibbles = rounded.reshape(-1).view(np.uint8) & 0x0F
    return (nibbles[0::2] | (nibbles[1::2] << 4)).astype(np.uint8), scale
