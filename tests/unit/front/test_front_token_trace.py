"""Which tokens belong to which part of the text, however they arrive and wherever a stop string cuts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from trtbuild_front.engine import EngineContract, Update
from trtbuild_front.generation import Piece, Writer
from trtbuild_front.generation_request import GenerationRequest
from trtbuild_front.prompt import prepare
from trtbuild_front.text.model import TextModel, load_text_model
from trtbuild_front.text.token_bytes import token_bytes
from trtbuild_front.token_trace import ShownToken, TokenTrace

from tests.unit.front import kinds

CONTRACT = EngineContract(
    model="engine",
    inputs=frozenset({"input_ids", "input_lengths", "request_output_len", "end_id", "pad_id", "streaming"}),
    outputs=frozenset({"output_ids"}),
    has_batch_dimension=True,
    max_input_len=1000,
    max_seq_len=2000,
)
IDS = st.lists(st.integers(4, 419), max_size=30)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    return load_text_model(kinds.write_directory(tmp_path_factory.mktemp("t")), with_template=False)


def _write(text: TextModel, ids: Sequence[int], cuts: Sequence[int], stops: Sequence[str]) -> list[Piece]:
    """Return the pieces of an answer whose tokens arrive in parts; token number n has log probability -n."""
    request = GenerationRequest(text="a", stop_words=tuple(stops), wants_tokens=True, max_tokens=1000)
    writer = Writer(request, prepare(request, text, CONTRACT, 16), text)
    pieces = []
    borders = sorted({0, len(ids), *(cut % (len(ids) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(borders):
        part = tuple(ids[start:end])
        writer.feed([Update(token_ids=part, log_probs=tuple(-float(start + at) for at in range(len(part))))])
        if writer.must_cancel:
            break
        if (piece := writer.take()) is not None:
            pieces.append(piece)
    return [*pieces, writer.last()]


@given(
    ids=IDS, cuts=st.lists(st.integers(0, 30), max_size=6), stops=st.lists(st.text("abet .", min_size=1), max_size=2)
)
def test_tokens_are_the_text_s_however_they_arrive(
    text: TextModel, ids: list[int], cuts: list[int], stops: list[str]
) -> None:
    whole = _write(text, ids, [], stops)
    pieces = _write(text, ids, cuts, stops)
    shown = "".join(piece.text for piece in pieces)
    tokens = [token for piece in pieces for token in piece.tokens]
    assert (shown, tokens) == ("".join(p.text for p in whole), [token for piece in whole for token in piece.tokens])
    assert [token.token_id for token in tokens] == ids[: len(tokens)]
    assert [token.log_prob for token in tokens] == [-float(at) for at in range(len(tokens))]
    spelled = b"".join(token_bytes(text, token.token_id) for token in tokens).decode(errors="replace")
    if pieces[-1].finish_reason == "stop" and stops and shown != text.decode(ids):
        assert spelled.startswith(shown) or "\ufffd" in spelled
        assert all(token.offset < max(1, len(shown)) for token in tokens) or not shown
    else:
        assert (spelled, len(tokens)) == (shown, len(ids))
        assert shown == text.tokenizer.decode(ids)
    for piece, start in zip(pieces, _starts(pieces), strict=True):
        assert all(token.offset >= start for token in piece.tokens if token_bytes(text, token.token_id)) or stops


def _starts(pieces: Sequence[Piece]) -> list[int]:
    starts = [0]
    for piece in pieces:
        starts.append(starts[-1] + len(piece.text))
    return [max(0, start - 8) for start in starts[:-1]]  # what a stop string may have held back


@given(ids=IDS)
def test_offsets_are_where_the_text_of_a_token_begins(text: TextModel, ids: list[int]) -> None:
    tokens = [token for piece in _write(text, ids, [], []) for token in piece.tokens]
    decoded = text.tokenizer.decode(ids)
    for at, token in enumerate(tokens):
        before = text.tokenizer.decode(ids[:at]).rstrip("\ufffd")
        assert token.offset >= len(before) or not decoded.startswith(before)
        assert token.offset <= len(decoded)


def test_nothing_is_traced_for_who_does_not_ask(text: TextModel) -> None:
    request = GenerationRequest(text="a")
    writer = Writer(request, prepare(request, text, CONTRACT, 16), text)
    writer.feed([Update(token_ids=(5, 6))])
    assert writer.last().tokens == ()


def test_log_probabilities_that_are_missing_or_cumulative() -> None:
    trace = TokenTrace()
    trace.expect(2, (-1.0,))
    trace.expect(1, (-1.0, -2.0, -3.0))  # all so far: the last one is the new one
    for number in (7, 8, 9):
        trace.add(number, 1)
    assert trace.take(3) == (ShownToken(7, -1.0, 0), ShownToken(8, None, 1), ShownToken(9, -3.0, 2))


def test_a_token_waits_for_its_text() -> None:
    trace = TokenTrace()
    trace.expect(3, (0.0, 0.0, 0.0))
    trace.add(1, 2)
    trace.add(2, 0)  # the first half of a character
    trace.add(3, 1)
    assert [token.token_id for token in trace.take(1)] == []
    assert [token.token_id for token in trace.take(2)] == [1]
    assert [token.offset for token in trace.take(3)] == [2, 2]


@pytest.mark.parametrize("kind", sorted(kinds.KINDS))
def test_bytes_of_tokens_join_to_the_text(kind: str, tmp_path: Path) -> None:
    tokenizer: Tokenizer = kinds.KINDS[kind]()
    directory = kinds.write_directory(tmp_path)
    tokenizer.save(str(directory / "tokenizer.json"))
    text = load_text_model(directory, with_template=False)
    ids = [number for number in tokenizer.encode("the quick test é日. xx").ids if number > 3]
    joined = b"".join(token_bytes(text, number) for number in ids).decode()
    assert joined.lstrip(" ") == tokenizer.decode(ids).lstrip(" ") and len(ids) > 3
    assert token_bytes(text, 1) == b"</s>", "special tokens as they are written"
    assert token_bytes(text, 10**6) == b""


@pytest.mark.parametrize("kind", sorted(kinds.KINDS))
def test_special_tokens_are_kept_where_asked(kind: str, tmp_path: Path) -> None:
    tokenizer: Tokenizer = kinds.KINDS[kind]()
    directory = kinds.write_directory(tmp_path)
    tokenizer.save(str(directory / "tokenizer.json"))
    text = load_text_model(directory, with_template=False)
    ids = [*tokenizer.encode("the test", add_special_tokens=False).ids, 3, 0]
    decoder = text.detokenizer(skips_special_tokens=False)
    kept = "".join(decoder.feed((number,)) for number in ids) + decoder.finish()
    assert kept == tokenizer.decode(ids, skip_special_tokens=False)
    assert "<|end|>" in kept and "<|end|>" not in text.decode(ids)
