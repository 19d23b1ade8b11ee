"""From token ids to text, a few tokens at a time, equal to decoding everything at the end.

It decides how each kind of ``tokenizer.json`` decoder is run incrementally. It does not know about stop strings.

``"".join(feed(part) for part in parts) + finish()`` equals ``Tokenizer.decode(all, skip_special_tokens=True)``
however the ids are cut into parts. Text is given out as soon as it cannot change any more, and the cost of a token
does not depend on what came before it.

Source: huggingface/tokenizers, ``decoders`` and ``pre_tokenizers/byte_level.rs`` (what each decoder does); checked by
property tests against the library itself.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from trtbuild_front.text.decoder_chain import ChainVocabulary, UnknownStepError, WholeVocabulary, decoder_steps

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Detokenizer(Protocol):
    """Incremental decoding of one sequence."""

    def feed(self, token_ids: Sequence[int]) -> str:
        """Take the next ids; return the text that is certain now."""

    def finish(self) -> str:
        """Return what was held back. Nothing may be fed afterwards."""


class Vocabulary(Protocol):
    """What all sequences of one tokenizer share."""

    def start(self) -> Detokenizer:
        """Begin a sequence."""


def _bytes_by_char() -> dict[str, int]:
    """Return the printable stand-in of every byte in byte-level vocabularies (GPT-2's table)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {chr(byte): byte for byte in plain}
    rest = (byte for byte in range(256) if byte not in set(plain))
    table.update({chr(256 + offset): byte for offset, byte in enumerate(rest)})
    return table


def _token_texts(tokenizer: Tokenizer, *, keeps_special_tokens: bool = False) -> list[str | None]:
    """Return each id's token; None for ids that do not exist and, unless they are kept, for special tokens."""
    added = tokenizer.get_added_tokens_decoder()
    special = {number for number, token in added.items() if token.special and not keeps_special_tokens}
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    texts: list[str | None] = [None] * (max(vocabulary.values(), default=-1) + 1)
    for text, number in vocabulary.items():
        texts[number] = None if number in special else text
    return texts


class ByteLevelVocabulary:
    """Decoder ``ByteLevel``: every token is a string of bytes, and the text is their UTF-8."""

    def __init__(self, tokenizer: Tokenizer, *, keeps_special_tokens: bool = False) -> None:
        table = _bytes_by_char()
        self.pieces: list[bytes] = []
        for text in _token_texts(tokenizer, keeps_special_tokens=keeps_special_tokens):
            if text is None:
                self.pieces.append(b"")
            elif all(char in table for char in text):
                self.pieces.append(bytes(table[char] for char in text))
            else:  # an added token that was never cut into bytes
                self.pieces.append(text.encode())

    def start(self) -> Detokenizer:
        """Begin a sequence."""
        return _ByteLevel(self.pieces)


class _ByteLevel:
    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token_ids: Sequence[int]) -> str:
        pieces = self._pieces
        size = len(pieces)
        return self._decoder.decode(b"".join([pieces[number] for number in token_ids if 0 <= number < size]))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class PieceVocabulary:
    """Decoders of the SentencePiece kind: ``Replace``, ``ByteFallback``, ``Fuse``, leading ``Strip``, ``Metaspace``.

    Attributes:
        texts: Text of each id; None for what is skipped.
        byte_values: Value of each byte token, by id.
        strip: Character to drop at the beginning of the text, and how many of them at most.
        first_texts: Text of each id when it is the first one that is not skipped, if that differs (``Metaspace``).
    """

    def __init__(
        self, tokenizer: Tokenizer, steps: Sequence[Mapping[str, Any]], *, keeps_special_tokens: bool = False
    ) -> None:
        self.texts = _token_texts(tokenizer, keeps_special_tokens=keeps_special_tokens)
        self.byte_values: dict[int, int] = {}
        self.strip = ("", 0)
        self.first_texts: dict[int, str] = {}
        for step in steps:
            if step["type"] == "ByteFallback":
                self._find_byte_tokens()
            elif step["type"] == "Replace":
                self._replace(step["pattern"]["String"], step["content"])
            elif step["type"] == "Metaspace":
                self._metaspace(step["replacement"], step.get("prepend_scheme", "always"))
            elif step["type"] == "Strip":
                self.strip = (step["content"], step["start"])

    def _find_byte_tokens(self) -> None:
        for number, text in enumerate(self.texts):
            if text is not None and (match := _BYTE_TOKEN.fullmatch(text)):
                self.byte_values[number] = int(match[1], 16)

    def _replace(self, old: str, new: str) -> None:
        self.texts = [text if text is None else text.replace(old, new) for text in self.texts]

    def _metaspace(self, mark: str, scheme: str) -> None:
        if scheme != "never":
            self.first_texts = {
                number: text.replace(mark, "") for number, text in enumerate(self.texts) if text and mark in text
            }
        self._replace(mark, " ")

    def start(self) -> Detokenizer:
        """Begin a sequence."""
        return _Pieces(self)


class _Pieces:
    def __init__(self, vocabulary: PieceVocabulary) -> None:
        self._vocabulary = vocabulary
        self._run = bytearray()
        self._is_first = True
        self._char, self._to_strip = vocabulary.strip

    def feed(self, token_ids: Sequence[int]) -> str:
        texts, byte_values = self._vocabulary.texts, self._vocabulary.byte_values
        size = len(texts)
        out: list[str] = []
        for number in token_ids:
            text = texts[number] if 0 <= number < size else None
            if text is None:
                continue
            if self._is_first:
                self._is_first = False
                text = self._vocabulary.first_texts.get(number, text)
            if number in byte_values:
                self._run.append(byte_values[number])
                continue
            if self._run:
                out.append(self._end_run())
            out.append(text)
        return self._strip("".join(out))

    def finish(self) -> str:
        return self._strip(self._end_run())

    def _end_run(self) -> str:
        """Return the text of a run of byte tokens: it is valid as a whole, or every byte is a replacement character."""
        run = bytes(self._run)
        self._run.clear()
        try:
            return run.decode()
        except UnicodeDecodeError:
            return "\ufffd" * len(run)

    def _strip(self, text: str) -> str:
        while self._to_strip and text:
            if not text.startswith(self._char):
                self._to_strip = 0
            else:
                text = text[len(self._char) :]
                self._to_strip -= 1
        return text


def _is_piece_step(step: Mapping[str, Any]) -> bool:
    kind = step["type"]
    if kind == "Replace":
        return bool(step["pattern"].get("String"))
    if kind == "Strip":
        return len(step["content"]) == 1 and step["stop"] == 0
    return kind in {"ByteFallback", "Fuse", "Metaspace"}


def vocabulary_of(tokenizer: Tokenizer, *, keeps_special_tokens: bool = False) -> Vocabulary:
    """Return the fastest exact way to decode with ``tokenizer``."""
    keeps = keeps_special_tokens
    steps = decoder_steps(tokenizer)
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return ByteLevelVocabulary(tokenizer, keeps_special_tokens=keeps)
    # Each step looks at the result of the one before, so only the orders that are in use are taken here.
    shape = "".join(
        {"Replace": "R", "ByteFallback": "B", "Fuse": "F", "Strip": "S", "Metaspace": "M"}.get(k, "?") for k in kinds
    )
    if re.fullmatch(r"R*B?(FS?)?|B?M", shape) and all(_is_piece_step(step) for step in steps):
        return PieceVocabulary(tokenizer, steps, keeps_special_tokens=keeps)
    try:
        return ChainVocabulary(_token_texts(tokenizer, keeps_special_tokens=keeps), steps, _bytes_by_char())
    except UnknownStepError as error:
        return WholeVocabulary(tokenizer, f"decoder {error}", keeps_special_tokens=keeps)
