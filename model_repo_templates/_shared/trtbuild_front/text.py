"""The tokenizer of a served model, from the files beside its engine.

It decides which files are read and what they mean for prompts, ends and templates. It does not know requests.

Files: ``tokenizer.json`` (needed), ``tokenizer_config.json``, ``special_tokens_map.json``, ``chat_template.jinja``,
``generation_config.json``, ``config.json`` (each optional).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from tokenizers import Tokenizer

from trtbuild_front.chat import ChatTemplate, parse_messages
from trtbuild_front.detokenizer import Detokenizer, Vocabulary, vocabulary_of
from trtbuild_front.faults import RequestError

_TOKEN_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _token_text(value: object) -> str | None:
    """Return the text of a token that is written as a string or as ``{"content": ...}``."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _token_ids(value: object) -> tuple[int, ...]:
    if isinstance(value, bool) or value is None:
        return ()
    if isinstance(value, int):
        return (value,)
    return tuple(item for item in value if isinstance(item, int)) if isinstance(value, list) else ()


def _template_source(directory: Path, config: dict[str, Any]) -> str | None:
    """Return the chat template: the file wins over ``tokenizer_config.json``; of several named ones, ``default``."""
    path = directory / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


@dataclass(frozen=True, kw_only=True)
class TextModel:
    """A tokenizer with what its model's files say about it. Thread-safe.

    Attributes:
        tokenizer: The library's tokenizer, without truncation and padding.
        vocabulary: Decoding.
        end_ids: Ids that end a generation; the first one is the engine's ``end_id``. Empty when the files name none.
        pad_id: Id for padding, or None.
        template: Chat template, or None.
    """

    tokenizer: Tokenizer
    vocabulary: Vocabulary
    end_ids: tuple[int, ...]
    pad_id: int | None
    template: ChatTemplate | None

    def encode(self, text: str) -> list[int]:
        """Return the ids of a prompt, with the special tokens that the tokenizer itself adds (BOS)."""
        return list(self.tokenizer.encode(text).ids)

    def encode_messages(self, messages: str) -> list[int]:
        """Return the ids of a conversation (JSON text); the template writes the special tokens.

        Raises:
            RequestError: Not a conversation, or the model has no chat template.
        """
        if self.template is None:
            raise RequestError(
                "messages: this model has no chat template; send text_input, or give it a chat_template.jinja"
            )
        prompt = self.template.render(parse_messages(messages))
        return list(self.tokenizer.encode(prompt, add_special_tokens=False).ids)

    def encode_word(self, word: str) -> list[tuple[int, ...]]:
        """Return the id sequences by which a word can appear: at the beginning of a line and after a space."""
        found = {tuple(self.tokenizer.encode(form, add_special_tokens=False).ids) for form in (word, f" {word}")}
        return sorted(ids for ids in found if ids)

    def detokenizer(self) -> Detokenizer:
        """Begin to decode a sequence."""
        return self.vocabulary.start()

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of a whole sequence."""
        detokenizer = self.detokenizer()
        return detokenizer.feed(token_ids) + detokenizer.finish()


def load(directory: Path) -> TextModel:
    """Read the tokenizer files of a model.

    Raises:
        ValueError: A file is missing or does not hold what it should; the message names it.
    """
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"{path}: not found; the front model needs the tokenizers library's own format")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for unreadable files
        raise ValueError(f"{path}: not a tokenizer that this tokenizers library can read: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    config = _read_json(directory / "tokenizer_config.json")
    special = {**_read_json(directory / "special_tokens_map.json"), **config}
    texts = {name: text for name in _TOKEN_NAMES if (text := _token_text(special.get(name)))}
    model = _read_json(directory / "config.json")
    generation = _read_json(directory / "generation_config.json")
    end_ids = _token_ids(generation.get("eos_token_id")) or _token_ids(model.get("eos_token_id"))
    if not end_ids and "eos_token" in texts and (number := tokenizer.token_to_id(texts["eos_token"])) is not None:
        end_ids = (number,)
    pad_ids = _token_ids(generation.get("pad_token_id")) or _token_ids(model.get("pad_token_id"))
    source = _template_source(directory, config)
    try:
        template = ChatTemplate(source, texts) if source is not None else None
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"{directory}: the chat template is not valid Jinja: {error}") from error
    return TextModel(
        tokenizer=tokenizer,
        vocabulary=vocabulary_of(tokenizer),
        end_ids=end_ids,
        pad_id=pad_ids[0] if pad_ids else None,
        template=template,
    )
