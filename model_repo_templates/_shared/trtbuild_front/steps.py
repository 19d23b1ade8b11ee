"""The two Python steps of TensorRT-LLM's ensemble, on arrays.

It decides what its tensors hold. It does not know Triton.

Source: TensorRT-LLM, ``triton_backend/all_models/inflight_batcher_llm/{preprocessing,postprocessing}``: config.pbtxt
and 1/model.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trtbuild_front import upstream
from trtbuild_front.engine import word_list
from trtbuild_front.faults import RequestError
from trtbuild_front.limits import MAX_TEXT_BYTES
from trtbuild_front.request import read_text, read_words
from trtbuild_front.text.model import TextModel, TooManyTokensError, size_bytes

Int32 = npt.NDArray[np.int32]


def _words(inputs: Mapping[str, npt.NDArray[Any]], name: str, rows: int) -> list[tuple[str, ...]]:
    """Return the strings of each row; empty ones mean "none", as clients send them."""
    array = inputs.get(name)
    return [() for _ in range(rows)] if array is None else [read_words(name, row) for row in array]


def _prompt(row: npt.NDArray[Any], text: TextModel, most_tokens: int, adds_special_tokens: bool) -> list[int]:
    """Return the tokens of one row of QUERY.

    Raises:
        RequestError: It is empty, no text, or too long for the engine.
    """
    query = "".join(read_text("QUERY", value, MAX_TEXT_BYTES) for value in row.reshape(-1))
    text.check_text("QUERY", size_bytes(query), most_tokens)
    try:
        ids = text.encode(query, most_tokens=most_tokens, adds_special_tokens=adds_special_tokens)
    except TooManyTokensError as error:
        raise RequestError(f"QUERY: the prompt has {error.seen}; this engine takes at most {most_tokens}") from None
    if not ids:
        raise RequestError("QUERY: the prompt is empty: it has no tokens")
    return ids


def _word_lists(rows: Sequence[Sequence[Sequence[int]]]) -> Int32:
    """Return ``int32[batch, 2, n]``, padded as the engine expects."""
    lists = [word_list(row) for row in rows]
    width = max(item.shape[1] for item in lists)
    out = np.zeros((len(lists), 2, width), np.int32)
    out[:, 1] = -1
    for at, item in enumerate(lists):
        out[at, :, : item.shape[1]] = item
    return out


def tokenize(
    inputs: Mapping[str, npt.NDArray[Any]],
    text: TextModel,
    *,
    adds_special_tokens: bool = True,
    most_tokens: int = MAX_TEXT_BYTES,
) -> dict[str, npt.NDArray[Any]]:
    """Return the outputs of ``preprocessing`` for inputs with a batch dimension.

    Args:
        inputs: By name.
        text: The model's tokenizer.
        adds_special_tokens: Whether the tokenizer's own special tokens (BOS) are added to prompts.
        most_tokens: Longest prompt that the engine takes.

    Raises:
        RequestError: A prompt is empty, too long or no text; there are too many stop or bad words; or the request asks
            for what the engine cannot do.
    """
    upstream.refuse(inputs, upstream.INPUTS)
    rows = inputs["QUERY"].shape[0]
    prompts = [_prompt(row, text, most_tokens, adds_special_tokens) for row in inputs["QUERY"]]
    stops = [[_word(word, text) for word in row] for row in _words(inputs, "STOP_WORDS_DICT", rows)]
    bad = [[ids for word in row for ids in text.encode_word(word)] for row in _words(inputs, "BAD_WORDS_DICT", rows)]
    default_end = text.end_ids[0] if text.end_ids else -1
    end_ids = np.array(inputs.get("END_ID", np.full((rows, 1), default_end)), np.int32).reshape(rows, 1)
    if "END_ID" not in inputs:
        stops = [[*row, *((number,) for number in text.end_ids[1:])] for row in stops]
    default_pad = text.pad_id if text.pad_id is not None else max(default_end, 0)
    pad_ids = np.array(inputs.get("PAD_ID", np.full((rows, 1), default_pad)), np.int32).reshape(rows, 1)
    input_ids = np.tile(pad_ids, (1, max(len(ids) for ids in prompts)))
    for at, ids in enumerate(prompts):
        input_ids[at, : len(ids)] = ids
    return {
        "INPUT_ID": input_ids,
        "REQUEST_INPUT_LEN": np.array([[len(ids)] for ids in prompts], np.int32),
        "REQUEST_OUTPUT_LEN": np.array(inputs["REQUEST_OUTPUT_LEN"], np.int32).reshape(rows, 1),
        "STOP_WORDS_IDS": _word_lists(stops),
        "BAD_WORDS_IDS": _word_lists(bad),
        "OUT_END_ID": end_ids,
        "OUT_PAD_ID": pad_ids,
        **_renamed(inputs, rows),
    }


_SPELLINGS = (("OUT_SEED", "SEED", "RANDOM_SEED"), ("OUT_MIN_TOKENS", "MIN_TOKENS", "MIN_LENGTH"))


def _renamed(inputs: Mapping[str, npt.NDArray[Any]], rows: int) -> dict[str, npt.NDArray[Any]]:
    """Return what the engine has under one name and clients under two, and whether answers leave out the prompt.

    Source: ``exclude_input_in_output`` is false unless set (TensorRT-LLM, triton_backend docs and tests).
    """
    out: dict[str, npt.NDArray[Any]] = {"OUT_EXCLUDE_INPUT": inputs.get("EXCLUDE_INPUT", np.zeros((rows, 1), np.bool_))}
    for name, new, old in _SPELLINGS:
        if new in inputs and old in inputs:
            raise RequestError(f"{new.lower()} and {old.lower()} are two spellings of one input; send one of them")
        if new in inputs or old in inputs:
            out[name] = inputs[new] if new in inputs else inputs[old]
    return out


def _word(word: str, text: TextModel) -> tuple[int, ...]:
    return tuple(text.encode(word, adds_special_tokens=False))


def detokenize(
    tokens: Int32, lengths: Int32, text: TextModel, *, skips_special_tokens: bool = True
) -> npt.NDArray[Any]:
    """Return the text of each sequence of the batch, one after another: ``bytes[sequences]``, as upstream does.

    Raises:
        RequestError: There are not as many tokens in each sequence as in every other.
    """
    if tokens.size % max(lengths.size, 1) or (tokens.size and not lengths.size):
        raise RequestError(
            f"TOKENS_BATCH: expected {lengths.size} sequences, as many as SEQUENCE_LENGTH has, got shape "
            f"{list(tokens.shape)}"
        )
    out = np.empty(lengths.size, np.object_)
    rows = tokens.reshape(lengths.size, -1).tolist() if lengths.size else []
    for at, (ids, length) in enumerate(zip(rows, lengths.reshape(-1).tolist(), strict=True)):
        part = ids[:length]
        out[at] = text.decode(part, skips_special_tokens=skips_special_tokens).encode()
    return out
