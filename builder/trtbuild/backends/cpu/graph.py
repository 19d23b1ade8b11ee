"""The nodes of an OpenVINO model: inputs, weights, attention over states. Families put them together.

The graph is a stateful decoder as OpenVINO GenAI expects it; GenAI's continuous-batching pipeline rewrites its
attention to paged attention when it loads the engine, and then runs it with one row per token. Everything here must
therefore hold for any split of tokens over rows.
Source: OpenVINO 2026.4, ov::pass::SDPAToPagedAttention (inputs input_ids, attention_mask, position_ids, beam_idx; state
through ReadValue/Assign; scaled_dot_product_attention).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from trtbuild.backends.cpu.decoder import Decoder
from trtbuild.backends.cpu.openvino import op, ov
from trtbuild.backends.cpu.storage import bfloat16_bits, float16, quantize_int4, quantize_int8
from trtbuild.backends.cpu.weights import Array, Checkpoint, Tensor
from trtbuild.errors import ConvertError, FetchError

Storage = Literal["float32", "float16", "bfloat16", "int8", "int4"]
Node = Any  # openvino's node types are not exported with type information

# Embeddings and the output head suffer most from four bits and are a small part of a large model.
_INT4_EXCEPTIONS = ("embed_tokens.weight", "lm_head.weight", "wte.weight", "wpe.weight", "embed_positions.weight")


class Graph:
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
            raise FetchError(
                f"tensor {name!r}: expected at least {rows} rows by config.json, got shape {shape}",
                hint="the snapshot mixes files of different models; remove it and run the command again",
            )
        return self.matrix(name)

    def vector(self, name: str, *, plus: float = 0.0) -> Node:
        """Return a small weight (norm, bias) as a float32 constant."""
        return _constant(self.checkpoint.get(name).float32() + np.float32(plus))

    def linear(self, x: Node, name: str, *, transposed: bool = False) -> Node:
        """Return ``x @ weight.T + bias``; the bias only where the model's class has one."""
        y = op.matmul(x, self.matrix(f"{name}.weight", transposed=transposed), False, True)
        return op.add(y, self.vector(f"{name}.bias")) if self.decoder.has(f"{name}.bias") else y

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
            half = tensor.data if tensor.dtype == "F16" else float16(name, tensor.float32())
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

    # -- what families put together --------------------------------------------------------------------------------

    def add(self, x: Node, y: Node) -> Node:
        """Return the sum."""
        return op.add(x, y)

    def multiply(self, x: Node, y: Node) -> Node:
        """Return the product, value by value."""
        return op.multiply(x, y)

    def axes(self, *order: int) -> Node:
        """Return an order of axes, for :meth:`transpose`."""
        return _constant(np.array(order, np.int64))

    def transpose(self, x: Node, axes: Node) -> Node:
        """Return ``x`` with its axes in another order."""
        return op.transpose(x, axes)

    def split(self, x: Node, sizes: list[int]) -> list[Node]:
        """Return pieces of ``x[batch, new, channels]`` with so many channels each."""
        parts = op.variadic_split(x, _constant(np.int64(2)), _constant(np.array(sizes, np.int64)))
        return [parts.output(index) for index in range(len(sizes))]

    def embed(self, name: str) -> Node:
        """Return the embeddings of the input tokens."""
        rows = op.gather(self.table(name, self.decoder.vocab_size), self.ids, _constant(np.int64(0)))
        scale = self.decoder.embedding_scale
        return rows if scale == 1.0 else op.multiply(rows, _constant(np.float32(scale)))

    def learned_positions(self, name: str) -> Node:
        """Return the rows of a learned table at the input's positions."""
        offset = self.decoder.position_offset
        rows = op.add(self.position_ids, _constant(np.int64(offset))) if offset else self.position_ids
        return op.gather(self.table(name, self.decoder.context_tokens + offset), rows, _constant(np.int64(0)))

    def head(self, hidden: Node, embedding: str) -> Node:
        """Return the logits, from the output head or from the embeddings where those are tied."""
        return op.matmul(hidden, self.matrix(embedding if self.decoder.tied else "lm_head.weight"), False, True)

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


class Outline(Graph):
    """The same graph with the weights left out: a node of each weight's shape stands in its place."""

    def matrix(self, name: str, *, transposed: bool = False) -> Node:
        """Return a node of the shape a matrix must have."""
        data = self.checkpoint.get(name).data
        _check_matrix(name, data)
        return self._stand_in((data.T if transposed else data).shape)

    def vector(self, name: str, *, plus: float = 0.0) -> Node:  # noqa: ARG002
        """Return a node of the shape a vector must have."""
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


def _parameter(name: str, kind: ov.Type, shape: list[int]) -> Node:
    node = op.parameter(ov.PartialShape(shape), kind, name=name)
    node.output(0).set_names({name})
    return node


def _constant(value: Any) -> Node:
    return op.constant(np.asarray(value))
