"""Tokenizers that are spread over several files, as on the hub, and what transformers makes of texts with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SPECIALS = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
_FLAGS = {"lstrip": False, "rstrip": False, "single_word": False}
_NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_EXTRA = ["<|tool|>", "<|eot|>"]
TEXTS = ("hello", "say <|tool|> and <|eot|>", "<s>a</s>", " <|im_end|> b", "world<|end|>x", "")


def _bytes_to_unicode() -> list[str]:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    return [table[byte] for byte in range(256)]


def _added(content: str, number: int, **flags: bool) -> dict[str, Any]:
    return {"id": number, "content": content, **_FLAGS, "normalized": False, "special": True, **flags}


def tokenizer_json(**changes: Any) -> dict[str, Any]:
    """Return a byte-level BPE tokenizer of 300 tokens, five of them special."""
    vocab = {text: number for number, text in enumerate((*_SPECIALS, *_bytes_to_unicode()))}
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "a")]
    for one, two in merges:
        vocab[one + two] = len(vocab)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(text, number) for number, text in enumerate(_SPECIALS)],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": vocab, "merges": [f"{one} {two}" for one, two in merges],
        },
    } | changes  # fmt: skip


SIZE = len(tokenizer_json()["model"]["vocab"])
_BOS = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
}


def _decoder(*tokens: dict[str, Any]) -> dict[str, Any]:
    return {str(each["id"]): {k: v for k, v in each.items() if k != "id"} for each in tokens}


_OWN = [_added(text, number) for number, text in enumerate(_SPECIALS)]
_TOOL, _EOT = _added("<|tool|>", SIZE), _added("<|eot|>", SIZE + 1)


def _variant(
    config: Mapping[str, Any] | None = None, *, tokenizer: Mapping[str, Any] | None = None, **files: Any
) -> dict[str, Any]:
    return {
        "tokenizer.json": tokenizer_json(**(tokenizer or {})),
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", **_NAMED, **(config or {})},
        "config.json": {"model_type": "llama", "vocab_size": SIZE + 8},
        **{f"{name}.json": value for name, value in files.items()},
    }


VARIANTS: Mapping[str, dict[str, Any]] = {
    "plain": _variant(),
    "decoder": _variant({"added_tokens_decoder": _decoder(*_OWN, _TOOL, _EOT)}),
    "decoder, eos from it": _variant({"added_tokens_decoder": _decoder(*_OWN, _TOOL, _EOT), "eos_token": "<|eot|>"}),
    "decoder, not special": _variant(
        {"added_tokens_decoder": _decoder(*_OWN, {**_TOOL, "special": False}, {**_EOT, "special": False})}
    ),
    "decoder, one not in order": _variant({"added_tokens_decoder": _decoder(_EOT | {"id": SIZE}, *_OWN)}),
    "decoder, strips": _variant({"added_tokens_decoder": _decoder(*_OWN, {**_TOOL, "lstrip": True, "rstrip": True})}),
    "decoder changes a flag": _variant(
        {"added_tokens_decoder": _decoder(*_OWN[:4], {**_OWN[4], "lstrip": True})}
    ),
    "decoder lacks the tokenizer's own": _variant({"added_tokens_decoder": _decoder(_TOOL)}),
    "decoder and added_tokens.json": _variant(
        {"added_tokens_decoder": _decoder(*_OWN, _TOOL)}, added_tokens={"<|eot|>": SIZE + 1}
    ),
    "decoder and map": _variant(
        {"added_tokens_decoder": _decoder(*_OWN, _TOOL)}, special_tokens_map={"eos_token": "<|eot|>"}
    ),
    "added_tokens.json": _variant(added_tokens={"<|tool|>": SIZE, "<|eot|>": SIZE + 1}),
    "added_tokens.json, special by name": _variant(
        {"eos_token": "<|eot|>"}, added_tokens={"<|tool|>": SIZE, "<|eot|>": SIZE + 1}
    ),
    "added_tokens.json, extras": _variant(
        {"additional_special_tokens": ["<|tool|>"]}, added_tokens={"<|tool|>": SIZE, "<|eot|>": SIZE + 1}
    ),
    "map": _variant(special_tokens_map={"eos_token": "<|eot|>", "pad_token": "<|tool|>"}),
    "map, as objects": _variant(
        special_tokens_map={"eos_token": {"content": "<|eot|>", **_FLAGS, "lstrip": True, "normalized": False}}
    ),
    "map, extras": _variant(special_tokens_map={**_NAMED, "additional_special_tokens": _EXTRA}),
    "additional special tokens": _variant({"additional_special_tokens": _EXTRA}),
    "extra special tokens, list": _variant({"extra_special_tokens": _EXTRA}),
    "extra special tokens, object": _variant({"extra_special_tokens": {"tool_token": "<|tool|>", "eot": "<|eot|>"}}),
    "both extras": _variant({"extra_special_tokens": ["<|tool|>"], "additional_special_tokens": ["<|eot|>"]}),
    "eos that is nowhere": _variant({"eos_token": "<|eot|>"}),
    "eos in the vocabulary only": _variant({"eos_token": "hello"}),
    "named token that is not special": _variant(
        {"eos_token": "<|im_end|>"}, tokenizer={"added_tokens": [*_OWN[:4], {**_OWN[4], "special": False}]}
    ),
    "named token as an object": _variant(
        {"eos_token": {"__type": "AddedToken", "content": "<|eot|>", **_FLAGS, "rstrip": True, "normalized": False}}
    ),
    "bos by flag": _variant({"add_bos_token": True}),
    "bos and eos by flags": _variant({"add_bos_token": True, "add_eos_token": True}),
    "eos by flag": _variant({"add_eos_token": True}),
    "no bos by flag": _variant({"add_bos_token": False}, tokenizer={"post_processor": _BOS}),
    "bos of the file": _variant(tokenizer={"post_processor": _BOS}),
    "bos of the file, eos by flag": _variant({"add_eos_token": True}, tokenizer={"post_processor": _BOS}),
    "bos by flag without one": _variant({"add_bos_token": True, "bos_token": None}),
    **{
        f"{kind}: {name}": _variant({"tokenizer_class": kind, **flags}, tokenizer=changes)
        for kind in ("LlamaTokenizerFast", "Qwen2TokenizerFast", "GPT2TokenizerFast")
        for name, flags, changes in (
            ("no flags", {}, {}),
            ("no flags, bos of the file", {}, {"post_processor": _BOS}),
            ("bos", {"add_bos_token": True}, {}),
            ("bos and eos", {"add_bos_token": True, "add_eos_token": True}, {}),
            ("no bos, bos of the file", {"add_bos_token": False}, {"post_processor": _BOS}),
        )
    },
}  # fmt: skip
"""The files of each variant by name."""


def write_variant(name: str, directory: Path) -> None:
    """Write the files of a variant."""
    directory.mkdir(parents=True, exist_ok=True)
    for file, value in VARIANTS[name].items():
        (directory / file).write_text(json.dumps(value), encoding="utf-8")
