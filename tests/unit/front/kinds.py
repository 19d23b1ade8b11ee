"""Small tokenizers of the kinds that decoder-only models use, made in memory."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = [
    "The quick brown fox jumps over the lazy dog. It's a test: 1234, 5678!",
    "Größe, naïve café, ελληνικά, русский, 日本語, 한국어, 🙂👩‍👩‍👧.",
    "def main():\n    return {'a': [1, 2, 3]}  # comment",
]
SPECIAL = ["<s>", "</s>", "<bad>", "<|end|>"]
TEMPLATE = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"


@functools.cache
def byte_level() -> Tokenizer:
    """GPT-2's and Llama 3's kind: every token is bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.add_tokens([AddedToken("<tool→>", normalized=False)])  # an added token outside of the byte alphabet
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return tokenizer


def _pieces(with_bytes: bool) -> list[str]:
    words = ["▁the", "▁a", "▁test", "qu", "ick", "▁", "▁▁", "é", "日", ".", "▁<0x", "x", "▁quick", "\ufffd", "ing"]
    byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)] if with_bytes else []
    return [*SPECIAL, *byte_pieces, *words]


def _piece_tokenizer(*, with_bytes: bool = True) -> Tokenizer:
    vocabulary = {piece: number for number, piece in enumerate(_pieces(with_bytes))}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<bad>", byte_fallback=with_bytes, fuse_unk=True))
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


@functools.cache
def llama2() -> Tokenizer:
    """Llama 2's and Mistral's kind: metaspace, byte fallback, one leading space dropped."""
    tokenizer = _piece_tokenizer()
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


@functools.cache
def gemma() -> Tokenizer:
    """Gemma's kind: as Llama 2's, but nothing is dropped."""
    tokenizer = _piece_tokenizer()
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


@functools.cache
def metaspace() -> Tokenizer:
    """T5's and older converters' kind."""
    tokenizer = _piece_tokenizer(with_bytes=False)
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    return tokenizer


@functools.cache
def metaspace_never() -> Tokenizer:
    """Metaspace that keeps the first space."""
    tokenizer = _piece_tokenizer(with_bytes=False)
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="never")
    return tokenizer


@functools.cache
def fallback_metaspace() -> Tokenizer:
    """Byte fallback before Metaspace."""
    tokenizer = _piece_tokenizer()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    return tokenizer


KINDS = {
    "byte_level": byte_level,
    "llama2": llama2,
    "gemma": gemma,
    "metaspace": metaspace,
    "metaspace_never": metaspace_never,
    "fallback_metaspace": fallback_metaspace,
}


def write_directory(directory: Path, **files: dict[str, Any] | str | None) -> Path:
    """Write tokenizer files; ``files`` replaces or (None) drops one by its stem, e.g. ``config={...}``."""
    contents: dict[str, dict[str, Any] | str | None] = {
        "tokenizer_config": {
            "bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": TEMPLATE, "model_max_length": 512,
        },
        "generation_config": {"eos_token_id": [1, 3], "pad_token_id": 0},
        "config": {"eos_token_id": 1},
        **files,
    }  # fmt: skip
    byte_level().save(str(directory / "tokenizer.json"))
    for stem, value in contents.items():
        if value is not None:
            name = f"{stem}.json" if isinstance(value, dict) else "chat_template.jinja"
            text = json.dumps(value) if isinstance(value, dict) else value
            (directory / name).write_text(text, encoding="utf-8")
    return directory
