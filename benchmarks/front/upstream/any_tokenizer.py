"""``transformers.AutoTokenizer`` where it is installed, else the library below it, which is cheaper per call."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class AnyTokenizer(Protocol):
    def encode(self, text: str) -> list[int]: ...
    def decode(self, token_ids: list[int]) -> str: ...


class _Plain:
    def __init__(self, directory: str) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(Path(directory) / "tokenizer.json"))

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text).ids)

    def decode(self, token_ids: list[int]) -> str:
        return str(self._tokenizer.decode(token_ids))


class _Auto:
    def __init__(self, directory: str) -> None:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(directory)

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text))

    def decode(self, token_ids: list[int]) -> str:
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=True))


def kind() -> str:
    """Return which of the two :func:`load` will use."""
    from importlib.util import find_spec

    return "transformers.AutoTokenizer" if find_spec("transformers") else "tokenizers"


def load(directory: str) -> AnyTokenizer:
    """Return the tokenizer in ``directory``."""
    return _Auto(directory) if kind().startswith("transformers") else _Plain(directory)
