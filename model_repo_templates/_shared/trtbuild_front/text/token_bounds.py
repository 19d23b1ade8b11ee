"""How much text one token can stand for: what makes a prompt too long without tokenizing it.

It decides from ``tokenizer.json`` alone. It does not know engines.

Source: huggingface/tokenizers 0.23, ``tokenizers/src/{normalizers,pre_tokenizers,models}``: what each may drop.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_NORMALIZERS = {
    "Prepend": 1.0,
    "ByteLevel": 1.0,
    # A code point has at most 4 bytes and no form is empty; composing loses no more: 𝛖 and two
    # marks (8 bytes) become ΰ (2).
    "NFC": 4.0,
    "NFD": 4.0,
    "NFKC": 4.0,
    "NFKD": 4.0,
    "Lowercase": 4.0,
}
"""Normalizers that drop nothing, with the bytes that may become one byte."""

_KEEPING = frozenset({"ByteLevel", "Metaspace", "Digits", "UnicodeScripts"})
"""Pre-tokenizers that drop nothing."""


def _steps(part: Mapping[str, Any] | None, key: str) -> list[Mapping[str, Any]]:
    if part is None:
        return []
    if part.get("type") != "Sequence":
        return [part]
    return [step for inner in part[key] for step in _steps(inner, key)]


def _shrinks(step: Mapping[str, Any]) -> float:
    """Return how many bytes a normalizer may make one of; infinite where it may drop text."""
    if step["type"] == "Replace" and "String" in step["pattern"]:
        old, new = step["pattern"]["String"].encode(), step["content"].encode()
        return max(1.0, len(old) / len(new)) if new else math.inf
    return _NORMALIZERS.get(step["type"], math.inf)


def _keeps(step: Mapping[str, Any]) -> bool:
    if step["type"] in {"Split", "Punctuation"}:
        return bool(step.get("behavior") != "Removed")
    return step["type"] in _KEEPING


def _covers_unknown_text(model: Mapping[str, Any], is_byte_level: bool) -> bool:
    """Return whether text that is not in the vocabulary still costs at least a token per character."""
    vocabulary = model["vocab"]
    if is_byte_level:
        return model.get("type") == "BPE" and sum(1 for token in vocabulary if len(token) == 1) >= 256
    tokens = vocabulary if isinstance(vocabulary, dict) else {entry[0] for entry in vocabulary}
    if model.get("byte_fallback") and all(f"<0x{byte:02X}>" in tokens for byte in range(256)):
        return True
    return model.get("type") == "BPE" and model.get("unk_token") is not None and not model.get("fuse_unk")


def bytes_per_token(parts: Mapping[str, Any]) -> int | None:
    """Return the most bytes of text that one token stands for, None where a token may stand for any length.

    Args:
        parts: The contents of ``tokenizer.json``.
    """
    normalizers = _steps(parts.get("normalizer"), "normalizers")
    splitters = _steps(parts.get("pre_tokenizer"), "pretokenizers")
    model = parts["model"]
    is_byte_level = any(step["type"] == "ByteLevel" for step in [*normalizers, *splitters])
    factor = math.prod(_shrinks(step) for step in normalizers)
    added = parts.get("added_tokens") or []
    swallows_spaces = any(token.get("lstrip") or token.get("rstrip") for token in added)
    if model.get("type") not in {"BPE", "Unigram"} or math.isinf(factor) or swallows_spaces:
        return None
    if not all(_keeps(step) for step in splitters) or not _covers_unknown_text(model, is_byte_level):
        return None
    vocabulary = model["vocab"] if isinstance(model["vocab"], dict) else [entry[0] for entry in model["vocab"]]
    # The characters of a byte-level token are bytes.
    longest = max((len(token) if is_byte_level else len(token.encode()) for token in vocabulary), default=0)
    longest_added = max((len(token["content"].encode()) for token in added), default=0)
    return math.ceil(factor * max(longest, longest_added, 4))
