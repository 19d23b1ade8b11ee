"""Decoders of any order, a few tokens at a time: every step of the chain is run on what the step before it is sure of.

It decides what each step holds back. Two steps cannot be run this way (they look at the whole text with a regular
expression or a list of replacements); a chain that has one gives everything out at the end.

Source: huggingface/tokenizers 0.23, ``tokenizers/src/decoders/*.rs`` and ``pre_tokenizers/{byte_level,metaspace}.rs``
(``decode_chain`` of each); checked by property tests against ``Tokenizer.decode``.
"""

from __future__ import annotations

import codecs
import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from trtbuild_front.faults import panics_as_errors

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_CLEANED = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
    (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip


class UnknownStepError(Exception):
    """A step that cannot be run a few tokens at a time."""


class Step(Protocol):
    """One decoder of a sequence, working on the pieces that the one before it gives out."""

    def feed(self, pieces: Iterable[str]) -> list[str]:
        """Take more pieces; return those that are certain now."""

    def finish(self) -> list[str]:
        """Return what was held back."""


class _Each:
    """A step that maps every piece by itself; the first one perhaps in another way."""

    def __init__(self, rest: Callable[[str], str], first: Callable[[str], str] | None = None) -> None:
        self._next, self._rest = first or rest, rest

    def feed(self, pieces: Iterable[str]) -> list[str]:
        out = []
        for piece in pieces:
            out.append(self._next(piece))
            self._next = self._rest
        return out

    def finish(self) -> list[str]:
        return []


class _Last:
    """``BPEDecoder``: the suffix of every piece is a space, of the last one nothing."""

    def __init__(self, suffix: str) -> None:
        self._suffix = suffix
        self._held: list[str] = []

    def feed(self, pieces: Iterable[str]) -> list[str]:
        known = [*self._held, *pieces]
        self._held = known[-1:]
        return [piece.replace(self._suffix, " ") for piece in known[:-1]]

    def finish(self) -> list[str]:
        return [piece.replace(self._suffix, "") for piece in self._held]


class _Ctc:
    """``CTC``: repeated pieces are one, padding is nothing."""

    def __init__(self, pad: str, delimiter: str, cleans: bool) -> None:
        self._pad, self._delimiter, self._cleans = pad, delimiter, cleans
        self._before: str | None = None

    def feed(self, pieces: Iterable[str]) -> list[str]:
        out = []
        for piece in pieces:
            is_new, self._before = piece != self._before, piece
            text = piece.replace(self._pad, "") if is_new else ""
            if self._cleans:
                text = _clean(text).replace(self._delimiter, " ")
            if text:
                out.append(text)
        return out

    def finish(self) -> list[str]:
        return []


class _Bytes:
    """``ByteFallback``: a run of byte tokens is text as a whole, or every byte is a replacement character."""

    def __init__(self) -> None:
        self._run = bytearray()

    def feed(self, pieces: Iterable[str]) -> list[str]:
        out: list[str] = []
        for piece in pieces:
            if match := _BYTE_TOKEN.fullmatch(piece):
                self._run.append(int(match[1], 16))
            else:
                out += [*self.finish(), piece]
        return out

    def finish(self) -> list[str]:
        run = bytes(self._run)
        self._run.clear()
        if not run:
            return []
        try:
            return [run.decode()]
        except UnicodeDecodeError:
            return ["\ufffd"] * len(run)


class _Utf8:
    """``ByteLevel``: the bytes of all pieces are one text."""

    def __init__(self, table: Mapping[str, int]) -> None:
        self._table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, pieces: Iterable[str]) -> list[str]:
        return [self._decoder.decode(b"".join(self._as_bytes(piece) for piece in pieces))]

    def _as_bytes(self, piece: str) -> bytes:
        if all(char in self._table for char in piece):
            return bytes(self._table[char] for char in piece)
        return piece.encode()

    def finish(self) -> list[str]:
        return [self._decoder.decode(b"", final=True)]


class _StripText:
    """``Strip`` of one text that comes in parts: some characters at its beginning, some at its end."""

    def __init__(self, char: str, start: int, stop: int) -> None:
        self._char, self._start, self._stop = char, start, stop
        self._held = ""

    def feed(self, pieces: Iterable[str]) -> list[str]:
        text = self._held + "".join(pieces)
        while self._start and text:
            self._start = self._start - 1 if text[0] == self._char else 0
            text = text[1:] if text[0] == self._char else text
        kept = len(text)
        while kept and len(text) - kept < self._stop and text[kept - 1] == self._char:
            kept -= 1
        self._held = text[kept:]
        return [text[:kept]]

    def finish(self) -> list[str]:
        return []


class _ReplaceText:
    """``Replace`` of a string in one text that comes in parts."""

    def __init__(self, old: str, new: str) -> None:
        self._old, self._new = old, new
        self._held = ""

    def feed(self, pieces: Iterable[str]) -> list[str]:
        out: list[str] = []
        text = self._held + "".join(pieces)
        while (at := text.find(self._old)) >= 0:
            out += [text[:at], self._new]
            text = text[at + len(self._old) :]
        longest = min(len(self._old) - 1, len(text))
        size = next(n for n in range(longest, -1, -1) if self._old.startswith(text[len(text) - n :]))
        self._held = text[len(text) - size :]
        return [*out, text[: len(text) - size]]

    def finish(self) -> list[str]:
        return [self._held]


def _clean(text: str) -> str:
    for old, new in _CLEANED:
        text = text.replace(old, new)
    return text


def _strip_each(char: str, start: int, stop: int) -> Callable[[str], str]:
    def strip(piece: str) -> str:
        for _ in range(start):
            piece = piece[1:] if piece[:1] == char else piece
        for _ in range(stop):
            piece = piece[:-1] if piece[-1:] == char else piece
        return piece

    return strip


def _metaspace(step: Mapping[str, Any]) -> _Each:
    mark, drops = step["replacement"], step.get("prepend_scheme", "always") != "never"
    return _Each(lambda piece: piece.replace(mark, " "), lambda piece: piece.replace(mark, "" if drops else " "))


def _word_piece(step: Mapping[str, Any]) -> _Each:
    prefix, clean = step["prefix"], _clean if step.get("cleanup") else str

    def rest(piece: str) -> str:
        return clean(piece[len(prefix) :] if piece.startswith(prefix) else f" {piece}")

    return _Each(rest, clean)


def _replace_each(step: Mapping[str, Any]) -> Callable[[str], str]:
    if "String" in step["pattern"]:
        old, new = step["pattern"]["String"], step["content"]
        return lambda piece: piece.replace(old, new) if old else piece
    return _replace_by_expression(step["pattern"]["Regex"], step["content"])


@functools.lru_cache(64)
def _replace_by_expression(pattern: str, content: str) -> Callable[[str], str]:
    """Return a replacement by the library: its regular expressions are not Python's. A token is asked for once."""
    from tokenizers import Regex, decoders

    library = decoders.Replace(Regex(pattern), content)
    return functools.lru_cache(1 << 17)(lambda piece: str(library.decode([piece])))


def _on_pieces(step: Mapping[str, Any], table: Mapping[str, int]) -> Step:
    kind = step["type"]
    if kind == "Replace":
        return _Each(_replace_each(step))
    if kind == "Strip" and len(step["content"]) == 1:
        return _Each(_strip_each(step["content"], step["start"], step["stop"]))
    if kind == "Metaspace":
        return _metaspace(step)
    if kind == "WordPiece":
        return _word_piece(step)
    if kind == "BPEDecoder":
        return _Last(step["suffix"])
    if kind == "CTC":
        return _Ctc(step["pad_token"], step["word_delimiter_token"], bool(step.get("cleanup")))
    if kind == "ByteFallback":
        return _Bytes()
    if kind == "ByteLevel":
        return _Utf8(table)
    if kind == "Fuse":
        return _Each(str)
    raise UnknownStepError(kind)


def _on_text(step: Mapping[str, Any]) -> Step:
    """Return a step that comes after ``Fuse`` or ``ByteLevel``, when all pieces are one text."""
    kind = step["type"]
    if kind == "Fuse":
        return _Each(str)
    if kind == "Strip" and len(step["content"]) == 1:
        return _StripText(step["content"], step["start"], step["stop"])
    if kind == "Replace" and step["pattern"].get("String"):
        return _ReplaceText(step["pattern"]["String"], step["content"])
    if kind == "Metaspace":
        drops = step.get("prepend_scheme", "always") != "never"
        return _ReplaceText(step["replacement"], "" if drops else " ")
    if kind == "BPEDecoder" and step["suffix"]:
        return _ReplaceText(step["suffix"], "")
    raise UnknownStepError(f"{kind} of a whole text")


def _chain(steps: Sequence[Mapping[str, Any]], table: Mapping[str, int]) -> list[Step]:
    chain: list[Step] = []
    is_text = False
    for step in steps:
        chain.append(_on_text(step) if is_text else _on_pieces(step, table))
        is_text = is_text or step["type"] in {"Fuse", "ByteLevel"}
    return chain


class _Chained:
    """One sequence."""

    def __init__(self, texts: Sequence[str | None], chain: Sequence[Step], separator: str) -> None:
        self._texts, self._chain, self._separator = texts, chain, separator
        self._is_first = True

    def feed(self, token_ids: Sequence[int]) -> str:
        size = len(self._texts)
        pieces = [text for n in token_ids if 0 <= n < size and (text := self._texts[n]) is not None]
        if self._separator and pieces:
            before = "" if self._is_first else self._separator
            pieces = [(self._separator if at else before) + piece for at, piece in enumerate(pieces)]
            self._is_first = False
        for step in self._chain:
            pieces = step.feed(pieces)
        return "".join(pieces)

    def finish(self) -> str:
        pieces: list[str] = []
        for step in self._chain:
            pieces = [*step.feed(pieces), *step.finish()]
        return "".join(pieces)


class ChainVocabulary:
    """Decoders of any kind and order whose steps can be run a few tokens at a time."""

    def __init__(
        self, texts: Sequence[str | None], steps: Sequence[Mapping[str, Any]], table: Mapping[str, int]
    ) -> None:
        """Raise :class:`UnknownStepError` for a step that cannot."""
        self._texts, self._table = texts, table
        self._separator = " " if [step["type"] for step in steps] == ["none"] else ""
        self._steps = () if self._separator else tuple(steps)
        _chain(self._steps, table)

    def start(self) -> _Chained:
        """Begin a sequence."""
        return _Chained(self._texts, _chain(self._steps, self._table), self._separator)


class WholeVocabulary:
    """Decoders that nothing is known about: exact, and all of the text comes at the end."""

    def __init__(self, tokenizer: Tokenizer, reason: str, *, keeps_special_tokens: bool = False) -> None:
        self.tokenizer, self.reason, self._keeps_special_tokens = tokenizer, reason, keeps_special_tokens

    def start(self) -> _Whole:
        """Begin a sequence."""
        return _Whole(self.tokenizer, skips_special_tokens=not self._keeps_special_tokens)


class _Whole:
    def __init__(self, tokenizer: Tokenizer, *, skips_special_tokens: bool) -> None:
        self._tokenizer, self._skips_special_tokens = tokenizer, skips_special_tokens
        self._ids: list[int] = []

    def feed(self, token_ids: Sequence[int]) -> str:
        self._ids.extend(number for number in token_ids if number >= 0)
        return ""

    def finish(self) -> str:
        with panics_as_errors():
            return str(self._tokenizer.decode(self._ids, skip_special_tokens=self._skips_special_tokens))


def decoder_steps(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Return the decoders of a tokenizer in order, sequences in sequences flattened."""

    def flat(decoder: dict[str, Any]) -> list[dict[str, Any]]:
        return [s for d in decoder["decoders"] for s in flat(d)] if decoder["type"] == "Sequence" else [decoder]

    return flat(json.loads(tokenizer.to_str()).get("decoder") or {"type": "none"})
