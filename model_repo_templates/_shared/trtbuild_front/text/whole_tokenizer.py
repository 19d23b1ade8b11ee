"""One tokenizer.json with all that the files beside it add to it. Pure: JSON in, JSON out.

``tokenizer.json`` is not the whole tokenizer: transformers adds tokens from ``tokenizer_config.json``
(``added_tokens_decoder``, the named and the extra special tokens), or, where that has no ``added_tokens_decoder``, from
``added_tokens.json`` and ``special_tokens_map.json``. Builds write the result into the engine's entry; the server does
it again for entries of older builds, which changes nothing where it was done.

Releases 4 and 5 give the same tokens but for this, where 5 is followed: 4 refuses a list of ``extra_special_tokens``,
and its classes of Llama and Gemma put BOS and EOS around a text by ``add_bos_token`` and ``add_eos_token`` instead of
by tokenizer.json's own post-processor; 5 ignores both flags where there is a tokenizer.json.
Source: transformers 5.24, ``tokenization_utils_base.py`` (``_from_pretrained``), ``tokenization_utils_tokenizers.py``
(``__init__``, ``_post_init``); tokenizers 0.22, ``added_vocabulary.rs`` (``add_tokens``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class TokenizerFilesError(ValueError):
    """Two files say different things of a token."""


def text_of(value: object) -> str | None:
    """Return the text of a token that is written as a string or as ``{"content": ...}``."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def named_tokens(config: Mapping[str, Any], special_map: Mapping[str, Any]) -> dict[str, Any]:
    """Return the named special tokens and extra ones; the map counts where the config has no decoder of its own."""
    keys = (*NAMED, "additional_special_tokens", "extra_special_tokens")
    found = {key: config[key] for key in keys if config.get(key)}
    if not isinstance(config.get("added_tokens_decoder"), dict):
        found |= {key: special_map[key] for key in keys if special_map.get(key)}
    return found


def whole_tokenizer(
    tokenizer: Mapping[str, Any],
    config: Mapping[str, Any],
    special_map: Mapping[str, Any],
    added: Mapping[str, Any],
    *,
    is_strict: bool = False,
) -> dict[str, Any]:
    """Return ``tokenizer.json`` with everything that the other files add.

    Args:
        tokenizer: tokenizer.json.
        config: tokenizer_config.json, or nothing.
        special_map: special_tokens_map.json, or nothing.
        added: added_tokens.json, or nothing.
        is_strict: Refuse a token that gets another id than a file says; transformers goes on with the other id.

    Raises:
        TokenizerFilesError: A file does not hold tokens, or with ``is_strict`` two say different things of one.
    """
    vocabulary = _Added(tokenizer)
    named = named_tokens(config, special_map)
    for token, number, place in _listed(config, added, named):
        found = vocabulary.add(token)
        if is_strict and found != number:
            raise TokenizerFilesError(f"{token['content']!r} is {number} by {place}, but {found} by tokenizer.json")
    for value in _special(named):
        vocabulary.make_special(value)
    return {**tokenizer, "added_tokens": vocabulary.tokens()}


def _listed(
    config: Mapping[str, Any], added: Mapping[str, Any], named: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Any], int, str]]:
    """Yield the tokens that are listed with an id: token, id, and the file that says so."""
    decoder = config.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        place = "tokenizer_config.json (added_tokens_decoder)"
        for key, value in sorted(decoder.items(), key=lambda item: int(item[0]) if str(item[0]).isdecimal() else -1):
            if not str(key).isdecimal() or not isinstance(value, dict) or text_of(value) is None:
                raise TokenizerFilesError(f"{place}: expected a token by its id, got {key!r}")
            yield _token(value, special=value.get("special") is True), int(key), place
        return
    special = {text_of(value) for value in _special(named)}
    for text, number in sorted(added.items(), key=lambda item: item[1] if isinstance(item[1], int) else -1):
        if not isinstance(number, int) or not text:
            raise TokenizerFilesError(f"added_tokens.json: expected the id of a token, got {number!r} for {text!r}")
        is_special = text in special
        yield _token({"content": text, "normalized": not is_special}, special=is_special), number, "added_tokens.json"


def _special(named: Mapping[str, Any]) -> Iterator[object]:
    """Yield the special tokens, the named ones first."""
    yield from (named[key] for key in NAMED if key in named)
    extra = named.get("extra_special_tokens") or named.get("additional_special_tokens")
    if isinstance(extra, dict):
        yield from extra.values()
    elif isinstance(extra, list):
        yield from extra


def _token(value: object, *, special: bool) -> dict[str, Any]:
    """Return a token as tokenizer.json writes it, without its id; what is not said has the library's default."""
    given: Mapping[str, Any] = value if isinstance(value, dict) else {}
    flags = {name: given.get(name) is True for name in ("single_word", "lstrip", "rstrip")}
    normalized = given.get("normalized")
    return {
        "content": text_of(value),
        **flags,
        "normalized": normalized if isinstance(normalized, bool) else not special,
        "special": special,
    }


class _Added:
    """The added tokens of a tokenizer, by content."""

    def __init__(self, tokenizer: Mapping[str, Any]) -> None:
        model = tokenizer.get("model")
        vocab = model.get("vocab") if isinstance(model, dict) else None
        if isinstance(vocab, dict):
            self._vocab = vocab
        else:  # Unigram: [piece, score] in the order of ids
            pieces = vocab if isinstance(vocab, list) else []
            self._vocab = {piece[0]: number for number, piece in enumerate(pieces)}
        self._size = len(self._vocab)
        listed = tokenizer.get("added_tokens")
        self._tokens: dict[str, dict[str, Any]] = {
            token["content"]: dict(token) for token in (listed if isinstance(listed, list) else [])
        }

    def tokens(self) -> list[dict[str, Any]]:
        """Return them by id, as tokenizer.json lists them."""
        return sorted(self._tokens.values(), key=lambda token: int(token["id"]))

    def id_of(self, text: str) -> int | None:
        """Return the id of a token, added or not; None when there is none."""
        if text in self._tokens:
            return int(self._tokens[text]["id"])
        return self._vocab.get(text)

    def add(self, token: dict[str, Any]) -> int:
        """Add a token, or take its flags for one that is there; return its id."""
        text = token["content"]
        found = self.id_of(text)
        if found is None:
            last = max((int(each["id"]) for each in self._tokens.values()), default=-1)
            found = max(last + 1, self._size)
        self._tokens[text] = {"id": found, **token}
        return found

    def make_special(self, value: object) -> None:
        """Make a token special, adding it where it is none yet; what it says of spaces around it is kept."""
        text = text_of(value)
        if text is None:
            return
        known = self._tokens.get(text)
        if isinstance(value, dict) or known is None:
            self.add(_token(value, special=True))
        elif not known["special"]:
            self._tokens[text] = {"id": known["id"], **_token(text, special=True)}
