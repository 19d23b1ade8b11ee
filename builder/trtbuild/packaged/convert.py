"""A Llama in a GGUF file as a directory that transformers would load: config, weights in float16, tokenizer.

It decides what each file holds. The same GGUF file always gives the same bytes: the catalog names their hash. Only what
is written down here is converted; another architecture, tokenizer or tensor is refused by name.

Source: llama.cpp, convert_hf_to_gguf.py (``LlamaModel``), whose steps are undone here.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtbuild.errors import ConvertError
from trtbuild.packaged import gguf
from trtbuild.packaged.gguf import Gguf
from trtbuild.packaged.tokenizer import tokenizer_files

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_HINT = "use a package with a GGUF file of a Llama that has a byte-level BPE tokenizer"

_OUTER = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def convert(source: Path, directory: Path) -> None:
    """Write the model of a GGUF file into an existing directory.

    Raises:
        ConvertError: It holds another kind of model.
        FetchError: It is damaged.
        OSError: A file cannot be written.
    """
    opened = gguf.read(source)
    config = _config(opened.metadata)
    files = {"config.json": config, "generation_config.json": _generation_config(config)}
    files |= tokenizer_files(opened.metadata)
    for name, content in files.items():
        text = json.dumps(content, indent=None if name == "tokenizer.json" else 2, ensure_ascii=False)
        (directory / name).write_text(text + "\n", encoding="utf-8")
    _write_weights(opened, config, directory / "model.safetensors")


def _config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return config.json as transformers writes it for a ``LlamaForCausalLM``."""
    if (architecture := metadata.get("general.architecture")) != "llama":
        raise ConvertError(f"the GGUF file holds the architecture {architecture!r}, expected 'llama'", hint=_HINT)
    try:
        hidden, heads = metadata["llama.embedding_length"], metadata["llama.attention.head_count"]
        head_dim = metadata.get("llama.rope.dimension_count", hidden // heads)
        return {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": metadata["tokenizer.ggml.bos_token_id"],
            "eos_token_id": metadata["tokenizer.ggml.eos_token_id"],
            "head_dim": head_dim,
            "hidden_act": "silu",
            "hidden_size": hidden,
            "initializer_range": 0.02,
            "intermediate_size": metadata["llama.feed_forward_length"],
            "max_position_embeddings": metadata["llama.context_length"],
            "mlp_bias": False,
            "model_type": "llama",
            "num_attention_heads": heads,
            "num_hidden_layers": metadata["llama.block_count"],
            "num_key_value_heads": metadata.get("llama.attention.head_count_kv", heads),
            "pad_token_id": metadata["tokenizer.ggml.padding_token_id"],
            "rms_norm_eps": _shortest(metadata["llama.attention.layer_norm_rms_epsilon"]),
            "rope_scaling": None,
            "rope_theta": _shortest(metadata["llama.rope.freq_base"]),
            "tie_word_embeddings": True,
            "torch_dtype": "float16",
            "use_cache": True,
            "vocab_size": metadata["llama.vocab_size"],
        }
    except KeyError as error:
        raise ConvertError(f"the GGUF file does not say {error.args[0]!r}", hint=_HINT) from error


def _shortest(value: float) -> float:
    """Return the number that was written before it became a float32: 1e-05, not 9.999999747378752e-06."""
    import numpy as np

    return float(str(np.float32(value)))


def _generation_config(config: Mapping[str, Any]) -> dict[str, Any]:
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {"_from_model_config": True, **{name: config[name] for name in names}}


def _write_weights(opened: Gguf, config: Mapping[str, Any], path: Path) -> None:
    """Write the tensors as float16, one at a time.

    Source: the safetensors format: u64 length of the header, JSON header padded with spaces to 8 bytes, tensors.
    """
    names = _names(opened, config["num_hidden_layers"])
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, own_name in names:
        shape = opened.tensors[own_name].shape
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, at + 2 * prod(shape)]}
        at += 2 * prod(shape)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    with path.open("xb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name, own_name in names:
            values = opened.load(own_name)
            if count := heads.get(name.split(".")[-2]):
                values = _restore_rotary_order(values, count)
            stream.write(values.astype("<f2").tobytes())


def _names(opened: Gguf, layers: int) -> list[tuple[str, str]]:
    """Return transformers' name and the file's name of every tensor; none may be missing or unknown."""
    names = list(_expected(layers))
    expected = {own_name for _, own_name in names}
    if wrong := sorted(expected ^ set(opened.tensors)):
        verb = "lacks" if wrong[0] in expected else "holds an unknown tensor"
        raise ConvertError(f"the GGUF file {verb} {wrong[0]!r} ({len(wrong)} differences in all)", hint=_HINT)
    return names


def _expected(layers: int) -> Iterator[tuple[str, str]]:
    for own_name, name in _OUTER.items():
        yield name, own_name
    for layer in range(layers):
        for own_name, name in _LAYER.items():
            yield f"model.layers.{layer}.{name}.weight", f"blk.{layer}.{own_name}.weight"


def _restore_rotary_order(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Return rows of q or k in transformers' order: GGUF has the two halves of each head interleaved.

    Source: llama.cpp, convert_hf_to_gguf.py, ``LlamaModel.permute``; this is its inverse.
    """
    rows = values.shape[0]
    return values.reshape(heads, rows // heads // 2, 2, -1).swapaxes(1, 2).reshape(values.shape)
