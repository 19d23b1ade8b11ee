"""Streamed text is the text: whatever the tokens and however they come."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models
from trtbuild_front.faults import EngineError
from trtbuild_front.text.decoder_chain import ChainVocabulary, WholeVocabulary
from trtbuild_front.text.detokenizer import (
    ByteLevelVocabulary,
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


STEPS = {
    "replace": lambda: decoders.Replace("▁", " "),
    "replace-a-pair": lambda: decoders.Replace("aa", "b"),
    "replace-by-expression": lambda: decoders.Replace(Regex("[ab]+|0x4"), "x"),
    "make-a-byte": lambda: decoders.Replace("B4", "<0x41>"),
    "fuse": decoders.Fuse,
    "bytes": decoders.ByteFallback,
    "byte-level": decoders.ByteLevel,
    "strip-left": lambda: decoders.Strip(" ", 2, 0),
    "strip-right": lambda: decoders.Strip("a", 0, 2),
    "metaspace": lambda: decoders.Metaspace(),
    "metaspace-never": lambda: decoders.Metaspace(prepend_scheme="never"),
    "word-piece": lambda: decoders.WordPiece(prefix="##", cleanup=True),
    "word-piece-raw": lambda: decoders.WordPiece(prefix="##", cleanup=False),
    "bpe": lambda: decoders.BPEDecoder(suffix="</w>"),
    "ctc": lambda: decoders.CTC(pad_token="<pad>", word_delimiter_token="|", cleanup=True),
    "ctc-raw": lambda: decoders.CTC(pad_token="<pad>", word_delimiter_token="|", cleanup=False),
}
PIECES = [
    "a", "aa", "b", "ab", " a", "a ", " ", "▁", "▁a", "a▁", "##ing", "##", "play", ".", "n't", "'s", "a</w>", "</w>",
    "<pad>", "|", "a|", "<0xF0>", "<0x9F>", "<0x99>", "<0x82>", "<0x41>", "B4", "0x4", "é",
    "Ġthe", "Ã", "©", "日", "do not", "�",
]  # fmt: skip


@functools.cache
def _with_decoder(names: tuple[str, ...]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE({piece: number for number, piece in enumerate(PIECES)}, []))
    if names:
        tokenizer.decoder = decoders.Sequence([STEPS[name]() for name in names])
    return tokenizer


def _library(tokenizer: Tokenizer, ids: list[int]) -> str | None:
    """Return what the library makes of it, None where it panics (``Strip`` of more than there is)."""
    try:
        return str(tokenizer.decode(ids))
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        return None


@given(data=st.data())
@settings(max_examples=1500, deadline=None)
def test_any_chain_of_decoders_equals_the_library(data: st.DataObject) -> None:
    names = tuple(data.draw(st.lists(st.sampled_from(sorted(STEPS)), max_size=4)))
    tokenizer = _with_decoder(names)
    ids = data.draw(st.lists(st.integers(0, len(PIECES) + 1), max_size=14))
    expected = _library(tokenizer, ids)
    vocabulary = _vocabulary(tokenizer)
    if expected is not None:
        assert "".join(_stream(tokenizer, ids, data.draw(CUTS))) == expected
    elif not isinstance(vocabulary, WholeVocabulary):
        _stream(tokenizer, ids, [])  # no panic of ours


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        pytest.param((), ChainVocabulary, id="none"),
        pytest.param(("word-piece",), ChainVocabulary, id="word-piece"),
        pytest.param(("bpe",), ChainVocabulary, id="bpe"),
        pytest.param(("ctc",), ChainVocabulary, id="ctc"),
        pytest.param(("replace-by-expression", "bytes", "fuse"), ChainVocabulary, id="expression-of-a-token"),
        pytest.param(("fuse", "strip-right"), ChainVocabulary, id="strip-at-the-end"),
        pytest.param(("fuse", "replace-by-expression"), WholeVocabulary, id="expression-of-the-text"),
        pytest.param(("byte-level", "word-piece"), WholeVocabulary, id="clean-up-of-the-text"),
    ],
)
def test_other_decoders_are_run_step_by_step_where_that_is_exact(names: tuple[str, ...], expected: type) -> None:
    assert type(vocabulary_of(_with_decoder(names))) is expected


def test_what_cannot_be_run_step_by_step_comes_at_the_end_and_costs_one_decoding() -> None:
    tokenizer = _with_decoder(("fuse", "replace-by-expression"))
    assert _stream(tokenizer, [0, 1, 2], []) == ["", "", "", "x"]
    vocabulary = vocabulary_of(tokenizer)
    assert isinstance(vocabulary, WholeVocabulary)
    assert vocabulary.reason == "decoder Replace of a whole text"


@pytest.mark.parametrize("kind", ["llama2", "metaspace", "byte_level"])
@given(data=st.data())
@settings(max_examples=60)
def test_an_echo_is_the_decoding_of_the_whole(kind: str, data: st.DataObject) -> None:
    tokenizer = kinds.KINDS[kind]()
    ids = st.lists(st.integers(0, tokenizer.get_vocab_size() - 1), max_size=12)
    prompt, completion = data.draw(ids), data.draw(ids)
    assert "".join(_stream(tokenizer, [*prompt, *completion], [len(prompt) or 1])) == tokenizer.decode(
        prompt + completion
    )


def test_word_pieces_stream() -> None:
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


def test_a_panic_of_the_library_while_decoding_is_an_error_of_the_request() -> None:
    tokenizer = _with_decoder(("strip-right", "fuse", "replace-by-expression"))
    assert _library(tokenizer, [0]) is None
    detokenizer = vocabulary_of(tokenizer).start()
    detokenizer.feed([0])
    with pytest.raises(EngineError, match="the tokenizers library failed on this request"):
        detokenizer.finish()
