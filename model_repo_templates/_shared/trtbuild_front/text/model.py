"""The tokenizer of a served model, from the files beside its engine.

It decides which files are read and what they mean for prompts, ends and templates. It does not know requests.

Files: ``tokenizer.json`` (needed), ``tokenizer_config.json``, ``special_tokens_map.json``, ``added_tokens.json``,
``chat_template.jinja``, ``generation_config.json``, ``config.json`` (each optional).
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

from trtbuild_front.faults import EngineError, RequestError, panics_as_errors
from trtbuild_front.limits import (
    BYTES_PER_TOKEN_UNPROVEN,
    MAX_TEXT_BYTES,
    MESSAGES_PER_TEXT,
    PROBE_BYTES_PER_TOKEN,
    SHORT_TEXT_BYTES,
    SMALLEST_TEXT_LIMIT_BYTES,
)
from trtbuild_front.text.chat import template_source
from trtbuild_front.text.detokenizer import Detokenizer, Vocabulary, vocabulary_of
from trtbuild_front.text.rendering import Renderers
from trtbuild_front.text.token_bounds import bytes_per_token
from trtbuild_front.text.whole_tokenizer import NAMED, TokenizerFilesError, named_tokens, text_of, whole_tokenizer


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _token_ids(value: object) -> tuple[int, ...]:
    if isinstance(value, bool) or value is None:
        return ()
    if isinstance(value, int):
        return (value,)
    return tuple(item for item in value if isinstance(item, int)) if isinstance(value, list) else ()


def size_bytes(text: str) -> int:
    """Return the length of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


class TooManyTokensError(Exception):
    """A text that does not fit, found out without looking at all of it.

    Attributes:
        seen: What was found: ``2047 tokens``, or ``at least 4100 tokens``.
    """

    def __init__(self, seen: str) -> None:
        super().__init__(seen)
        self.seen = seen


@dataclass(frozen=True, kw_only=True)
class TextModel:
    """A tokenizer with what its model's files say about it. Thread-safe.

    Attributes:
        tokenizer: The library's tokenizer, without truncation and padding.
        vocabulary: Decoding.
        end_ids: Ids that end a generation; the first one is the engine's ``end_id``. Empty when the files name none.
        pad_id: Id for padding, or None.
        vocab_size: Ids below it exist, in the tokenizer or in the model.
        bytes_per_token: Most bytes of text that one token stands for; None where there is no such bound.
        template: Renders conversations; None for a model without a chat template.
        sampling_defaults: What ``generation_config.json`` says of sampling, by the names of that file.
    """

    tokenizer: Tokenizer
    vocabulary: Vocabulary
    end_ids: tuple[int, ...]
    pad_id: int | None
    vocab_size: int
    bytes_per_token: int | None
    template: Renderers | None
    sampling_defaults: Mapping[str, float] = field(default_factory=dict)

    def text_limit_bytes(self, most_tokens: int) -> int:
        """Return the length above which a text is refused untokenized: it has more tokens, or it is just too much."""
        if self.bytes_per_token is not None:
            return min(MAX_TEXT_BYTES, most_tokens * self.bytes_per_token)
        return min(MAX_TEXT_BYTES, max(SMALLEST_TEXT_LIMIT_BYTES, most_tokens * BYTES_PER_TOKEN_UNPROVEN))

    def check_text(self, name: str, size: int, most_tokens: int) -> None:
        """Refuse a text by its length.

        Raises:
            RequestError: It is too long; the message names the bound.
        """
        limit = self.text_limit_bytes(most_tokens)
        if size <= limit:
            return
        reason = "the longest that this server tokenizes"
        if self.bytes_per_token is not None and limit == most_tokens * self.bytes_per_token:
            reason = f"this engine takes at most {most_tokens} tokens, and none stands for more than "
            reason += f"{self.bytes_per_token} bytes"
        elif limit < MAX_TEXT_BYTES:
            reason = f"this engine takes at most {most_tokens} tokens"
        raise RequestError(f"{name}: the prompt has {size} bytes; expected at most {limit} ({reason})")

    def check_messages(self, size: int, most_tokens: int) -> None:
        """Refuse a conversation by the length of its JSON text.

        Raises:
            RequestError: It is too long; the message names the bound.
        """
        text_limit = max(SMALLEST_TEXT_LIMIT_BYTES, self.text_limit_bytes(most_tokens))
        limit = min(MAX_TEXT_BYTES, MESSAGES_PER_TEXT * text_limit)
        if size > limit:
            raise RequestError(
                f"messages: {size} bytes; expected at most {limit} for an engine that takes {most_tokens} tokens"
            )

    def encode(self, text: str, *, most_tokens: int | None = None, adds_special_tokens: bool = True) -> list[int]:
        """Return the ids of a prompt, with the special tokens that the tokenizer itself adds (BOS).

        Raises:
            TooManyTokensError: It has more than ``most_tokens``; of a long text only the beginning may be looked at.
            RequestError: The tokenizer cannot encode it.
        """
        if most_tokens is not None and len(text) > SHORT_TEXT_BYTES:
            self._probe(text, most_tokens)
        encoding = self._encode(text, adds_special_tokens)
        if most_tokens is not None and len(encoding) > most_tokens:
            raise TooManyTokensError(f"{len(encoding)} tokens")
        return list(encoding.ids)

    def _probe(self, text: str, most_tokens: int) -> None:
        """Refuse a long text by its beginning.

        The tokens of a beginning are those of the whole, except around the cut: twice as many as the engine takes are
        too many, whatever follows.
        """
        cut = max(SHORT_TEXT_BYTES, PROBE_BYTES_PER_TOKEN * most_tokens)
        if len(text) > 2 * cut and (count := len(self._encode(text[:cut], False))) > 2 * most_tokens:
            raise TooManyTokensError(f"at least {count} tokens")

    def _encode(self, text: str, adds_special_tokens: bool) -> Encoding:
        try:
            # One text as a batch: `encode` holds the interpreter's lock for as long as it takes (tokenizers 0.23).
            with panics_as_errors():
                return self.tokenizer.encode_batch_fast([text], add_special_tokens=adds_special_tokens)[0]
        except TypeError as error:
            raise RequestError("the text has lone surrogates (\\ud800 to \\udfff), which are no characters") from error
        except (EngineError, MemoryError):
            raise
        except Exception as error:  # the library raises bare Exception
            raise RequestError(f"this model's tokenizer cannot encode the text: {error}") from error

    def render(self, messages: str, most_tokens: int, options: str = "") -> str:
        """Return the prompt of a conversation (JSON text), written by the model's chat template.

        Args:
            messages: The conversation.
            most_tokens: Most tokens of the prompt.
            options: What the template gets besides it, as JSON text (``parse_options`` of ``chat.py``).

        Raises:
            RequestError: Not a conversation, or the model has no chat template, or it refuses.
            OverloadError: No process could be started for it.
        """
        if self.template is None:
            raise RequestError(
                "messages: this model has no chat template; send text_input, or give it a chat_template.jinja"
            )
        return self.template.render(messages, self.text_limit_bytes(most_tokens), options)

    def encode_messages(self, messages: str) -> list[int]:
        """Return the ids of a conversation (JSON text); the template writes the special tokens."""
        return self.encode(self.render(messages, MAX_TEXT_BYTES), adds_special_tokens=False)

    def encode_word(self, word: str) -> list[tuple[int, ...]]:
        """Return the id sequences by which a word can appear: at the beginning of a line and after a space."""
        found = {tuple(self.encode(form, adds_special_tokens=False)) for form in (word, f" {word}")}
        return sorted(ids for ids in found if ids)

    @functools.cached_property
    def full_vocabulary(self) -> Vocabulary:
        """Decoding that keeps special tokens; made when it is first needed."""
        return vocabulary_of(self.tokenizer, keeps_special_tokens=True)

    def detokenizer(self, *, skips_special_tokens: bool = True) -> Detokenizer:
        """Begin to decode a sequence."""
        return (self.vocabulary if skips_special_tokens else self.full_vocabulary).start()

    def decode(self, token_ids: Sequence[int], *, skips_special_tokens: bool = True) -> str:
        """Return the text of a whole sequence."""
        if not skips_special_tokens:
            with panics_as_errors():
                return self.tokenizer.decode(list(token_ids), skip_special_tokens=False)
        detokenizer = self.detokenizer()
        return detokenizer.feed(token_ids) + detokenizer.finish()

    def close(self) -> None:
        """End the processes that render conversations."""
        if self.template is not None:
            self.template.close()


def _read_tokenizer(directory: Path, config: dict[str, Any], special_map: dict[str, Any]) -> Tokenizer:
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"{path}: not found; the front model needs the tokenizers library's own format")
    # The threads of this package are the parallelism; without it, a long text would keep short ones from the library's.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        whole = whole_tokenizer(_read_json(path), config, special_map, _read_json(directory / "added_tokens.json"))
        with panics_as_errors():
            tokenizer = Tokenizer.from_str(json.dumps(whole))
    except TokenizerFilesError:
        raise
    except Exception as error:  # the library raises bare Exception for unreadable files
        raise ValueError(f"{path}: not a tokenizer that this tokenizers library can read: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _end_ids(sources: Sequence[dict[str, Any]], tokenizer: Tokenizer, eos: str | None) -> tuple[int, ...]:
    """Return the ids that end a generation: those of every file, the one of the tokenizer last.

    A chat template ends turns with the tokenizer's token, which config.json of the base model often does not know. Ids
    that the model does not have cannot be generated and do not count.
    """
    found = [number for source in sources for number in _token_ids(source.get("eos_token_id"))]
    number = tokenizer.token_to_id(eos) if eos is not None else None
    limits = [size for source in sources for size in _token_ids(source.get("vocab_size"))]
    if number is not None and (not limits or number < min(limits)):
        found.append(number)
    return tuple(dict.fromkeys(found))


_SAMPLING_DEFAULTS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def _sampling_defaults(generation: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers that a model's authors recommend.

    Source: vLLM, ``ModelConfig.get_diff_sampling_param``: these keys are taken as they are, ``do_sample`` is not.
    """
    found = {name: generation.get(name) for name in _SAMPLING_DEFAULTS}
    return {
        name: value for name, value in found.items() if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def load_text_model(directory: Path, *, with_template: bool = True) -> TextModel:
    """Read the tokenizer files of a model.

    Args:
        directory: Where they are.
        with_template: Start a process that renders conversations, if the model has a chat template.

    Raises:
        ValueError: A file is missing or does not hold what it should; the message names it.
    """
    config = _read_json(directory / "tokenizer_config.json")
    special_map = _read_json(directory / "special_tokens_map.json")
    tokenizer = _read_tokenizer(directory, config, special_map)
    named = named_tokens(config, special_map)
    texts = {name: text for name in NAMED if (text := text_of(named.get(name)))}
    model = _read_json(directory / "config.json")
    inner = model.get("text_config")
    generation = _read_json(directory / "generation_config.json")
    sources = [generation, model, *([inner] if isinstance(inner, dict) else [])]
    pad_ids = _token_ids(generation.get("pad_token_id")) or _token_ids(model.get("pad_token_id"))
    source = template_source(directory, config) if with_template else None
    parts = json.loads(tokenizer.to_str())
    vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    return TextModel(
        tokenizer=tokenizer,
        vocabulary=vocabulary_of(tokenizer),
        end_ids=_end_ids(sources, tokenizer, texts.get("eos_token")),
        pad_id=pad_ids[0] if pad_ids else None,
        vocab_size=max(vocab_size, *_token_ids(model.get("vocab_size")), 0),
        bytes_per_token=bytes_per_token(parts),
        template=Renderers(source, texts) if source is not None else None,
        sampling_defaults=_sampling_defaults(generation),
    )
