"""Streamed text is the text: whatever the tokens and however they come."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from trtbuild_front.detokenizer import (
    ByteLevelVocabulary,
    GenericVocabulary,
    PieceVocabulary,
    Vocabulary,
    vocabulary_of,
)

from tests.unit.front import kinds

CUTS = st.lists(st.integers(1, 5), max_size=60)


@functools.cache
def _vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    return vocabulary_of(tokenizer)


def _stream(tokenizer: Tokenizer, ids: list[int], cuts: list[int]) -> list[str]:
    """Return the pieces for ``ids`` fed in parts of the given sizes (the rest one by one)."""
    detokenizer = _vocabulary(tokenizer).start()
    pieces, at = [], 0
    for size in [*cuts, *([1] * len(ids))]:
        if at < len(ids):
            pieces.append(detokenizer.feed(ids[at : at + size]))
            at += size
    return [*pieces, detokenizer.finish()]


@pytest.mark.parametrize("kind", sorted(kinds.KINDS))
@given(data=st.data())
@settings(max_examples=120)
def test_any_ids_in_any_parts_equal_the_library(kind: str, data: st.DataObject) -> None:
    tokenizer = kinds.KINDS[kind]()
    beyond = tokenizer.get_vocab_size() + 3  # ids that do not exist are skipped, as by the library
    ids = data.draw(st.lists(st.integers(0, beyond), max_size=40))
    assert "".join(_stream(tokenizer, ids, data.draw(CUTS))) == tokenizer.decode(ids, skip_special_tokens=True)


@given(text=st.text(max_size=60), cuts=CUTS)
@settings(max_examples=150)
def test_any_text_comes_back(text: str, cuts: list[int]) -> None:
    tokenizer = kinds.byte_level()
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    streamed = "".join(_stream(tokenizer, ids, cuts))
    assert streamed == tokenizer.decode(ids)
    if not any(special in text for special in kinds.SPECIAL):
        assert streamed == text


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
@settings(max_examples=60)
def test_no_piece_of_valid_text_holds_half_a_character(text: str) -> None:
    tokenizer = kinds.byte_level()
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    pieces = _stream(tokenizer, ids, [])
    assert "".join(pieces).count("\ufffd") == sum(piece.count("\ufffd") for piece in pieces) == text.count("\ufffd")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        pytest.param("byte_level", ByteLevelVocabulary, id="byte_level"),
        pytest.param("llama2", PieceVocabulary, id="llama2"),
        pytest.param("gemma", PieceVocabulary, id="gemma"),
        pytest.param("metaspace", PieceVocabulary, id="metaspace"),
        pytest.param("fallback_metaspace", PieceVocabulary, id="fallback_metaspace"),
    ],
)
def test_the_usual_decoders_have_their_own_way(kind: str, expected: type) -> None:
    assert type(vocabulary_of(kinds.KINDS[kind]())) is expected


@pytest.mark.parametrize(
    "decoder",
    [
        pytest.param(None, id="none"),
        pytest.param(decoders.Sequence([decoders.Strip(" ", 1, 0), decoders.Fuse()]), id="strip-per-token"),
        pytest.param(decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 0, 1)]), id="strip-at-the-end"),
    ],
)
def test_other_decoders_are_left_to_the_library(decoder: object) -> None:
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    if decoder is not None:
        tokenizer.decoder = decoder
    assert type(vocabulary_of(tokenizer)) is GenericVocabulary


def test_the_library_s_way_streams_too() -> None:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "play": 1, "##ing": 2, "now": 3}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    assert _stream(tokenizer, [1, 2, 3], []) == ["play", "ing", " now", ""]


def test_a_character_of_four_tokens_appears_once_and_whole() -> None:
    tokenizer = kinds.llama2()
    ids = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in "🙂".encode()]
    ids += [tokenizer.token_to_id("▁test")]
    assert _stream(tokenizer, ids, []) == ["", "", "", "", "🙂 test", ""]


def test_a_broken_character_becomes_what_the_library_makes_of_it() -> None:
    tokenizer = kinds.llama2()
    ids = [tokenizer.token_to_id("<0xE2>"), tokenizer.token_to_id("<0x82>"), tokenizer.token_to_id("▁a")]
    assert "".join(_stream(tokenizer, ids, [])) == tokenizer.decode(ids) == "\ufffd\ufffd a"
